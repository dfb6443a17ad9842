"""Samples' bytes at the size that a model trains on."""

from __future__ import annotations

from pathlib import Path

from curation.demo_bucket import Shape, scenery_clip
from training.data.media import read_frames


def test_frames_are_cropped_and_not_squeezed(tmp_path: Path) -> None:
    """A square out of 320 x 180 is the middle 180 x 180."""
    clip = tmp_path / "clip.mp4"
    scenery_clip(clip, seed=3, shape=Shape(320, 180, 25, 0.5))
    square = read_frames(clip.read_bytes(), "mp4", frames=9, width=60, height=60, subject="clip")
    assert square.shape == (3, 9, 60, 60)
    whole = read_frames(clip.read_bytes(), "mp4", frames=9, width=107, height=60, subject="clip")
    middle = whole[..., 23:83]
    assert (square - middle).abs().mean() < 0.03
    assert (square - whole[..., :60]).abs().mean() > 0.1
