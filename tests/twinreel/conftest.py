"""A curated folder that the tests of the Python face look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import SMALL_SAMPLES, render_small, twinreel_process
from tests.support.shared_folders import shared_folder


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT with five kept samples of 320 x 180, and the raw files in `raw` beside it."""

    def build(folder: Path) -> None:
        for seed in range(5):
            render_small(folder / "raw" / f"{seed}.mp4", seed)
        finished = twinreel_process(
            "curate", folder / "raw", "--out", folder / "out", *SMALL_SAMPLES,
            "--set", "split.held_out_share=0",
        )  # fmt: skip
        assert finished.code == 0, finished.err

    return shared_folder(tmp_path_factory, "face", build) / "out"
