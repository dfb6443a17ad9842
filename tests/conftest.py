"""What all tests share: the folders of real clips, and rendered ones."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def given_clips() -> Path:
    """Real clips with labels, beside the repository."""
    return SHARED / "clips" / "given"
