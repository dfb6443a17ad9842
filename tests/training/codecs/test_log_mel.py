"""Log-mel spectra: those of the reference, as many latents as foretold, and sound from them."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from curation.demo_bucket import speech_like_sound
from tests.conftest import SHARED
from training.codecs.log_mel import LogMelSettings
from training.codecs.mmaudio import MmAudioSettings
from training.codecs.spectra import log_mel, mel_filters


def settings_of(mels: int, frames: int) -> LogMelSettings:
    return LogMelSettings(kind="log-mel", mels=mels, frames=frames)


def test_log_mel_is_that_of_the_reference() -> None:
    golden = load_file(SHARED / "golden" / "audio_vae_16k.safetensors")
    found = log_mel(golden["in.waveform"], mel_filters(16_000, 80))
    reference = golden["out.log_mel"]
    assert (found - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("samples", [80_667, 16_000, 1024])
def test_a_waveform_has_as_many_latents_as_foretold(samples: int) -> None:
    settings = settings_of(mels=32, frames=2)
    latents = settings.build().encode(torch.zeros(1, samples))
    assert latents.shape == (1, settings.latent_length(samples), settings.channels)


def test_five_seconds_have_the_tokens_of_the_paper() -> None:
    assert settings_of(mels=32, frames=2).latent_length(80_667) == 157
    assert MmAudioSettings(kind="mmaudio-16k").latent_length(80_667) == 157


def test_sound_comes_back_as_far_as_its_spectra_say() -> None:
    settings = settings_of(mels=80, frames=1)
    codec = settings.build()
    voice = torch.from_numpy(speech_like_sound(2.0, seed=3, rate_hz=16_000).samples)[None]
    decoded = codec.decode(codec.encode(voice))
    assert decoded.shape == (1, settings.latent_length(voice.shape[1]) * settings.stride)
    before = log_mel(voice, codec.filters)[..., : decoded.shape[1] // 256]
    after = log_mel(decoded, codec.filters)
    assert (before - after).abs().mean() < 0.12
    silence = torch.zeros_like(voice)
    assert (before - log_mel(silence, codec.filters)[..., : before.shape[-1]]).abs().mean() > 1.0


def test_a_click_stays_where_it_was() -> None:
    codec = settings_of(mels=80, frames=1).build()
    wave = torch.zeros(1, 16_000)
    at = 9_000
    times = torch.arange(400) / 16_000
    wave[0, at : at + 400] = 0.5 * torch.sin(2 * math.pi * 2000 * times) * torch.hann_window(400)
    decoded = codec.decode(codec.encode(wave))[0]
    middle = (decoded.square() * torch.arange(len(decoded))).sum() / decoded.square().sum()
    assert abs(float(middle) - (at + 200)) < 128
