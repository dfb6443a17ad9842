"""An audio codec without weights: log-mel spectra, inverted by Griffin and Lim's method."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from pydantic import Field
from torch import Tensor

from training.codecs.codec import AudioCodec, AudioCodecSettings

WINDOW = 1024
HOP = 256
_POWER_FLOOR, _MEL_FLOOR = 1e-9, 1e-5
_INVERSION_STEPS = 100
_MEAN, _SPREAD = -3.0, 1.3
"""About the mean and deviation of log-mels, over voices, rooms, tones and pauses."""


def mel_filters(rate_hz: int, mels: int) -> Tensor:
    """Slaney's mel filters up to half the rate, [mels, WINDOW // 2 + 1]."""
    import librosa  # noqa: PLC0415 - slow to import, and inspecting a recipe does not need it

    filters = librosa.filters.mel(sr=rate_hz, n_fft=WINDOW, n_mels=mels, fmin=0, fmax=rate_hz / 2)
    return torch.from_numpy(np.asarray(filters, dtype=np.float32))


def log_mel(waveform: Tensor, filters: Tensor) -> Tensor:
    """Log-mel spectrogram as MMAudio's 16 kHz codec has it (Ovi, section 3.1).

    Magnitudes of a Hann window, not centred, reflected at the ends; log10.

    Args:
        waveform: [B, samples] in [-1, 1]; what lies outside is clamped.
        filters: from `mel_filters`.

    Returns:
        [B, mels, frames].
    """
    margin = (WINDOW - HOP) // 2
    padded = F.pad(waveform.clamp(-1, 1)[:, None], (margin, margin), mode="reflect")[:, 0]
    window = torch.hann_window(WINDOW, device=waveform.device)
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + _POWER_FLOOR).sqrt()
    return (filters @ magnitude).clamp(min=_MEL_FLOOR).log10()


def spectrum_count(samples: int) -> int:
    """Spectra of a waveform; one shorter than a window has none."""
    return samples // HOP if samples >= WINDOW else 0


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
        iterations: of the inverse.
    """

    def __init__(self, *, rate_hz: int, mels: int, frames: int, iterations: int = 64) -> None:
        super().__init__()
        self.rate_hz, self.frames = rate_hz, frames
        self.stride = HOP * frames
        self.iterations = iterations
        self.register_buffer("filters", mel_filters(rate_hz, mels), persistent=False)
        self.filters: Tensor

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, mels] of a waveform [B, samples]."""
        mel = log_mel(waveform, self.filters)
        mean = F.avg_pool1d(mel, self.frames)
        return ((mean - _MEAN) / _SPREAD).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """A waveform [B, length * stride] whose log-mel spectra are near the latent's.

        Phases by the fast Griffin-Lim algorithm (Perraudin et al., 2013), librosa's.
        """
        import librosa  # noqa: PLC0415 - slow to import, and training never needs it

        samples = latent.shape[1] * self.stride
        magnitudes = self._magnitudes(10.0 ** self.log_mel_of(latent))
        waves = []
        for magnitude in magnitudes.cpu().numpy():
            wave = librosa.griffinlim(
                magnitude, n_iter=self.iterations, hop_length=HOP, n_fft=WINDOW, random_state=0
            )
            # Spectrum k is centred on sample (k + 1/2) * HOP here, on k * HOP in librosa.
            wave = np.pad(wave, (HOP // 2, samples))[:samples]
            waves.append(torch.from_numpy(np.asarray(wave, dtype=np.float32)))
        return torch.stack(waves).clamp(-1, 1).to(latent.device)

    def _magnitudes(self, mel: Tensor) -> Tensor:
        """Non-negative spectra [B, bins, frames] that the filters turn into `mel`.

        Lee and Seung's multiplicative updates (2001): a hundredth of the time of an exact solver,
        and no worse after Griffin-Lim.
        """
        back = self.filters.T @ mel
        squares = self.filters.T @ self.filters
        magnitude = back / self.filters.sum(0)[:, None].clamp(min=_MEL_FLOOR)
        for _ in range(_INVERSION_STEPS):
            magnitude = magnitude * back / (squares @ magnitude).clamp(min=_POWER_FLOOR)
        return magnitude

    def log_mel_of(self, latent: Tensor) -> Tensor:
        """The log-mel spectrogram [B, mels, length * frames] that a latent stands for."""
        mel = latent.transpose(1, 2) * _SPREAD + _MEAN
        return F.interpolate(mel, scale_factor=float(self.frames), mode="linear")
