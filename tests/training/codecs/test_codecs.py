"""Codecs: round trips, causality, and the log-mel of the reference."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from curation.demo_bucket import speech_like_sound
from tests.conftest import SHARED
from training.codecs import LogMel, PixelPatches
from training.codecs.log_mel import log_mel, mel_filters


def grey_pictures(frames: int) -> torch.Tensor:
    noise = torch.rand(2, 1, frames, 16, 24, generator=torch.Generator().manual_seed(1))
    return (noise * 2 - 1).expand(-1, 3, -1, -1, -1)


def test_all_terms_of_grey_pictures_lose_nothing() -> None:
    codec = PixelPatches(patch=4, frames=8, terms=8)
    pictures = grey_pictures(17)
    latent = codec.encode(pictures)
    assert latent.shape == (2, codec.channels, 3, 4, 6)
    torch.testing.assert_close(codec.decode(latent), pictures, atol=1e-5, rtol=0)


def test_flat_colours_come_back() -> None:
    codec = PixelPatches(patch=4, frames=8, terms=1)
    colour = torch.tensor([0.8, -0.4, -0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 9, 8, 8)
    torch.testing.assert_close(codec.decode(codec.encode(colour)), colour, atol=1e-5, rtol=0)


def test_one_term_is_the_mean_of_a_group() -> None:
    codec = PixelPatches(patch=4, frames=4, terms=1)
    pictures = grey_pictures(9)
    decoded = codec.decode(codec.encode(pictures))
    torch.testing.assert_close(decoded[:, :, 0], pictures[:, :, 0], atol=1e-5, rtol=0)
    for start in (1, 5):
        mean = pictures[:, :, start : start + 4].mean(2)
        torch.testing.assert_close(decoded[:, :, start], mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(decoded[:, :, start + 3], mean, atol=1e-5, rtol=0)


def test_the_first_picture_is_a_latent_of_its_own() -> None:
    codec = PixelPatches(patch=4, frames=8, terms=3)
    pictures = grey_pictures(17)
    alone = codec.encode(pictures[:, :, :1])
    torch.testing.assert_close(alone, codec.encode(pictures)[:, :, :1])


def test_log_mel_is_that_of_the_reference() -> None:
    golden = load_file(SHARED / "golden" / "audio_vae_16k.safetensors")
    found = log_mel(golden["in.waveform"], mel_filters(16_000, 80))
    reference = golden["out.log_mel"]
    assert (found - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("samples", [80_667, 16_000, 1024])
def test_a_waveform_has_as_many_latents_as_foretold(samples: int) -> None:
    codec = LogMel(rate_hz=16_000, mels=32, frames=2)
    assert codec.encode(torch.zeros(1, samples)).shape == (1, codec.length(samples), 32)


def test_five_seconds_have_the_tokens_of_the_paper() -> None:
    assert LogMel(rate_hz=16_000, mels=32, frames=2).length(80_667) == 157


def test_sound_comes_back_as_far_as_its_spectra_say() -> None:
    codec = LogMel(rate_hz=16_000, mels=80, frames=1)
    voice = torch.from_numpy(speech_like_sound(2.0, seed=3, rate_hz=16_000).samples)[None]
    decoded = codec.decode(codec.encode(voice))
    assert decoded.shape == (1, codec.length(voice.shape[1]) * codec.stride)
    before = log_mel(voice, codec.filters)[..., : decoded.shape[1] // 256]
    after = log_mel(decoded, codec.filters)
    assert (before - after).abs().mean() < 0.12
    silence = torch.zeros_like(voice)
    assert (before - log_mel(silence, codec.filters)[..., : before.shape[-1]]).abs().mean() > 1.0


def test_a_click_stays_where_it_was() -> None:
    codec = LogMel(rate_hz=16_000, mels=80, frames=1)
    wave = torch.zeros(1, 16_000)
    at = 9_000
    times = torch.arange(400) / 16_000
    wave[0, at : at + 400] = 0.5 * torch.sin(2 * math.pi * 2000 * times) * torch.hann_window(400)
    decoded = codec.decode(codec.encode(wave))[0]
    middle = (decoded.square() * torch.arange(len(decoded))).sum() / decoded.square().sum()
    assert abs(float(middle) - (at + 200)) < 128
