"""What all tests share: the folders of real clips, and how many threads a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"
_LONG_FOLDERS = ("training", "curation")
"""Their files take longest and come first: else one worker would end alone with the last."""

# Before anything imports numpy, torch or OpenCV, and for all processes that tests start: on small
# arrays several threads cost more than they give, and the cores belong to the other workers.
for _name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
):
    os.environ.setdefault(_name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which workers take them."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] not in _LONG_FOLDERS)


@pytest.fixture(scope="session")
def given_clips() -> Path:
    """Real clips with labels, beside the repository."""
    return SHARED / "clips" / "given"
