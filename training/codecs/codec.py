"""What a codec is: pictures or sound to latents of about unit variance, and back."""

from __future__ import annotations

import abc

from torch import Tensor, nn


class VideoCodec(nn.Module, abc.ABC):
    """Pictures to latents and back. The first picture is a latent of its own (causal in time).

    Attributes:
        channels: of a latent.
        stride: pictures, rows and columns a latent.
    """

    channels: int
    stride: tuple[int, int, int]

    @abc.abstractmethod
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [B, channels, F, H, W].

        Args:
            pictures: [B, 3, 1 + (F - 1) * stride, rows, columns], RGB in [-1, 1].
        """

    @abc.abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Pictures [B, 3, 1 + (F - 1) * stride, rows, columns] in [-1, 1]."""


class AudioCodec(nn.Module, abc.ABC):
    """Sound to latents and back.

    Attributes:
        channels: of a latent.
        rate_hz: sample rate.
        stride: samples a latent.
    """

    channels: int
    rate_hz: int
    stride: int

    @abc.abstractmethod
    def length(self, samples: int) -> int:
        """How many latents a waveform has."""

    @abc.abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, channels] of a waveform [B, samples] in [-1, 1]."""

    @abc.abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """A waveform [B, length * stride] in [-1, 1]."""


def latent_frames(frames: int, stride: int) -> int:
    """Latent frames of a clip; pictures beyond the last whole group are not encoded."""
    return 1 + (frames - 1) // stride
