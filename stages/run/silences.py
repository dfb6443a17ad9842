"""Where to cut sound: at silences, into stretches of at most a given length."""

from __future__ import annotations

import numpy as np

from stages.base.signals import Signals
from stages.media.blocks import FloatArray

_PAUSE_S = 0.2
"""What has to be quiet around a cut: shorter than a pause between words, longer than a stop."""
_SILENCE_DB = -60.0
"""Below this one pause is as good as another."""
_LENGTH_DB = 15.0
"""A stretch of full length is worth a cut that is this much louder than one at its start."""
_SHORTEST_SHARE = 0.25
"""Of the full length: no stretch is cut shorter than this for the sake of silence."""


def cut_at_silences(
    start_s: float, end_s: float, longest_s: float, audio: Signals | None
) -> list[float]:
    """Edges of stretches that cover a span, each at most `longest_s` long, in seconds.

    Every cut is put where the 0.2 s around it are quietest; a later cut is preferred to an earlier
    one that is not clearly quieter, so that stretches come out long.

    Args:
        start_s: the span's start.
        end_s: its end.
        longest_s: longest stretch.
        sound: signals of the stage `loudness` over the span; without them every stretch but the
            last is of full length.
    """
    edges = [start_s]
    times_s, levels_db = _levels(audio) if audio is not None else (np.empty(0), np.empty(0))
    while end_s - edges[-1] > longest_s + 1e-6:
        edges.append(_best_cut(edges[-1], longest_s, times_s, levels_db))
    return [*edges, end_s]


def _best_cut(from_s: float, longest_s: float, times_s: FloatArray, levels_db: FloatArray) -> float:
    inside = (times_s >= from_s + _SHORTEST_SHARE * longest_s) & (times_s <= from_s + longest_s)
    if not inside.any():
        return from_s + longest_s
    candidates_s = times_s[inside]
    lateness = (candidates_s - from_s) / longest_s
    worth = _LENGTH_DB * lateness - np.maximum(levels_db[inside], _SILENCE_DB)
    return float(candidates_s[int(np.argmax(worth))])


def _levels(audio: Signals) -> tuple[FloatArray, FloatArray]:
    """Times in the middle of bins, and the loudest level of the bins around each, in dBFS."""
    samples = np.nan_to_num(audio.series["samples"])
    squares = np.nan_to_num(audio.series["square_sum"]) / np.maximum(samples, 1.0)
    levels_db = 10.0 * np.log10(np.maximum(squares, 1e-12))
    reach = max(0, round(_PAUSE_S * audio.rate_hz / 2))
    padded = np.pad(levels_db, reach, constant_values=-120.0)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    times_s = audio.start_s + (np.arange(len(levels_db)) + 0.5) / audio.rate_hz
    loudest_db = np.asarray(around.max(axis=1), dtype=np.float64)
    return np.asarray(times_s, dtype=np.float64), loudest_db
