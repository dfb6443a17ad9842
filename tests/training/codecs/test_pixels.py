"""Patches of pixels: round trips and causality."""

from __future__ import annotations

import pytest
import torch

from training.codecs.pixels import PixelPatchesSettings


def settings_of(terms: int, frames: int = 8) -> PixelPatchesSettings:
    return PixelPatchesSettings(kind="pixels", patch=4, frames=frames, terms=terms)


def grey_frames(frames: int) -> torch.Tensor:
    noise = torch.rand(2, 1, frames, 16, 24, generator=torch.Generator().manual_seed(1))
    return (noise * 2 - 1).expand(-1, 3, -1, -1, -1)


def test_all_terms_of_grey_frames_lose_nothing() -> None:
    codec = settings_of(terms=8).build()
    frames = grey_frames(17)
    latent = codec.encode(frames)
    assert latent.shape == (2, *settings_of(terms=8).latent_shape(17, 16, 24))
    assert latent.shape[2:] == (3, 4, 6)
    torch.testing.assert_close(codec.decode(latent), frames, atol=1e-5, rtol=0)


def test_flat_colours_come_back() -> None:
    codec = settings_of(terms=1).build()
    colour = torch.tensor([0.8, -0.4, -0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 9, 8, 8)
    torch.testing.assert_close(codec.decode(codec.encode(colour)), colour, atol=1e-5, rtol=0)


def test_one_term_is_the_mean_of_a_group() -> None:
    codec = settings_of(terms=1, frames=4).build()
    frames = grey_frames(9)
    decoded = codec.decode(codec.encode(frames))
    torch.testing.assert_close(decoded[:, :, 0], frames[:, :, 0], atol=1e-5, rtol=0)
    for start in (1, 5):
        mean = frames[:, :, start : start + 4].mean(2)
        torch.testing.assert_close(decoded[:, :, start], mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(decoded[:, :, start + 3], mean, atol=1e-5, rtol=0)


def test_the_first_frame_is_a_latent_of_its_own() -> None:
    codec = settings_of(terms=3).build()
    frames = grey_frames(17)
    alone = codec.encode(frames[:, :, :1])
    torch.testing.assert_close(alone, codec.encode(frames)[:, :, :1])


@pytest.mark.parametrize(("frames", "used"), [(1, 1), (8, 1), (9, 9), (24, 17), (25, 25), (0, 0)])
def test_what_fills_no_group_is_left_out(frames: int, used: int) -> None:
    settings = settings_of(terms=1)
    assert settings.used_frames(frames) == used
    assert settings.latent_frames(frames) == settings.latent_frames(used)
