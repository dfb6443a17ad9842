"""Weights of codecs and text encoders, made up and small, in the files of the released ones."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.made_up_weights import file_of, filled
from training.codecs.bigvgan import BigVgan, BigVganSize
from training.codecs.spectrogram_vae import SpectrogramVae, SpectrogramVaeSize


def write_mmaudio(folder: Path) -> None:
    """MMAudio's VAE and vocoder, with few channels."""
    folder.mkdir(parents=True, exist_ok=True)
    vae = filled(SpectrogramVae(SpectrogramVaeSize(hidden=8)))
    torch.save(vae.state_dict(), folder / file_of("mmaudio-vae-16k"))
    vocoder = filled(BigVgan(BigVganSize(width=64)))
    torch.save({"generator": vocoder.state_dict()}, folder / file_of("mmaudio-bigvgan-16k"))
