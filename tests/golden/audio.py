"""Ovi's audio codec: the spectrogram VAE of 16 kHz and its vocoder."""

from __future__ import annotations

import fnmatch

import torch

from tests.golden.files import Checks, Golden, compare
from training.codecs.bigvgan import BigVgan, BigVganSize
from training.codecs.spectra import log_mel, mel_filters
from training.codecs.spectrogram_vae import SpectrogramVae, SpectrogramVaeSize

_RATE_HZ = 16_000


@torch.no_grad()
def check_vae(golden: Golden) -> Checks:
    """Spectrogram, posterior and what is decoded from its mean; each from the reference's input."""
    tensors = golden.tensors
    reference = tensors["out.log_mel"]
    filters = mel_filters(_RATE_HZ, reference.shape[1])
    found = log_mel(tensors["in.waveform"], filters)
    yield compare("out.log_mel", found, reference)
    constants = {
        name.removeprefix("constants."): tensor
        for name, tensor in tensors.items()
        if name.startswith("constants.")
    }
    with torch.device("meta"):
        vae = SpectrogramVae(SpectrogramVaeSize())
    vae.load_state_dict(golden.filled_state_dict() | constants, strict=True, assign=True)
    vae.freeze_magnitudes()
    mean, log_variance = vae.encode(found)
    yield compare("out.latent_mean", mean, tensors["out.latent_mean"])
    yield compare("out.latent_logvar", log_variance, tensors["out.latent_logvar"])
    yield compare("out.decoded_log_mel", vae.decode(mean), tensors["out.decoded_log_mel"])


@torch.no_grad()
def check_vocoder(golden: Golden) -> Checks:
    """The waveform."""
    weights = golden.filled_state_dict()
    for pattern, factor in golden.metadata["scaled_after_fill"].items():
        for name in fnmatch.filter(weights, pattern):
            weights[name] = weights[name] * factor
    with torch.device("meta"):
        vocoder = BigVgan(BigVganSize())
    vocoder.load_state_dict(weights, strict=True, assign=True)
    waveform = vocoder.fold_weight_norm()(golden.tensors["in.log_mel"])
    yield compare("out.waveform", waveform[:, None], golden.tensors["out.waveform"])
