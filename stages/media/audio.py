"""A span's audio as models want it: one rate, one layout, an exact number of samples.

The first sample lies where the span starts, to within half a sample.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import soxr

from stages.media.blocks import SourceFormat
from stages.media.decode import read_audio

_PADDING_S = 0.1
"""Read beyond both ends, so that the resampler's filter sees sound there and not a step."""


def audio_length(frames: int, fps: int, rate_hz: int) -> int:
    """How many samples go with `frames` frames: 80,667 for 121 at 24 fps and 16 kHz."""
    return round(frames * rate_hz / fps)


def conformed_audio(
    uri: str,
    source: SourceFormat,
    start_s: float,
    end_s: float,
    *,
    samples: int,
    rate_hz: int,
    channels: int,
) -> npt.NDArray[np.float32]:
    """A clip's sound: float32 [samples, channels], full scale at +-1, silent from `end_s` on.

    The first sample lies at `start_s` to within half a sample. Sound that would pass full scale is
    turned down as a whole.

    Args:
        uri: the file.
        source: its format, as `probe` found it.
        start_s: source time of the first sample.
        end_s: source time from which on it is silence.
        samples: how many come out.
        rate_hz: their rate.
        channels: 1 or 2.

    Raises:
        MediaError: the file cannot be read, or it has no sound (`no_audio`).
    """
    conformed = np.zeros((samples, channels), np.float32)
    audible = round(min(samples, max(0.0, (end_s - start_s) * rate_hz)))
    mixed = _mixed(uri, source, start_s, start_s + samples / rate_hz, rate_hz, channels)
    kept = mixed[:audible]
    conformed[: len(kept)] = kept
    peak = float(np.max(np.abs(conformed), initial=0.0))
    return conformed / np.float32(peak) if peak > 1.0 else conformed


def mono_audio(
    uri: str, source: SourceFormat, start_s: float, end_s: float, rate_hz: int
) -> npt.NDArray[np.float32]:
    """A span in one channel: float32 [round((end_s - start_s) * rate_hz)], full scale at +-1.

    Where the source has no sound there is silence. A mix of more than two channels may pass full
    scale: nothing is turned down.

    Raises:
        MediaError: the file cannot be read, or it has no sound (`no_audio`).
    """
    mono = np.zeros(round((end_s - start_s) * rate_hz), np.float32)
    kept = _mixed(uri, source, start_s, end_s, rate_hz, channels=1)[: len(mono), 0]
    mono[: len(kept)] = kept
    return mono


def _mixed(
    uri: str, source: SourceFormat, start_s: float, end_s: float, rate_hz: int, channels: int
) -> npt.NDArray[np.float32]:
    """At least what the source has of a span, mixed down and resampled: [samples, channels]."""
    block = read_audio(uri, source, start_s - _PADDING_S, end_s + _PADDING_S)
    mixed = downmix(block.samples, channels)
    if block.rate_hz != rate_hz:
        mixed = np.asarray(soxr.resample(mixed, block.rate_hz, rate_hz, quality="VHQ"), np.float32)
    return mixed[round((start_s - block.start_s) * rate_hz) :]


_CENTRE = _SURROUND = math.sqrt(0.5)
# Gains to the left side of a stereo mix by ITU-R BS.775, channels in FFmpeg's order; the right side
# mirrors them. Low frequency effects are left out, as the recommendation does.
_TO_LEFT: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, 0.0),
    5: (1.0, 0.0, _CENTRE, _SURROUND, 0.0),
    6: (1.0, 0.0, _CENTRE, 0.0, _SURROUND, 0.0),
    7: (1.0, 0.0, _CENTRE, 0.0, 0.5, _SURROUND, 0.0),
    8: (1.0, 0.0, _CENTRE, 0.0, _SURROUND, 0.0, _SURROUND, 0.0),
}
_TO_RIGHT: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (0.0, 1.0),
    5: (0.0, 1.0, _CENTRE, 0.0, _SURROUND),
    6: (0.0, 1.0, _CENTRE, 0.0, 0.0, _SURROUND),
    7: (0.0, 1.0, _CENTRE, 0.0, 0.5, 0.0, _SURROUND),
    8: (0.0, 1.0, _CENTRE, 0.0, 0.0, _SURROUND, 0.0, _SURROUND),
}


def downmix(samples: npt.NDArray[np.float32], channels: int) -> npt.NDArray[np.float32]:
    """Mix down to stereo by ITU-R BS.775, and to mono as the mean of that.

    Other channel counts than 1, 2 and 5 to 8 do not say what their channels are: their mean is
    taken. The mix of more than two channels may pass full scale.

    Args:
        samples: float32 [samples, channels of the source], in FFmpeg's order.
        channels: 1 or 2.

    Returns:
        float32 [samples, channels].
    """
    count = samples.shape[1]
    evenly = (1.0 / count,) * count
    left = np.asarray(_TO_LEFT.get(count, evenly), np.float32)
    right = np.asarray(_TO_RIGHT.get(count, evenly), np.float32)
    matrix = np.stack([left, right], axis=1)
    if channels == 1:
        matrix = matrix.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(samples @ matrix, dtype=np.float32)
