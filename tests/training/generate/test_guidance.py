"""Guidance: each modality has its own strength and negative prompt, in one pass or in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.data.geometry import geometry_of
from training.generate.guidance import guided
from training.models.generator import Generator, build_generator
from training.recipe import SamplingSettings, load_recipe
from training.text.encoder import TextEncoder

SIGMA = 0.6


@pytest.fixture(scope="module")
def generator(recipe_file: Path) -> Generator:
    generator = build_generator(load_recipe(recipe_file)).eval()
    # A head whose output is zero, as it starts, would hide everything.
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "head.head" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return generator


@pytest.fixture(scope="module")
def latents(recipe_file: Path) -> tuple[Tensor, Tensor]:
    geometry = geometry_of(load_recipe(recipe_file))
    shape = geometry.clip(2, 1)
    return torch.randn(1, *geometry.video_latent(shape)), torch.randn(
        1, *geometry.audio_latent(shape)
    )


def own_text(generator: Generator) -> TextEncoder:
    assert generator.text_encoder is not None
    return generator.text_encoder


@torch.no_grad()
def one_pass(generator: Generator, latents: tuple[Tensor, Tensor], **how: Any) -> list[Tensor]:
    return [one for one in generator(*latents, torch.tensor([SIGMA]), **how) if one is not None]


@pytest.mark.parametrize("skip_block", [None, 1])
@torch.no_grad()
def test_each_modality_moves_away_from_its_own_negative_prompt(
    generator: Generator, latents: tuple[Tensor, Tensor], skip_block: int | None
) -> None:
    settings = SamplingSettings(
        video_guidance=4.0, audio_guidance=3.0, skip_block=skip_block,
        video_negative="jitter", audio_negative="robotic",
    )  # fmt: skip
    tokens = latents[0][:, 0].numel() // 4
    given = {"video_given": torch.arange(tokens)[None] < 4, "audio_given": None}
    velocity_of = guided(
        generator, own_text(generator), settings, "a bell", ("video", "audio"), given
    )
    found = velocity_of(latents, SIGMA)
    wanted = one_pass(generator, latents, prompts=["a bell"], **given)
    unwanted = one_pass(
        generator, latents, prompts=["jitter"], audio_prompts=["robotic"],
        skip_blocks=() if skip_block is None else (skip_block,), **given,
    )  # fmt: skip
    for one, towards, against, strength in zip(found, wanted, unwanted, (4.0, 3.0), strict=True):
        assert (towards - against).abs().max() > 1e-4
        torch.testing.assert_close(one, against + strength * (towards - against))


@torch.no_grad()
def test_without_guidance_the_prompt_alone_is_asked(
    generator: Generator, latents: tuple[Tensor, Tensor]
) -> None:
    settings = SamplingSettings(video_guidance=1.0, audio_guidance=1.0, video_negative="jitter")
    found = guided(generator, own_text(generator), settings, "a bell", ("video", "audio"), {})(
        latents, SIGMA
    )
    for one, wanted in zip(found, one_pass(generator, latents, prompts=["a bell"]), strict=True):
        torch.testing.assert_close(one, wanted)
    # Of one modality alone, only its own strength counts.
    settings = SamplingSettings(video_guidance=1.0, audio_guidance=3.0, video_negative="jitter")
    (video,) = guided(generator, own_text(generator), settings, "a bell", ("video",), {})(
        latents[:1], SIGMA
    )
    (wanted,) = one_pass(generator, (latents[0], None), prompts=["a bell"])  # type: ignore[arg-type]
    torch.testing.assert_close(video, wanted)
