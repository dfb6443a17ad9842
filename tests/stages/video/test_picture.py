"""Picture quality: margins to the pixel, whatever the orientation, and what exposure does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from curation.demo_bucket.scenes import textured_picture, with_margins
from manifests.errors import UsageError
from manifests.store.records import arrow_schema, to_mapping
from stages.base.clip import NotApplicable
from stages.video.picture import Margins, PictureParameters, PictureRecord, PictureStage
from tests.support.watching import Rgb, summary, watch_arrays, watch_file

TIMES_S = np.arange(0.0, 2.0, 0.1)


def measured(images: list[Rgb], start_s: float = 0.0, end_s: float = 2.0, **shape: Any) -> Any:
    stage = PictureStage(PictureParameters())
    observation = watch_arrays(stage, images, TIMES_S[: len(images)], 2.0, **shape)
    return summary(stage, observation, start_s, end_s)


def noisy(picture: Rgb, deviation: float = 1.5) -> Rgb:
    noise = np.random.default_rng(0).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 10])
def test_margins_of_a_noisy_letterbox(bits: int) -> None:
    scene = textured_picture(1280, 720, seed=1)
    framed = noisy(with_margins(scene, top=90, bottom=86, left=0, right=0))
    record = measured([framed] * len(TIMES_S), bits=bits)
    assert record.margins_px == Margins(90, 86, 0, 0)
    assert (record.active_width_px, record.active_height_px) == (1280, 720 - 176)


@pytest.mark.parametrize(
    ("rotation_deg", "expected"),
    [
        (0, Margins(40, 30, 100, 90)),
        (90, Margins(100, 90, 30, 40)),
        (180, Margins(30, 40, 90, 100)),
        (270, Margins(90, 100, 40, 30)),
    ],
)
def test_margins_are_those_of_the_displayed_picture(rotation_deg: int, expected: Margins) -> None:
    framed = with_margins(textured_picture(640, 360, seed=2), top=40, bottom=30, left=100, right=90)
    record = measured([framed] * len(TIMES_S), rotation_deg=rotation_deg)
    assert record.margins_px == expected
    sides = (450, 290) if rotation_deg in (0, 180) else (290, 450)
    assert (record.active_width_px, record.active_height_px) == sides


def test_margins_count_square_pixels() -> None:
    framed = with_margins(textured_picture(720, 480, seed=3), left=60, right=60)
    record = measured([framed] * len(TIMES_S), aspect=32 / 27)
    assert record.margins_px.left == pytest.approx(60 * 32 / 27, abs=1)
    assert record.active_width_px == pytest.approx(600 * 32 / 27, abs=3)


def test_margins_are_what_holds_all_the_time() -> None:
    scene = textured_picture(640, 360, seed=4)
    narrow, wide = with_margins(scene, top=40, bottom=40), with_margins(scene, top=60, bottom=40)
    black = np.zeros_like(scene)
    half = len(TIMES_S) // 2
    assert measured([narrow] * half + [wide] * half).margins_px == Margins(40, 40, 0, 0)
    # A black picture says nothing of the margins, a full one says that there are none.
    assert measured([narrow] * half + [black] * half).margins_px == Margins(40, 40, 0, 0)
    assert measured([narrow] * half + [scene] * half).margins_px == Margins(0, 0, 0, 0)
    # The clip after the cut has its own.
    assert measured([scene] * half + [wide] * half, 1.0, 2.0).margins_px == Margins(60, 40, 0, 0)


def test_a_dark_scene_has_no_margins() -> None:
    night = np.zeros((360, 640, 3), np.uint8)
    cv2.circle(night, (320, 180), 110, (180, 160, 140), -1)
    assert measured([night] * len(TIMES_S)).margins_px == Margins(0, 0, 0, 0)


def test_all_black_has_no_known_margins() -> None:
    record = measured([np.zeros((360, 640, 3), np.uint8)] * len(TIMES_S))
    assert record.margins_px is None and record.active_width_px is None
    assert record.dark_clipped == 1.0
    assert record.contrast == 0.0


def test_blur_exposure_and_contrast_follow_the_picture_inside_its_margins() -> None:
    scene = textured_picture(1280, 720, seed=5)
    sharp = measured([scene] * len(TIMES_S))
    blurred = measured([np.asarray(cv2.GaussianBlur(scene, (0, 0), 6))] * len(TIMES_S))
    assert blurred.blur < sharp.blur / 10
    framed = measured([with_margins(scene, top=90, bottom=90)] * len(TIMES_S))
    assert framed.dark_clipped == pytest.approx(sharp.dark_clipped, abs=0.02)
    assert framed.blur == pytest.approx(sharp.blur, rel=0.25)
    flat = measured([(scene // 4 + 96).astype(np.uint8)] * len(TIMES_S))
    assert flat.contrast == pytest.approx(sharp.contrast / 4, rel=0.15)
    bright = measured([np.asarray(cv2.convertScaleAbs(scene, alpha=6.0))] * len(TIMES_S))
    assert bright.bright_clipped > 0.3 > sharp.bright_clipped
    assert bright.mean_luma > sharp.mean_luma + 60


def test_a_clip_between_two_samples_is_described_by_what_is_on_show() -> None:
    stage = PictureStage(PictureParameters())
    images = [np.full((360, 640, 3), level, np.uint8) for level in (50, 200)]
    observation = watch_arrays(stage, images, [0.0, 5.0], 10.0)
    assert summary(stage, observation, 3.0, 4.0).mean_luma == pytest.approx(50, abs=1)


def test_nothing_seen_is_not_applicable() -> None:
    stage = PictureStage(PictureParameters())
    observation = watch_arrays(stage, [np.zeros((360, 640, 3), np.uint8)], [0.0], 1.0)
    empty = {name: np.full(4, np.nan) for name in stage.series}
    signals = type(observation.signals)(0.0, 4.0, empty)
    assert isinstance(stage.summarise(signals, 0.0, 1.0, {}), NotApplicable)


def test_the_record_fits_its_schema() -> None:
    record = measured([textured_picture(640, 360, seed=6)] * len(TIMES_S))
    assert set(to_mapping(record)) == set(arrow_schema(PictureRecord).names)


def test_an_unknown_backend_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown_backend"):
        PictureStage(PictureParameters(backend="magick"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("multishot_sintel_letterbox_fades_30s.mp4", Margins(56, 54, 0, 0)),
        ("pillarboxed_bw_film_music.mp4", Margins(0, 0, 71, 71)),
        ("odd_vp9_opus_silent_track.webm", Margins(0, 0, 0, 0)),
        ("talking_head_portrait_hevc_01.mp4", Margins(0, 0, 0, 0)),
    ],
)
def test_margins_of_real_clips(given_clips: Path, name: str, expected: Margins) -> None:
    stage = PictureStage(PictureParameters())
    _, observation, start_s, end_s = watch_file(stage, given_clips / name)
    found = summary(stage, observation, start_s, end_s).margins_px
    for side in ("top", "bottom", "left", "right"):
        assert getattr(found, side) == pytest.approx(getattr(expected, side), abs=2)
