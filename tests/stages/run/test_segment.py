"""Clips partition the decodable time, whatever the cuts."""

from __future__ import annotations

import itertools

import pytest

from stages.run.segment import ClipSettings, Shot, clip_id, cut_unit

WINDOW_S = 121 / 24


def unit(start_s: float, end_s: float, damaged: list[dict[str, float]] | None = None) -> dict:
    return {
        "unit_index": 0,
        "decoded_start_s": start_s,
        "decoded_end_s": end_s,
        "damaged": damaged or [],
    }


def test_full_windows_and_a_remainder_per_shot() -> None:
    shots = [Shot(0, 0.0, 12.0), Shot(1, 12.0, 17.0417)]
    clips = cut_unit("s", unit(0.0, 17.0417), shots, ClipSettings(), "seg")
    kinds = [(clip.first_shot, clip.window) for clip in clips]
    assert kinds == [(0, "full"), (0, "full"), (0, "remainder"), (1, "full")]
    assert clips[0].end_s - clips[0].start_s == pytest.approx(WINDOW_S, abs=1e-6)


@pytest.mark.parametrize("end_s", [0.04, 5.0, 5.03, 5.0417, 10.0833334, 123.456])
@pytest.mark.parametrize("multi_shot", [False, True])
def test_clips_are_a_partition(end_s: float, multi_shot: bool) -> None:
    shots = [Shot(0, 0.02, end_s / 3), Shot(1, end_s / 3, end_s)] if end_s > 0.07 else []
    settings = ClipSettings(multi_shot=multi_shot)
    clips = cut_unit("s", unit(0.02, end_s), shots, settings, "seg")
    assert clips[0].start_s == 0.02
    assert clips[-1].end_s == pytest.approx(end_s, abs=1e-6)
    for before, after in itertools.pairwise(clips):
        assert before.end_s == after.start_s
    assert len({clip.clip_id for clip in clips}) == len(clips)


def test_multi_shot_windows_run_across_cuts() -> None:
    shots = [Shot(0, 0.0, 3.0), Shot(1, 3.0, 6.0)]
    clips = cut_unit("s", unit(0.0, 6.0), shots, ClipSettings(multi_shot=True), "seg")
    assert (clips[0].first_shot, clips[0].last_shot, clips[0].window) == (0, 1, "full")
    assert (clips[1].first_shot, clips[1].window) == (1, "remainder")


def test_a_shorter_window_is_kept_where_asked() -> None:
    settings = ClipSettings(min_frames=73)
    clips = cut_unit("s", unit(0.0, WINDOW_S + 3.1), [], settings, "seg")
    assert [clip.window for clip in clips] == ["full", "short"]


def test_a_source_of_exactly_the_length_is_one_full_window() -> None:
    # 121 pictures at 24 fps, as a container's time base rounds them.
    clips = cut_unit("s", unit(0.0, 5.0416), [Shot(0, 0.0, 5.0416)], ClipSettings(), "seg")
    assert [clip.window for clip in clips] == ["full"]


def test_damage_is_counted_where_it_lies() -> None:
    damaged = [{"start_s": 4.0, "end_s": 6.0}]
    clips = cut_unit("s", unit(0.0, 20.0, damaged), [], ClipSettings(), "seg")
    assert clips[0].damaged_s == pytest.approx(WINDOW_S - 4.0, abs=1e-5)
    assert clips[1].damaged_s == pytest.approx(6.0 - WINDOW_S, abs=1e-5)
    assert [clip.damaged_s for clip in clips[2:]] == [0.0, 0.0]


def test_the_same_span_is_the_same_clip_however_it_was_cut() -> None:
    assert clip_id("s", 0.0, 5.041667) == clip_id("s", 0.0, 5.0416670001)
    assert clip_id("s", 0.0, 5.041667) != clip_id("t", 0.0, 5.041667)
