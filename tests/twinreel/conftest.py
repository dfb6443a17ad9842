"""A curated folder that the tests of the Python face look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.demo_bucket import Shape, VideoFormat, scenery_clip
from tests.support.command_line import twinreel_process
from tests.support.shared_folders import shared_folder

SHORT = Shape(320, 180, 24, 1.2, video=VideoFormat(options={"preset": "ultrafast"}))
"""A little longer than 25 frames."""


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT with five kept samples of 25 frames, and the raw files in `raw` beside it."""

    def build(folder: Path) -> None:
        (folder / "raw").mkdir()
        for seed in range(5):
            scenery_clip(folder / "raw" / f"{seed}.mp4", seed=seed, shape=SHORT, audio="room")
        finished = twinreel_process(
            "curate", folder / "raw", "--out", folder / "out", "--set", "clip.frames=25",
            "--set", "pack.area_px=14400", "--set", "pack.preset=ultrafast",
            "--set", "split.held_out_share=0",
        )  # fmt: skip
        assert finished.code == 0, finished.err

    return shared_folder(tmp_path_factory, "face", build) / "out"
