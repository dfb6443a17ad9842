"""Mel-frequency cepstra as SyncNet was trained on: the defaults of python_speech_features.

Mel filters of the HTK formula on whole FFT bins, rectangular windows of 25 ms every 10 ms, a sine
lifter of 22, and the log of the frame's energy in the place of the first coefficient.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import scipy.fft

from stages.media.blocks import FloatArray

MFCC_RATE_HZ = 100
COEFFICIENTS = 13
_SAMPLE_RATE_HZ = 16_000
_WINDOW = 400
_STEP = _SAMPLE_RATE_HZ // MFCC_RATE_HZ
_FFT_SIZE = 512
_FILTERS = 26
_PREEMPHASIS = 0.97
_LIFTER = 22
_LEAST_POWER = float(np.finfo(np.float64).eps)
"""Stands in for zero power, which has no logarithm."""


def mfcc(samples: npt.NDArray[np.int16]) -> FloatArray:
    """13 coefficients a frame, 100 frames a second: float64 [frames, 13].

    A last frame that the sound does not fill is completed by silence.

    Args:
        samples: int16 [samples] at 16 kHz, at least one; levels count, so keep them as they are.
    """
    power = _power_spectra(_frames(_with_preemphasis(samples.astype(np.float64))))
    energy = np.maximum(power.sum(axis=1), _LEAST_POWER)
    bands = power @ _mel_filters().T
    bands[bands == 0.0] = _LEAST_POWER
    cepstra = scipy.fft.dct(np.log(bands), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    cepstra = cepstra * (1.0 + _LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / _LIFTER))
    cepstra[:, 0] = np.log(energy)
    return np.asarray(cepstra, dtype=np.float64)


def _with_preemphasis(samples: FloatArray) -> FloatArray:
    return np.concatenate([samples[:1], samples[1:] - _PREEMPHASIS * samples[:-1]])


def _frames(samples: FloatArray) -> FloatArray:
    """Overlapping frames, the last one padded: float64 [frames, 400]."""
    steps = max(0, -(-(len(samples) - _WINDOW) // _STEP))
    padded = np.zeros(steps * _STEP + _WINDOW)
    padded[: len(samples)] = samples[: len(padded)]
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_STEP]


def _power_spectra(frames: FloatArray) -> FloatArray:
    """Float64 [frames, 257]."""
    return np.asarray(np.square(np.abs(np.fft.rfft(frames, _FFT_SIZE))) / _FFT_SIZE)


@functools.lru_cache(maxsize=1)
def _mel_filters() -> FloatArray:
    """Triangles between edges evenly spaced in mel from 0 to 8 kHz: float64 [26, 257]."""
    highest_mel = 2595.0 * np.log10(1.0 + _SAMPLE_RATE_HZ / 2 / 700.0)
    edges_hz = 700.0 * (10.0 ** (np.linspace(0.0, highest_mel, _FILTERS + 2) / 2595.0) - 1.0)
    edges = np.floor((_FFT_SIZE + 1) * edges_hz / _SAMPLE_RATE_HZ)
    bins = np.arange(_FFT_SIZE // 2 + 1)
    low, middle, high = (edges[first : first + _FILTERS, None] for first in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.asarray(np.clip(np.minimum(rising, falling), 0.0, None))
