"""A publisher of made-up weights, and an empty weights folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.weights import download
from stages.weights.find import MIRROR_VARIABLE, OFFLINE_VARIABLE, WEIGHTS_VARIABLE
from tests.support.publisher import Publisher, publisher


@pytest.fixture
def hub() -> Iterator[Publisher]:
    with publisher() as state:
        yield state


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first weights folder; the last one is in an empty home."""
    for name in (MIRROR_VARIABLE, OFFLINE_VARIABLE, "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setattr(download, "_RETRY_WAITS_S", (0.0, 0.0, 0.0))
    return tmp_path / "weights"
