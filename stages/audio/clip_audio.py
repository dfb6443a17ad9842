"""A clip's audio on its way to a model."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from stages.base.clip import ClipTask
from stages.media.audio import mono_audio


@dataclasses.dataclass(frozen=True)
class ClipAudio:
    """A clip in one channel: float32 [samples], full scale at +-1, from `start_s` of `uri` on."""

    uri: str
    start_s: float
    end_s: float
    samples: npt.NDArray[np.float32]


def clip_audio(clip: ClipTask, rate_hz: int) -> ClipAudio:
    """Decode a clip's audio, resampled to a rate.

    Raises:
        MediaError: it cannot be decoded, or it has no sound (`no_audio`).
    """
    samples = mono_audio(clip.uri, clip.source, clip.start_s, clip.end_s, rate_hz)
    return ClipAudio(clip.uri, clip.start_s, clip.end_s, samples)
