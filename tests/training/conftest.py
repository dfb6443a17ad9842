"""A small curated OUT, and a recipe that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from curation.demo_bucket import Shape, VideoFormat, pan_clip, scenery_clip, talking_face_clip
from tests.support.command_line import twinreel
from tests.support.in_process import InProcessEngine
from tests.support.moto_bucket import moto_bucket, upload_folder
from tests.support.shared_folders import shared_folder

FAST = VideoFormat(options={"preset": "ultrafast"})
WIDE, TALL = Shape(160, 90, 24, 2.2, video=FAST), Shape(90, 160, 24, 2.2, video=FAST)

TINY = """
steps: 6
batch: 4
micro_batch: 2
tasks: {t2av: 0.5, i2av: 0.3, a2v: 0.1, v2a: 0.1}
model: {dim: 32, ffn_dim: 64, freq_dim: 16, heads: 2, layers: 2}
video: {area_px: 512, frames: 49, codec: {kind: pixels, patch: 4, frames: 8, terms: 1}}
audio: {codec: {kind: log-mel, mels: 16, frames: 4}}
text: {kind: bytes, dim: 16, length: 16, stride: 16, layers: 1, heads: 2}
optimizer: {learning_rate: 1.0e-3}
evaluation: {every: 1000, samples: 4}
checkpoint: {every: 3}
log: {every: 1, sample_ids: true}
sampling: {steps: 4}
"""


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT with eleven kept samples in two shapes, of which some are held out; not to be changed."""
    return shared_folder(tmp_path_factory, "training", _curate) / "out"


def _curate(folder: Path) -> None:
    raw = folder / "raw"
    raw.mkdir()
    for seed in range(7):
        scenery_clip(raw / f"scene_{seed}.mp4", seed=seed, shape=WIDE)
    scenery_clip(raw / "tall.mp4", seed=20, shape=TALL)
    pan_clip(raw / "pan.mp4", speed_px_s=60.0, seed=21, shape=WIDE)
    for seed in (30, 31):
        talking_face_clip(raw / f"face_{seed}.mp4", seed=seed, shape=WIDE)
    # Which files are held out, and in what order samples come, follows from the hash of the uri: in
    # a bucket it is the same wherever the tests run.
    settings = (
        "split.held_out_share=0.3", "clip.frames=49", "pack.area_px=6400", "pack.preset=ultrafast",
        "gates.sync_offset=", "gates.sync_confidence=",
    )  # fmt: skip
    assignments = [part for setting in settings for part in ("--set", setting)]
    with (
        moto_bucket("training") as client,
        mock.patch("curation.curate.Engine", InProcessEngine()),
    ):
        upload_folder(client, raw, "training", "raw/")
        finished = twinreel("curate", "s3://training/raw", "--out", folder / "out", *assignments)
    assert finished.code == 0, finished.err


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file."""
    path = tmp_path_factory.mktemp("recipe") / "test.yaml"
    path.write_text(TINY)
    return path
