"""A span's sound as models want it: one channel, one rate, an exact number of samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from stages.media.blocks import SourceFormat
from stages.media.conform import downmix
from stages.media.decode import read_audio

_PADDING_S = 0.1
"""Read beyond both ends, so that the resampler's filter sees sound there and not a step."""


def mono_sound(
    uri: str, source: SourceFormat, start_s: float, end_s: float, rate_hz: int
) -> npt.NDArray[np.float32]:
    """A span's sound: float32 [round((end_s - start_s) * rate_hz)], full scale at +-1.

    Sample 0 lies at `start_s` to within half a sample. Any number of channels is mixed to one;
    where the source has no sound there is silence.

    Raises:
        MediaError: the file cannot be read, or it has no sound (`no_audio`).
    """
    block = read_audio(uri, source, start_s - _PADDING_S, end_s + _PADDING_S)
    mixed = downmix(block.samples, 1)[:, 0]
    if block.rate_hz != rate_hz:
        mixed = np.asarray(soxr.resample(mixed, block.rate_hz, rate_hz, quality="VHQ"), np.float32)
    first = round((start_s - block.start_s) * rate_hz)
    sound = np.zeros(round((end_s - start_s) * rate_hz), np.float32)
    kept = mixed[first : first + len(sound)]
    sound[: len(kept)] = kept
    return sound
