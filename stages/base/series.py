"""From observations at presentation times to bins of fixed length, and from bins to a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages.media.blocks import FloatArray

VIDEO_BIN_RATE_HZ = 4.0
"""Bins per second of the series that frames leave behind."""


class BinGrid:
    """Bins of 1 / `rate_hz` seconds that cover `start_s`..`end_s`; the last may reach beyond it."""

    def __init__(self, start_s: float, end_s: float, rate_hz: float) -> None:
        self.start_s = start_s
        self.rate_hz = rate_hz
        # A span that ends a rounding error after a bin's edge must not open another bin.
        self.bins = max(1, math.ceil((end_s - start_s) * rate_hz - 1e-6))

    def index(self, times_s: Sequence[float] | FloatArray) -> npt.NDArray[np.intp]:
        """The bin of every time; times outside the span count to its first or last bin."""
        offsets = (np.asarray(times_s, dtype=np.float64) - self.start_s) * self.rate_hz
        places = np.floor(offsets + 1e-9).astype(np.intp)
        return np.asarray(np.clip(places, 0, self.bins - 1), dtype=np.intp)

    def counts(self, times_s: Sequence[float] | FloatArray) -> FloatArray:
        """How many of the times fall into every bin: float64 [bins]."""
        return np.bincount(self.index(times_s), minlength=self.bins).astype(np.float64)

    def sums(
        self, times_s: Sequence[float] | FloatArray, values: Sequence[float] | FloatArray
    ) -> FloatArray:
        """The values summed by the bin of their times: float64 [bins], 0 where there are none."""
        weights = np.asarray(values, dtype=np.float64)
        sums = np.bincount(self.index(times_s), weights=weights, minlength=self.bins)
        return np.asarray(sums, dtype=np.float64)

    def means(
        self, times_s: Sequence[float] | FloatArray, values: Sequence[float] | FloatArray
    ) -> FloatArray:
        """The mean of the values in every bin: float64 [bins], NaN where there are none.

        Values that are NaN are no observations.
        """
        seen = ~np.isnan(np.asarray(values, dtype=np.float64))
        times = np.asarray(times_s, dtype=np.float64)[seen]
        counts = self.counts(times)
        sums = self.sums(times, np.asarray(values, dtype=np.float64)[seen])
        means = np.full(self.bins, np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means


def weighted_mean(values: FloatArray, weights: FloatArray) -> float | None:
    """Mean of the values that are not NaN, or None where no weight falls on any of them."""
    seen = ~np.isnan(values) & (weights > 0)
    total = float(weights[seen].sum())
    return float(np.sum(values[seen] * weights[seen])) / total if total > 0 else None


def observed_weights(observed: npt.NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """The weights of a span's observed bins, or of the nearest one where it has none.

    Where no observed bin has weight, the last observed one before the span gets it all (what it
    showed is still on show), or else the first one after it. All zero if nothing was observed.
    """
    if np.any(observed & (weights > 0)) or not observed.any():
        return np.where(observed, weights, 0.0)
    first = int(np.argmax(weights > 0)) if np.any(weights > 0) else 0
    places = np.flatnonzero(observed)
    before = places[places <= first]
    chosen = np.zeros_like(weights)
    chosen[before[-1] if len(before) else places[0]] = 1.0
    return chosen


def inner_bins(weights: FloatArray) -> npt.NDArray[np.bool_]:
    """The bins that lie wholly inside a span, or, in a span that has none, those that touch it.

    Extremes are taken over these: a bin that the span's edge cuts may hold a frame of the
    neighbouring shot.
    """
    whole = weights > 0.999
    return whole if whole.any() else weights > 0
