"""Ovi's audio codec: the spectrogram VAE of 16 kHz and its vocoder."""

from __future__ import annotations

from tests.golden.files import Checks, Golden, compare, not_implemented
from training.codecs.log_mel import log_mel, mel_filters

_RATE_HZ = 16_000


def check_vae(golden: Golden) -> Checks:
    """Its log-mel spectrogram; the rest is not implemented."""
    reference = golden.tensors["out.log_mel"]
    filters = mel_filters(_RATE_HZ, reference.shape[1])
    yield compare("out.log_mel", log_mel(golden.tensors["in.waveform"], filters), reference)
    for name in sorted(golden.tensors):
        if name.startswith("out.") and name != "out.log_mel":
            yield not_implemented(name)


def check_vocoder(golden: Golden) -> Checks:
    """Nothing of BigVGAN is implemented."""
    yield from (not_implemented(name) for name in sorted(golden.tensors) if name[:4] == "out.")
