"""MMAudio's 16 kHz VAE. Planned with; its code and weights are not part of this version."""

from __future__ import annotations

from typing import Literal

from training.codecs.codec import AudioCodec, AudioCodecSettings, part_unavailable
from training.codecs.log_mel import HOP, spectrum_count

_SPECTRA_A_LATENT = 2


class MmAudioSettings(AudioCodecSettings):
    """MMAudio's 16 kHz VAE: 20 channels, a latent for two log-mel spectra."""

    kind: Literal["mmaudio-16k"]
    rate_hz: Literal[16_000] = 16_000

    @property
    def channels(self) -> int:
        """Of a latent."""
        return 20

    @property
    def stride(self) -> int:
        """Samples a latent."""
        return _SPECTRA_A_LATENT * HOP

    def latent_length(self, samples: int) -> int:
        """Latents of a waveform: half as many as it has spectra, 157 for 80,667 samples."""
        return spectrum_count(samples) // _SPECTRA_A_LATENT

    def build(self) -> AudioCodec:
        """Not yet.

        Raises:
            UsageError: `part_unavailable`.
        """
        raise part_unavailable("audio.codec", self.kind)
