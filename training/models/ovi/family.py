"""Ovi as a family: its settings, and what training and planning ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import Field

from training.models.family import (
    Flops,
    Gradients,
    InputFormat,
    ModelFamily,
    ModelSettings,
    TokenCounts,
)
from training.models.ovi import cost
from training.models.ovi.configuration import TowerConfiguration
from training.models.ovi.model import OviModel
from training.models.ovi.parallelize import units
from training.models.ovi.released import released_layouts

TIMESTEP_SCALE = 1000.0
"""Timesteps run from 0 (data) to this (noise)."""


HEAD_DIM = 128
"""Channels of an attention head, at least, unless a recipe says how many heads there are."""


def _ffn_dim(given: Mapping[str, Any]) -> int:
    """As wide for its width as the released model's, in whole numbers."""
    return round(int(given.get("dim", 0)) * 14336 / 3072)


def _heads(given: Mapping[str, Any]) -> int:
    """The most heads of `HEAD_DIM` channels or more, an even number, that fill the width."""
    dim = int(given.get("dim", 0))
    fitting = (heads for heads in range(dim // HEAD_DIM, 1, -1) if dim % (2 * heads) == 0)
    return next(fitting, 1)


class OviSettings(ModelSettings):
    """The towers' size; both are equal."""

    family: Literal["ovi"] = "ovi"
    dim: int = Field(3072, ge=4, multiple_of=2, description="width of a token")
    ffn_dim: int = Field(default_factory=_ffn_dim, ge=1, description="inside a block, 14/3 of dim")
    freq_dim: int = Field(256, ge=2, multiple_of=2, description="of the timestep's sinusoid")
    heads: int = Field(default_factory=_heads, ge=1, description="of 128 channels or more")
    layers: int = Field(30, ge=1)
    patch: tuple[Literal[1], int, int] = Field(
        (1, 2, 2),
        description="video latents a token; one in time, so that a frame is given or it is not",
    )
    rope_scale: float | Literal["auto"] = Field(
        "auto", description="factor of audio's rotary frequencies: latents a clip / tokens a clip"
    )

    @pydantic.model_validator(mode="after")
    def _heads_divide(self) -> OviSettings:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice the {self.heads} heads")
        return self


def ovi() -> ModelFamily[OviSettings]:
    """The family."""
    return ModelFamily(
        settings=OviSettings,
        build=build,
        patch=lambda settings: settings.patch,
        units=units,
        flops=flops,
        activation_bytes=activation_bytes,
        timestep_scale=TIMESTEP_SCALE,
        released=released_layouts(),
    )


def build(settings: OviSettings, inputs: InputFormat) -> OviModel:
    """The model, its weights initialised."""
    return OviModel(*tower_configurations(settings, inputs))


def flops(
    settings: OviSettings, inputs: InputFormat, tokens: TokenCounts, gradients: Gradients
) -> Flops:
    """Operations of one sample's training step."""
    return cost.step_flops(*tower_configurations(settings, inputs), tokens, gradients)


def activation_bytes(
    settings: OviSettings, tokens: TokenCounts, *, matmul_bytes: int, recompute: bool
) -> float:
    """Bytes that one sample's forward pass leaves behind for its backward pass."""
    return cost.activation_bytes(
        settings.dim, settings.ffn_dim, settings.layers, tokens,
        matmul_bytes=matmul_bytes, recompute=recompute,
    )  # fmt: skip


def tower_configurations(
    settings: OviSettings, inputs: InputFormat
) -> tuple[TowerConfiguration, TowerConfiguration]:
    """The video's and the audio's tower."""
    scale = inputs.latent_rate_ratio if settings.rope_scale == "auto" else settings.rope_scale
    video, audio = (
        TowerConfiguration(
            channels=channels,
            dim=settings.dim,
            ffn_dim=settings.ffn_dim,
            freq_dim=settings.freq_dim,
            heads=settings.heads,
            layers=settings.layers,
            text_dim=inputs.text_dim,
            text_length=inputs.text_length,
            patch_size=patch,
            rope_scale=rope_scale,
        )
        for channels, patch, rope_scale in (
            (inputs.video_channels, settings.patch, 1.0),
            (inputs.audio_channels, (1, 1, 1), scale),
        )
    )
    return video, audio
