"""MMAudio's 16 kHz codec: log-mel spectrograms, its VAE of them, BigVGAN back to waveforms.

Cheng et al., "MMAudio: Taming Multimodal Joint Training for High-Quality Video-to-Audio Synthesis"
(2025), appendix B; Ovi's audio latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.weights.load import bad_weights, load_into, load_state_dict
from training.codecs.bigvgan import BigVgan, BigVganSize
from training.codecs.codec import AudioCodec, AudioCodecSettings
from training.codecs.spectra import HOP, log_mel, mel_filters, spectrum_count
from training.codecs.spectrogram_vae import SpectrogramVae, SpectrogramVaeSize

_SPECTRA_A_LATENT = 2
_CHANNELS = 20


class MmAudioSettings(AudioCodecSettings):
    """MMAudio's 16 kHz codec: 20 channels, a latent for two log-mel spectra."""

    kind: Literal["mmaudio-16k"]
    rate_hz: Literal[16_000] = 16_000
    # The vocoder has no part in the latents, but generating needs it in the end.
    weights: ClassVar[tuple[str, ...]] = ("mmaudio-vae-16k", "mmaudio-bigvgan-16k")

    @property
    def channels(self) -> int:
        """Of a latent."""
        return _CHANNELS

    @property
    def stride(self) -> int:
        """Samples a latent."""
        return _SPECTRA_A_LATENT * HOP

    def latent_length(self, samples: int) -> int:
        """Latents of a waveform: half as many as it has spectra, 157 for 80,667 samples."""
        return spectrum_count(samples) // _SPECTRA_A_LATENT

    def build(self) -> MmAudio:
        """The codec, with its released weights.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        vae, vocoder = self.weight_paths()
        return MmAudio(load_vae(vae), vocoder, rate_hz=self.rate_hz)


class MmAudio(AudioCodec):
    """Latents are the means of the VAE's posteriors: encoding twice gives the same.

    Args:
        vae: of log-mel spectrograms.
        vocoder: file of its weights. They are loaded when something is decoded for the first time:
            training never needs them.
        rate_hz: sample rate.
    """

    def __init__(self, vae: SpectrogramVae, vocoder: Path, *, rate_hz: int) -> None:
        super().__init__()
        self.rate_hz = rate_hz
        self.vae = vae
        self.vocoder: BigVgan | None = None
        self._vocoder_file = vocoder
        mels = vae.data_mean.shape[1]
        self.register_buffer("filters", mel_filters(rate_hz, mels), persistent=False)
        self.filters: Tensor

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, 20] of a waveform [B, samples]."""
        mean, _ = self.vae.encode(log_mel(waveform, self.filters))
        return mean.transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """A waveform [B, length * 512] in [-1, 1].

        Raises:
            UsageError: `bad_weights`.
        """
        if self.vocoder is None:
            self.vocoder = load_vocoder(self._vocoder_file).to(self.filters.device)
        return self.vocoder(self.vae.decode(latent.transpose(1, 2)))


def load_vae(path: Path) -> SpectrogramVae:
    """The VAE in a file of weights, of the sizes that its tensors have.

    Raises:
        UsageError: `bad_weights`.
    """
    weights = load_state_dict(path)
    hidden, mels = _shape(weights, "encoder.conv_in.weight", path)[:2]
    latent = _shape(weights, "decoder.conv_in.weight", path)[1]
    if latent != _CHANNELS:
        raise bad_weights(path, f"Its latents have {latent} channels instead of {_CHANNELS}.")
    with torch.device("meta"):
        vae = SpectrogramVae(SpectrogramVaeSize(mels=mels, latent=latent, hidden=hidden))
    load_into(vae, weights, path, assign=True)
    return vae.freeze_magnitudes()


def load_vocoder(path: Path) -> BigVgan:
    """The vocoder in a file of weights, of the sizes that its tensors have.

    Raises:
        UsageError: `bad_weights`.
    """
    weights = load_state_dict(path, within="generator")
    width = _shape(weights, "conv_pre.bias", path)[0]
    with torch.device("meta"):
        vocoder = BigVgan(BigVganSize(width=width))
    load_into(vocoder, weights, path, assign=True)
    return vocoder.fold_weight_norm()


def _shape(weights: Mapping[str, Tensor], name: str, path: Path) -> tuple[int, ...]:
    if name not in weights:
        raise bad_weights(path, f"It lacks '{name}'.")
    return tuple(weights[name].shape)
