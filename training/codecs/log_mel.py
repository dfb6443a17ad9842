"""An audio codec without weights: log-mel spectra."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from pydantic import Field
from torch import Tensor

from training.codecs.codec import AudioCodec, AudioCodecSettings
from training.codecs.spectra import HOP, log_mel, mel_filters, spectrum_count, waveform_of

_MEAN, _SPREAD = -3.0, 1.3
"""About the mean and deviation of log-mels, over voices, rooms, tones and pauses."""


class LogMelSettings(AudioCodecSettings):
    """Log-mel spectra: needs no weights."""

    kind: Literal["log-mel"]
    rate_hz: int = Field(16_000, ge=1000, description="sample rate")
    mels: int = Field(64, ge=1, description="filters")
    frames: int = Field(2, ge=1, description="spectra, of 256 samples each, a latent")

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.mels

    @property
    def stride(self) -> int:
        """Samples a latent."""
        return HOP * self.frames

    def latent_length(self, samples: int) -> int:
        """Latents of a waveform; a remainder is left out."""
        return spectrum_count(samples) // self.frames

    def build(self) -> LogMel:
        """The codec."""
        return LogMel(rate_hz=self.rate_hz, mels=self.mels, frames=self.frames)


class LogMel(AudioCodec):
    """Log-mel spectra, the mean of `frames` of them a latent.

    Args:
        rate_hz: sample rate.
        mels: filters, and so channels.
        frames: spectra a latent; a latent spans 256 times as many samples.
    """

    def __init__(self, *, rate_hz: int, mels: int, frames: int) -> None:
        super().__init__()
        self.rate_hz, self.frames = rate_hz, frames
        self.stride = HOP * frames
        self.register_buffer("filters", mel_filters(rate_hz, mels), persistent=False)
        self.filters: Tensor

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, mels] of a waveform [B, samples]."""
        mel = log_mel(waveform, self.filters)
        mean = F.avg_pool1d(mel, self.frames)
        return ((mean - _MEAN) / _SPREAD).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """A waveform [B, length * stride] whose log-mel spectra are near the latent's."""
        return waveform_of(self.log_mel_of(latent), self.filters)

    def log_mel_of(self, latent: Tensor) -> Tensor:
        """The log-mel spectrogram [B, mels, length * frames] that a latent stands for."""
        mel = latent.transpose(1, 2) * _SPREAD + _MEAN
        return F.interpolate(mel, scale_factor=float(self.frames), mode="linear")
