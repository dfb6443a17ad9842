"""Blocks of sound get their places by counting; times are followed where a gap is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from manifests.errors import MediaError
from stages.media.sample_clock import Block, SampleClock, StreamStart

RATE_HZ = 48_000
LENGTH = 1024


def places(
    times_s: Sequence[float | None],
    *,
    lengths: Sequence[int] | None = None,
    tick_s: float = 0.001,
    start: StreamStart | None = None,
    from_start: bool = True,
) -> list[int]:
    clock = SampleClock(RATE_HZ, tick_s, start=start, from_start=from_start)
    lengths = lengths or [LENGTH] * len(times_s)
    found = []
    for time_s, length in zip(times_s, lengths, strict=True):
        found += [
            first for first, _ in clock.push(Block(time_s, np.zeros((length, 1), np.float32)))
        ]
    found += [first for first, _ in clock.finish()]
    assert len(found) == len(times_s)
    return found


def rounded(firsts: Sequence[int], tick_s: float = 0.001) -> list[float]:
    return [round(first / RATE_HZ / tick_s) * tick_s for first in firsts]


def in_a_row(count: int, start: int = 0) -> list[int]:
    return [start + index * LENGTH for index in range(count)]


def test_rounded_times_leave_no_joints() -> None:
    assert places(rounded(in_a_row(200))) == in_a_row(200)


def test_a_gap_is_followed_where_it_is() -> None:
    firsts = [*in_a_row(50), *in_a_row(50, 50 * LENGTH + 2_345)]
    found = places(rounded(firsts))
    assert found[:50] == firsts[:50]
    assert np.abs(np.array(found[50:]) - firsts[50:]).max() <= 10
    assert set(np.diff(found[50:])) == {LENGTH}


def test_lost_blocks_leave_a_hole_of_their_size() -> None:
    firsts = [first for index, first in enumerate(in_a_row(100)) if index not in (40, 41)]
    assert places(rounded(firsts)) == firsts


def test_single_times_that_are_off_are_not_followed() -> None:
    # Ogg Vorbis: FFmpeg's times of the blocks between long and short windows are 10 ms late.
    times_s = rounded(in_a_row(100), 1 / RATE_HZ)
    for index in (10, 11, 37, 99):
        times_s[index] += 0.010
    assert places(times_s, tick_s=1 / RATE_HZ) == in_a_row(100)


def test_times_that_jitter_around_the_count_are_not_followed() -> None:
    rng = np.random.default_rng(0)
    times_s = np.array(in_a_row(300)) / RATE_HZ + rng.uniform(-0.015, 0.015, 300)
    times_s[0] = 0.0
    assert places(list(times_s)) == in_a_row(300)


def test_blocks_without_times_follow_each_other() -> None:
    assert places([0.5, *[None] * 9]) == in_a_row(10, 24_000)
    assert places([None] * 10) == in_a_row(10)


def test_without_any_time_nothing_tells_where_a_seek_has_led() -> None:
    with pytest.raises(MediaError) as caught:
        places([None] * 10, start=StreamStart(0.0, LENGTH, is_whole=False), from_start=False)
    assert caught.value.code == "no_presentation_times"


def test_drift_is_caught_up_with() -> None:
    times_s = [first / RATE_HZ * 1.001 for first in in_a_row(2_000)]
    found = np.array(places(times_s)) / RATE_HZ
    assert np.abs(found - times_s).max() < 0.008


@pytest.mark.parametrize("first_samples", [LENGTH, 312, 64])
@pytest.mark.parametrize("skipped", [1, 57, 4_001])
def test_after_a_seek_blocks_lie_where_counting_would_put_them(
    skipped: int, first_samples: int
) -> None:
    start = StreamStart(0.0, first_samples, is_whole=False)
    firsts = in_a_row(60, first_samples + skipped * LENGTH)
    times_s = rounded(firsts)
    assert places(times_s, start=start, from_start=False) == firsts
    # The first block after a seek may be cut, and its time be that of the whole.
    lengths = [LENGTH - 300, *[LENGTH] * 59]
    expected = [firsts[0] + 300, *firsts[1:]]
    assert places(times_s, lengths=lengths, start=start, from_start=False) == expected


def test_after_a_seek_beyond_a_gap_times_are_believed() -> None:
    start = StreamStart(0.0, LENGTH, is_whole=False)
    firsts = in_a_row(60, 480_000 + 333)
    found = places(rounded(firsts), start=start, from_start=False)
    assert np.abs(np.array(found) - firsts).max() <= 10
    assert set(np.diff(found)) == {LENGTH}


def test_times_may_be_as_coarse_as_blocks() -> None:
    # MP3 in AVI: a tick is a block, and times are counted.
    tick_s = LENGTH / RATE_HZ
    firsts = [first for index, first in enumerate(in_a_row(100)) if index != 40]
    assert places([first / RATE_HZ for first in firsts], tick_s=tick_s) == firsts
