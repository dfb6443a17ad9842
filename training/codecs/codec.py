"""What a codec is: frames or audio to latents of about unit variance, and back.

A codec has a settings class, which knows its lengths before anything is built: plans and shapes
are worked out of it alone.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from training.parts import PartSettings


class VideoCodec(nn.Module, abc.ABC):
    """Frames to latents and back. The first frame is a latent of its own (causal in time)."""

    @abc.abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Latents [B, channels, F, H, W].

        Args:
            frames: [B, 3, 1 + (F - 1) * stride, rows, columns], RGB in [-1, 1].
        """

    @abc.abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Frames [B, 3, 1 + (F - 1) * stride, rows, columns] in [-1, 1]."""


class AudioCodec(nn.Module, abc.ABC):
    """Waveforms to latents and back.

    Attributes:
        rate_hz: sample rate.
    """

    rate_hz: int

    @abc.abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, channels] of a waveform [B, samples] in [-1, 1]."""

    @abc.abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """A waveform [B, length * stride] in [-1, 1]."""


class FittedVideoCodec(VideoCodec):
    """A codec that is fitted to a run's samples before its first step, and kept with the run.

    What is fitted is in its buffers.
    """

    @abc.abstractmethod
    def fit(self, clips: Iterable[Tensor]) -> None:
        """Fit it to clips [3, frames, rows, columns] in [-1, 1]; equal clips, equal fit."""


class FittedAudioCodec(AudioCodec):
    """A codec that is fitted to a run's samples before its first step, and kept with the run.

    What is fitted is in its buffers.
    """

    @abc.abstractmethod
    def fit(self, clips: Iterable[Tensor]) -> None:
        """Fit it to waveforms [samples] in [-1, 1]; equal clips, equal fit."""


class VideoCodecSettings(PartSettings, abc.ABC):
    """Settings of a video codec."""

    place: ClassVar[str] = "video.codec"

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Of a latent."""

    @property
    @abc.abstractmethod
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns a latent."""

    @abc.abstractmethod
    def build(self) -> VideoCodec:
        """The codec.

        Raises:
            UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        """

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip; what fills no group after the first frame is left out."""
        return 1 + (frames - 1) // self.stride[0] if frames else 0

    def used_frames(self, frames: int) -> int:
        """How many of a clip's frames are in its latents."""
        return 1 + (self.latent_frames(frames) - 1) * self.stride[0] if frames else 0

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, latent frames, latent rows and latent columns."""
        _, rows, columns = self.stride
        return self.channels, self.latent_frames(frames), height // rows, width // columns


class AudioCodecSettings(PartSettings, abc.ABC):
    """Settings of an audio codec.

    Attributes:
        rate_hz: sample rate.
    """

    place: ClassVar[str] = "audio.codec"
    rate_hz: int

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Of a latent."""

    @property
    @abc.abstractmethod
    def stride(self) -> int:
        """Samples a latent."""

    @abc.abstractmethod
    def latent_length(self, samples: int) -> int:
        """Latents of a waveform; 0 if it is too short for one."""

    def longest(self, latents: int) -> int:
        """Samples of the longest waveform that has so many latents: one more begins another."""
        return (latents + 1) * self.stride - 1

    @abc.abstractmethod
    def build(self) -> AudioCodec:
        """The codec.

        Raises:
            UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        """
