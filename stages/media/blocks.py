"""What a decoder hands on: frames and blocks of samples with their presentation times.

All times are seconds of the source's own time: presentation time minus the container's start time,
so that 0 is where a player starts.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from manifests.store.records import Span

ByteImage = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class SourceFormat:
    """What the probe found in a file; sizes are of the displayed picture.

    `width` and `height` count square pixels after rotation; `coded_width` and `coded_height` what
    the codec stores. `container_start_s` has been taken off every time; `video_start_s` and
    `audio_start_s` are what is left. `audio_first_samples` is how many samples the first block of
    sound has that decodes. None where there is no such stream.
    """

    modality: Literal["video", "audio", "image"]
    container: str
    duration_s: float
    container_start_s: float
    video_index: int | None
    video_codec: str | None
    coded_width: int | None
    coded_height: int | None
    width: int | None
    height: int | None
    fps: float | None
    rotation_deg: int
    sample_aspect_ratio: float
    interlaced: bool
    full_range: bool
    video_start_s: float | None
    audio_index: int | None
    audio_codec: str | None
    audio_start_s: float | None
    audio_rate_hz: int | None
    audio_channels: int | None
    audio_first_samples: int | None = None


@dataclasses.dataclass(frozen=True)
class Margins:
    """Bars on the four sides of a frame, in displayed pixels (upright, square)."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclasses.dataclass(frozen=True)
class AudioBlock:
    """Samples in a row: float32 [samples, channels], full scale at +-1, the first at `start_s`."""

    start_s: float
    rate_hz: int
    samples: npt.NDArray[np.float32]


@dataclasses.dataclass
class Frame:
    """One decoded frame at proxy size, upright, with square pixels, full-range luma.

    `luma` is uint8 [proxy height, proxy width]. `source_luma` is the luma plane as the codec stores
    it (uint8, or uint16 for deep frames; coded orientation and pixel shape; do not keep it beyond
    the call). `damaged` is true between a decoding error and the next key frame.
    """

    index: int
    time_s: float
    duration_s: float
    luma: ByteImage
    chroma_u: ByteImage
    chroma_v: ByteImage
    source_luma: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    source_luma_bits: int
    full_range: bool
    rotation_deg: int
    damaged: bool

    @cached_property
    def bgr(self) -> ByteImage:
        """uint8 [proxy height, proxy width, 3] in OpenCV's channel order."""
        height, width = self.luma.shape
        # The proxy is full-range 4:2:0, and OpenCV's conversion expects limited range planes.
        luma = cv2.convertScaleAbs(self.luma, alpha=219.0 / 255.0, beta=16.0)
        planes = np.empty((height * 3 // 2, width), np.uint8)
        planes[:height] = luma
        flat = planes[height:].reshape(-1)
        flat[: self.chroma_u.size] = self.chroma_u.reshape(-1)
        flat[self.chroma_u.size :] = self.chroma_v.reshape(-1)
        return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420), dtype=np.uint8)

    @cached_property
    def every_other_luma(self) -> ByteImage:
        """Every other pixel of every other line: uint8 [proxy height / 2, proxy width / 2]."""
        return np.ascontiguousarray(self.luma[::2, ::2])

    @cached_property
    def small_bgr(self) -> ByteImage:
        """The frame at half the proxy's size, for what compares every frame with the last."""
        # At half size luma has the chroma planes' size: nothing has to be made larger first.
        height, width = self.chroma_u.shape
        luma = cv2.resize(self.luma, (width, height), interpolation=cv2.INTER_AREA)
        planes = cv2.merge([luma, self.chroma_v, self.chroma_u])
        return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YCrCb2BGR), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class DecodedSpan:
    """What a stretch held: the span its frames (or, without any, its sound) cover, and damage.

    `started_over` counts the frames that were skipped because their times fall back behind those of
    earlier frames, as where two recordings were joined.
    """

    start_s: float | None
    end_s: float | None
    frames: int
    damaged: list[Span]
    started_over: int = 0


def seconds(ticks: int, time_base: Fraction) -> float:
    """Ticks as seconds, rounded once; arithmetic with fractions would take ten times as long."""
    return ticks * time_base.numerator / time_base.denominator
