"""Cutting sound at silences: on made-up levels whose pauses are known."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from stages.base.signals import Signals
from stages.run.silences import cut_at_silences

RATE_HZ = 20.0


def sound(pauses: list[tuple[float, float]], length_s: float, quiet_db: float = -80.0) -> Signals:
    """Sound at -20 dBFS but for its pauses."""
    times_s = (np.arange(round(length_s * RATE_HZ)) + 0.5) / RATE_HZ
    levels_db = np.full(len(times_s), -20.0)
    for start_s, end_s in pauses:
        levels_db[(times_s >= start_s) & (times_s < end_s)] = quiet_db
    samples = np.full(len(times_s), 800.0)
    return Signals(
        0.0, RATE_HZ, {"samples": samples, "square_sum": samples * 10 ** (levels_db / 10)}
    )


@pytest.mark.parametrize("seed", range(6))
def test_every_cut_lies_in_a_pause_and_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    starts_s = list(itertools.accumulate(rng.uniform(2.0, 5.0) for _ in range(30)))
    pauses = [(start_s, start_s + 0.4) for start_s in starts_s]
    length_s = starts_s[-1] + 3.0
    edges = cut_at_silences(0.0, length_s, 12.0, sound(pauses, length_s))
    assert edges[0] == 0.0 and edges[-1] == length_s
    for edge_s in edges[1:-1]:
        assert any(start_s <= edge_s <= end_s for start_s, end_s in pauses)
    lengths = np.diff(edges)
    assert lengths.max() <= 12.0 + 1e-6
    # Long stretches: at least the last pause that fits is never far away.
    assert np.median(lengths) > 7.0


def test_a_quieter_pause_wins_over_a_slightly_later_one() -> None:
    signals = sound([(9.0, 9.5)], 20.0)
    signals.series["square_sum"][round(11.0 * RATE_HZ) : round(11.5 * RATE_HZ)] /= 10.0
    assert 9.0 <= cut_at_silences(0.0, 20.0, 12.0, signals)[1] <= 9.5


def test_sound_without_a_pause_is_cut_at_full_length() -> None:
    edges = cut_at_silences(0.0, 30.0, 12.0, sound([], 30.0))
    assert np.diff(edges)[0] == pytest.approx(12.0, abs=0.1)
    assert cut_at_silences(0.0, 30.0, 12.0, None) == [0.0, 12.0, 24.0, 30.0]


def test_short_sound_stays_whole() -> None:
    assert cut_at_silences(1.0, 1.2, 12.0, sound([], 2.0)) == [1.0, 1.2]
    assert cut_at_silences(0.0, 12.0, 12.0, sound([(5.0, 6.0)], 12.0)) == [0.0, 12.0]
