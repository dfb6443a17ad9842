"""Stills: the picture that is on show at a time, upright, inside its margins, at the size asked."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.demo_bucket.render import VideoFormat, render_video
from curation.demo_bucket.scenes import textured_picture
from manifests.errors import MediaError
from stages.media.blocks import Margins
from stages.media.probe import probe
from stages.media.sampled_frames import sampled_frames
from tests.support.watching import Rgb

NEAR_LOSSLESS = {"crf": "1"}


def grey(level: int, width: int = 160, height: int = 96) -> Rgb:
    return np.full((height, width, 3), level, np.uint8)


def levels(path: Path, times_s: list[float], *, start_s: float = 0.0, end_s: float) -> list[int]:
    """Grey levels of what is shown at some times, to the nearest ten."""
    found = sampled_frames(str(path), probe(str(path)), start_s, end_s, times_s)
    return [round(float(image.mean()) / 10) * 10 for image in found]


def stairs(path: Path, times_s: list[float]) -> Path:
    """A clip whose pictures are 10, 20, 30 ... bright."""
    video = VideoFormat(options=NEAR_LOSSLESS)
    render_video(path, ((t, grey(10 * i + 10)) for i, t in enumerate(times_s)), video=video)
    return path


def test_the_picture_on_show_is_given_in_the_order_of_the_times(tmp_path: Path) -> None:
    path = stairs(tmp_path / "stairs.mp4", [0.0, 0.1, 0.2, 0.7, 0.75, 1.5])
    assert levels(path, [0.2, 0.0, 0.699, 0.7, 0.19, 0.2], end_s=1.6) == [30, 10, 30, 40, 20, 30]


def test_times_outside_get_the_nearest_picture_of_the_clip(tmp_path: Path) -> None:
    path = stairs(tmp_path / "stairs.mp4", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert levels(path, [-1.0, 9.0], start_s=0.2, end_s=0.4) == [30, 40]
    late = stairs(tmp_path / "late.mkv", [0.5, 0.6, 0.7])
    assert levels(late, [0.0, 0.3], end_s=2.0) == levels(late, [0.5, 0.5], end_s=2.0)


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_stills_stand_upright_without_margins(tmp_path: Path, rotation_deg: int) -> None:
    displayed = np.zeros((240, 320, 3), np.uint8)
    inner = textured_picture(260, 200, seed=3)
    displayed[20:220, 40:300] = inner
    stored = np.ascontiguousarray(np.rot90(displayed, -rotation_deg // 90))
    path = tmp_path / "turned.mp4"
    video = VideoFormat(rotation_deg=rotation_deg, options=NEAR_LOSSLESS)
    render_video(path, ((i / 25, stored) for i in range(3)), video=video)
    margins_px = Margins(top=20, bottom=20, left=40, right=20)
    (image,) = sampled_frames(str(path), probe(str(path)), 0.0, 0.12, [0.05], margins_px=margins_px)
    assert image.shape == inner.shape
    assert np.abs(image.astype(int) - inner).mean() < 4


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (96, 160)),
        ({"short_side_px": 48}, (48, 80)),
        ({"short_side_px": 192}, (192, 320)),
        ({"short_side_px": 192, "max_long_side_px": 160}, (96, 160)),
        ({"max_long_side_px": 1000}, (96, 160)),
        ({"max_long_side_px": 55}, (33, 55)),
    ],
)
def test_sizes(tmp_path: Path, sizes: dict[str, int], shape: tuple[int, int]) -> None:
    path = stairs(tmp_path / "stairs.mp4", [0.0, 0.1])
    (image,) = sampled_frames(str(path), probe(str(path)), 0.0, 0.2, [0.0], **sizes)
    assert image.shape == (*shape, 3)
    assert image.dtype == np.uint8


def test_deep_pictures_and_wide_pixels(tmp_path: Path) -> None:
    scene = textured_picture(160, 96, seed=5)
    path = tmp_path / "deep.mkv"
    video = VideoFormat(
        codec="libx265", pixel_format="yuv420p10le", pixel_aspect=Fraction(2), options={"crf": "1"}
    )
    render_video(path, ((i / 25, scene) for i in range(3)), video=video)
    (image,) = sampled_frames(str(path), probe(str(path)), 0.0, 0.12, [0.05])
    assert image.shape == (96, 320, 3)
    assert np.abs(cv2.resize(image, (160, 96)).astype(int) - scene).mean() < 6


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("audio_speech_en_jfk.flac", "no_video"),
        ("odd_interlaced_tff_mpeg2.mkv", None),
        ("broken_bitstream_corrupted.mp4", None),
    ],
)
def test_real_sources(given_clips: Path, name: str, code: str | None) -> None:
    uri = str(given_clips / name)
    if code is None:
        images = sampled_frames(uri, probe(uri), 0.5, 2.0, [0.5, 1.0, 1.9], short_side_px=64)
        assert [image.shape for image in images] == [images[0].shape] * 3
        return
    with pytest.raises(MediaError) as raised:
        sampled_frames(uri, probe(uri), 0.5, 2.0, [0.5])
    assert raised.value.code == code


def test_margins_as_large_as_the_picture_are_an_error(tmp_path: Path) -> None:
    path = stairs(tmp_path / "stairs.mp4", [0.0, 0.1])
    with pytest.raises(MediaError) as raised:
        sampled_frames(str(path), probe(str(path)), 0.0, 0.2, [0.0], margins_px=Margins(48, 48))
    assert raised.value.code == "no_picture_left"
