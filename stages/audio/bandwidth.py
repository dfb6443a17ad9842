"""Up to which frequency sound reaches."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal

from stages.audio.bs1770 import RATE_HZ
from stages.media.blocks import FloatArray

_SPECTRUM_BINS = 10
"""Bins whose spectra are averaged for one reading of the bandwidth: half a second."""
_BANDWIDTH_RANGE_DB = 50.0
_LOWEST_HZ = 20.0
"""Offsets and rumble below hearing are no peak to measure from."""
_AUDIBLE_RANGE_DB = 30.0
"""Pauses are left out of the bandwidth: in them, noise as wide as the format is all there is."""
_BANDWIDTH_QUANTILE = 0.9


class BandwidthMeter:
    """Reads the bandwidth off power spectra averaged over half a second: one transform a bin."""

    def __init__(self, rate_hz: int) -> None:
        # The longest power of two that fits into a bin.
        self._length = 1 << int(math.log2(max(64, rate_hz / RATE_HZ)))
        self._window = scipy.signal.get_window("hann", self._length).astype(np.float32)
        self._frequencies_hz = scipy.fft.rfftfreq(self._length, 1.0 / rate_hz)
        self._power = np.zeros(len(self._frequencies_hz))
        self._group = -1
        self._bandwidth_hz: dict[int, float] = {}

    def add(self, samples: npt.NDArray[np.float32], index: int) -> None:
        """Look at the start of a bin's samples [channels, samples]; too few are passed over."""
        if samples.shape[1] < self._length:
            return
        if index // _SPECTRUM_BINS != self._group:
            self._close()
            self._group = index // _SPECTRUM_BINS
        # Channels are averaged as powers: what is in opposite phase must not cancel.
        spectra = scipy.fft.rfft(samples[:, : self._length] * self._window, axis=1)
        self._power += np.square(np.abs(spectra)).sum(axis=0)

    def readings(self, bins: int) -> FloatArray:
        """Bandwidth in Hz by bin: float64 [bins], NaN where there is no sound."""
        self._close()
        groups = np.arange(bins) // _SPECTRUM_BINS
        return np.array([self._bandwidth_hz.get(int(group), np.nan) for group in groups])

    def _close(self) -> None:
        power = np.where(self._frequencies_hz >= _LOWEST_HZ, self._power, 0.0)
        peak = float(power.max())
        if peak > 0:
            within = np.flatnonzero(power >= peak * 10 ** (-_BANDWIDTH_RANGE_DB / 10))
            self._bandwidth_hz[self._group] = float(self._frequencies_hz[within[-1]])
        self._power[:] = 0.0


def span_bandwidth(
    bandwidth_hz: FloatArray, squares: FloatArray, sounding: npt.NDArray[np.bool_]
) -> float | None:
    """The bandwidth in Hz that a tenth of a span's audible time exceeds; None where it has none.

    Args:
        bandwidth_hz: by bin, as `BandwidthMeter.readings` gives it: float64 [bins].
        squares: mean square by bin: float64 [bins].
        sounding: the span's bins that are not silent: bool [bins].
    """
    readings = sounding & np.isfinite(bandwidth_hz)
    if not readings.any():
        return None
    loudest = squares[readings].max()
    readings &= squares >= loudest * 10 ** (-_AUDIBLE_RANGE_DB / 10)
    return float(np.quantile(bandwidth_hz[readings], _BANDWIDTH_QUANTILE))
