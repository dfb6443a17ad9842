"""A recipe's parts, built."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifests.errors import UsageError
from training.codecs import AudioCodec, LogMel, PixelPatches, VideoCodec
from training.data.geometry import Geometry
from training.models.ovi.model import OviModel, TowerConfiguration
from training.objective.keys import key
from training.recipe import (
    ByteTextSettings,
    LogMelSettings,
    PixelPatchesSettings,
    Recipe,
)
from training.text.encoder import ByteEncoder, TextEncoder


class Generator(nn.Module):
    """A joint generator with its text encoder: all that a run trains and a checkpoint holds."""

    def __init__(self, model: OviModel, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.model = model
        self.text_encoder = text_encoder

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        timestep: Tensor,
        prompts: Sequence[str],
        *,
        audio_prompts: Sequence[str] | None = None,
        **conditions: Any,  # noqa: ANN401 - those of the model
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities of both latents, as the model's `forward` with prompts for text.

        Args:
            video: noisy latent [B, C, F, H, W] or None.
            audio: noisy latent [B, L, C] or None.
            timestep: [B] in 0..1000.
            prompts: one a sample.
            audio_prompts: the sound's own, where they differ.
            conditions: further arguments of `OviModel.forward`.
        """
        text = self.text_encoder(prompts)
        if audio_prompts is not None:
            conditions["audio_text"] = self.text_encoder(audio_prompts)
        velocities: tuple[Tensor | None, Tensor | None] = self.model(
            video, audio, timestep, text, **conditions
        )
        return velocities


def build_generator(recipe: Recipe) -> Generator:
    """The model and text encoder of a recipe, initialised by the recipe's seed.

    Raises:
        UsageError: `part_unavailable`: the recipe names a text encoder that is not there yet.
    """
    settings = recipe.text
    if not isinstance(settings, ByteTextSettings):
        raise _unavailable("text", settings.kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("initialise", recipe.seed))
        text_encoder = ByteEncoder(
            dim=settings.dim,
            length=settings.length,
            stride=settings.stride,
            layers=settings.layers,
            heads=settings.heads,
        )
        generator = Generator(build_model(recipe), text_encoder)
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(is_trainable(name, recipe))
    return generator


def build_model(recipe: Recipe) -> OviModel:
    """The model alone; under `torch.device("meta")` it costs nothing."""
    model, geometry = recipe.model, Geometry(recipe)
    towers = [
        TowerConfiguration(
            channels=channels,
            dim=model.dim,
            ffn_dim=model.ffn_dim,
            freq_dim=model.freq_dim,
            heads=model.heads,
            layers=model.layers,
            text_dim=recipe.text.dim,
            text_length=recipe.text.length,
            patch_size=patch,
            rope_scale=scale,
        )
        for channels, patch, scale in (
            (recipe.video.codec.channels, model.patch, 1.0),
            (recipe.audio.codec.channels, (1, 1, 1), geometry.rope_scale()),
        )
    ]
    return OviModel(*towers)


def build_codecs(recipe: Recipe) -> tuple[VideoCodec, AudioCodec]:
    """The codecs of a recipe.

    Raises:
        UsageError: `part_unavailable`: the recipe names a codec that is not there yet.
    """
    video, audio = recipe.video.codec, recipe.audio.codec
    if not isinstance(video, PixelPatchesSettings):
        raise _unavailable("video.codec", video.kind)
    if not isinstance(audio, LogMelSettings):
        raise _unavailable("audio.codec", audio.kind)
    return (
        PixelPatches(patch=video.patch, frames=video.frames, terms=video.terms),
        LogMel(rate_hz=audio.rate_hz, mels=audio.mels, frames=audio.frames),
    )


def is_trainable(name: str, recipe: Recipe) -> bool:
    """Whether a parameter is trained, by its name and the recipe's patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in recipe.trainable)


def _unavailable(part: str, kind: str) -> UsageError:
    return UsageError(
        "part_unavailable",
        f"This version can plan with '{kind}' but not run it.",
        subject=part,
        remedy="Take one that needs no weights (see the recipe `tiny`), or wait for the release"
        " that brings it.",
    )
