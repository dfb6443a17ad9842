"""Motion: speeds of known pans, camera against subject, and pictures that repeat or are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from curation.demo_bucket.render import render_video
from curation.demo_bucket.scenes import (
    Grain,
    frame_times_s,
    panned,
    textured_picture,
    variable_frame_times_s,
)
from manifests.errors import UsageError
from stages.video.motion.stage import MotionParameters, MotionStage, missing_times
from tests.support.watching import Rgb, summary, watch_arrays, watch_file

WIDTH, HEIGHT = 1280, 720
STATED = 256 / HEIGHT


def measured(images: list[Rgb], times_s: np.ndarray, end_s: float) -> Any:
    stage = MotionStage(MotionParameters())
    observation = watch_arrays(stage, images, times_s, end_s)
    return summary(stage, observation, float(times_s[0]), end_s)


@pytest.mark.parametrize("speed_px_s", [100.0, -300.0, 600.0])
@pytest.mark.parametrize("rate", [25.0, 60.0])
def test_speed_of_a_pan(speed_px_s: float, rate: float) -> None:
    times_s = frame_times_s(2.5, rate)
    canvas = textured_picture(WIDTH + round(abs(speed_px_s) * 2.5) + 4, HEIGHT, seed=1)
    record = measured(list(panned(canvas, WIDTH, times_s, speed_px_s)), times_s, 2.5)
    expected = abs(speed_px_s) * STATED
    assert record.score_px_s == pytest.approx(expected, rel=0.1)
    assert record.camera_px_s == pytest.approx(expected, rel=0.1)
    assert record.subject_px_s < 0.15 * expected
    assert record.static_share == 0.0
    assert record.frozen_share == 0.0


def test_speed_does_not_depend_on_size_or_uneven_times() -> None:
    times_s = variable_frame_times_s(3.0, seed=1)
    canvas = textured_picture(640 + 400, 360, seed=1)
    record = measured(list(panned(canvas, 640, times_s, 120.0)), times_s, 3.0)
    assert record.camera_px_s == pytest.approx(120.0 * 256 / 360, rel=0.1)


def test_a_moving_subject_is_not_the_camera() -> None:
    times_s = frame_times_s(3.0, 25.0)
    scene, thing = textured_picture(640, 360, seed=2), textured_picture(140, 140, seed=3)
    images = []
    for time_s in times_s:
        image = scene.copy()
        left = round(40 + 120 * time_s)
        image[110:250, left : left + 140] = thing
        images.append(image)
    record = measured(images, times_s, 3.0)
    # 120 px/s of a 360 px high picture over 140 x 140 of 640 x 360 px.
    expected = 120 * 256 / 360 * (140 * 140) / (640 * 360)
    assert record.subject_px_s == pytest.approx(expected, rel=0.4)
    assert record.camera_px_s < 0.25 * record.subject_px_s


def test_a_still_camera_with_grain_is_static_and_not_frozen() -> None:
    times_s = frame_times_s(3.0, 25.0)
    scene, grain = textured_picture(640, 360, seed=4), Grain(640, 360, seed=0)
    record = measured([grain.over(scene) for _ in times_s], times_s, 3.0)
    assert record.static_share == 1.0
    assert record.frozen_share == 0.0


def test_a_zoom_is_the_camera() -> None:
    times_s = frame_times_s(2.0, 25.0)
    scene = textured_picture(640, 360, seed=5)
    images = [
        np.asarray(
            cv2.warpAffine(scene, cv2.getRotationMatrix2D((320, 180), 0, 1 + 0.2 * t), (640, 360)),
            dtype=np.uint8,
        )
        for t in times_s
    ]
    record = measured(images, times_s, 2.0)
    assert record.camera_px_s > 10
    assert record.subject_px_s < 0.2 * record.camera_px_s


def test_cuts_are_no_motion() -> None:
    times_s = frame_times_s(4.0, 25.0)
    scenes = [textured_picture(640, 360, seed=seed) for seed in range(20)]
    # A cut every 0.2 s: many of the pairs straddle one.
    images = [scenes[int(time_s / 0.2 + 1e-6) % 20] for time_s in times_s]
    record = measured(images, times_s, 4.0)
    assert record.score_px_s is None or record.score_px_s < 1.0


def test_repeated_and_missing_pictures_are_shares_of_their_clip() -> None:
    times_s = frame_times_s(4.0, 25.0)
    canvas = textured_picture(640 + 1200, 360, seed=6)
    images = list(panned(canvas, 640, times_s, 250.0))
    for index in range(50, 100, 2):
        images[index + 1] = images[index]
    kept = [index for index in range(100) if not 10 <= index < 20]
    stage = MotionStage(MotionParameters())
    observation = watch_arrays(stage, [images[i] for i in kept], times_s[kept], 4.0)
    first = summary(stage, observation, 0.0, 2.0)
    second = summary(stage, observation, 2.0, 4.0)
    assert first.dropped_share == pytest.approx(0.2, abs=0.01)
    assert first.frozen_share == 0.0
    assert second.frozen_share == pytest.approx(0.5, abs=0.02)
    assert second.dropped_share == 0.0


def test_a_low_or_jittering_rate_lacks_nothing() -> None:
    assert len(missing_times(np.arange(8, dtype=np.float64) * 0.5, 0.5)) == 0
    rng = np.random.default_rng(0)
    jittered = np.arange(100) / 25.0 + rng.uniform(-0.008, 0.008, 100)
    assert len(missing_times(jittered, 0.04)) == 0
    gap = np.concatenate([np.arange(50.0), np.arange(53.0, 100.0)]) / 25.0
    assert missing_times(gap, 0.04) == pytest.approx([2.0, 2.04, 2.08])


def test_an_encoded_still_is_frozen(tmp_path: Path) -> None:
    times_s = frame_times_s(4.0, 25.0)
    scene = textured_picture(640, 360, seed=7)
    path = tmp_path / "still.mp4"
    render_video(path, ((float(time_s), scene) for time_s in times_s))
    stage = MotionStage(MotionParameters())
    _, observation, start_s, end_s = watch_file(stage, path)
    record = summary(stage, observation, start_s, end_s)
    # The first picture repeats nothing, and the encoder refines a few after every key frame.
    assert record.frozen_share > 0.85
    assert record.static_share == 1.0


def test_an_unknown_backend_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown_backend"):
        MotionStage(MotionParameters(backend="raft"))


@pytest.mark.parametrize(
    ("name", "camera_px_s", "frozen_share", "dropped_share"),
    [
        ("static_painting_silent_track.mp4", (0, 0.5), (0.95, 1), (0, 0)),
        ("pillarboxed_bw_film_music.mp4", (0, 5), (0.15, 0.4), (0, 0)),
        ("sports_basketball_handheld_no_audio.mp4", (30, 120), (0, 0.02), (0, 0)),
        ("nature_herd_2fps.mp4", (0, 5), (0, 0), (0, 0)),
        ("talking_head_en_grid_m1.mpg", (0, 5), (0, 0.05), (0, 0)),
    ],
)
def test_real_clips(
    given_clips: Path,
    name: str,
    camera_px_s: tuple[float, float],
    frozen_share: tuple[float, float],
    dropped_share: tuple[float, float],
) -> None:
    stage = MotionStage(MotionParameters())
    _, observation, start_s, end_s = watch_file(stage, given_clips / name)
    record = summary(stage, observation, start_s, end_s)
    assert camera_px_s[0] <= record.camera_px_s <= camera_px_s[1]
    assert frozen_share[0] <= record.frozen_share <= frozen_share[1]
    assert dropped_share[0] <= record.dropped_share <= dropped_share[1]
