"""An audio codec that is fitted to the data: principal components of log-mel spectra."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from training.codecs.codec import AudioCodecSettings, FittedAudioCodec
from training.codecs.components import Components, gathered
from training.codecs.spectra import HOP, log_mel, mel_filters, spectrum_count, waveform_of

_VECTORS = 10_000
"""To fit to, at most: some hundreds for each component."""


class LogMelPcaSettings(AudioCodecSettings):
    """Principal components of a few log-mel spectra together; needs no weights."""

    kind: Literal["log-mel-pca"]
    is_fitted: ClassVar[bool] = True
    rate_hz: int = Field(16_000, ge=1000, description="sample rate")
    mels: int = Field(64, ge=1, description="filters")
    frames: int = Field(4, ge=1, description="spectra, of 256 samples each, a latent")
    components: int = Field(48, ge=1, description="kept of a latent's spectra")

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.components

    @property
    def stride(self) -> int:
        """Samples a latent."""
        return HOP * self.frames

    def latent_length(self, samples: int) -> int:
        """Latents of a waveform; a remainder is left out."""
        return spectrum_count(samples) // self.frames

    def build(self) -> LogMelPca:
        """The codec, not fitted yet."""
        return LogMelPca(
            rate_hz=self.rate_hz, mels=self.mels, frames=self.frames, components=self.components
        )


class LogMelPca(FittedAudioCodec):
    """A few log-mel spectra together as their largest principal components.

    Unlike their mean, these tell within a latent when a sound begins.

    Args:
        rate_hz: sample rate.
        mels: filters.
        frames: spectra a latent.
        components: kept of them.
    """

    def __init__(self, *, rate_hz: int, mels: int, frames: int, components: int) -> None:
        super().__init__()
        self.rate_hz, self.mels, self.frames = rate_hz, mels, frames
        self.register_buffer("filters", mel_filters(rate_hz, mels), persistent=False)
        self.filters: Tensor
        self.components = Components(mels * frames, components)

    def fit(self, clips: Iterable[Tensor]) -> None:
        """Find the components of waveforms [samples] in [-1, 1]."""
        device = self.filters.device
        spectra = (self._spectra(clip[None].to(device)).flatten(0, 1) for clip in clips)
        self.components.fit(gathered(spectra, _VECTORS))

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, components] of a waveform [B, samples]."""
        return self.components.encode(self._spectra(waveform))

    def decode(self, latent: Tensor) -> Tensor:
        """A waveform [B, length * stride] whose log-mel spectra are near the latent's."""
        spectra = self.components.decode(latent).unflatten(-1, (self.frames, self.mels))
        return waveform_of(spectra.flatten(1, 2).transpose(1, 2), self.filters)

    def _spectra(self, waveform: Tensor) -> Tensor:
        """Log-mels [B, length, frames * mels]; a remainder is left out."""
        mel = log_mel(waveform, self.filters).transpose(1, 2)
        whole = mel.shape[1] // self.frames * self.frames
        return mel[:, :whole].unflatten(1, (-1, self.frames)).flatten(2)
