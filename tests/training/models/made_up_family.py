"""A model family that is none of the package's: a linear map of each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from training.models.family import (
    Flops,
    Gradients,
    InputFormat,
    JointModel,
    ModelFamily,
    ModelSettings,
    TokenCounts,
)


class LinearSettings(ModelSettings):
    """Its one size."""

    width: int = Field(8, ge=1)


class LinearModel(JointModel):
    """Each modality's latents through two maps, moved by the timestep and the text's mean."""

    def __init__(self, settings: LinearSettings, inputs: InputFormat) -> None:
        super().__init__()
        width = settings.width
        self.video = nn.Sequential(
            nn.Linear(inputs.video_channels, width), nn.Linear(width, inputs.video_channels)
        )
        self.audio = nn.Sequential(
            nn.Linear(inputs.audio_channels, width), nn.Linear(width, inputs.audio_channels)
        )
        self.text = nn.Linear(inputs.text_dim, 1)

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        timestep: Tensor,
        text: Tensor,
        *,
        video_given: Tensor | None = None,
        audio_given: Tensor | None = None,
        audio_timestep: Tensor | None = None,
        audio_text: Tensor | None = None,
        skip_blocks: Collection[int] = (),
    ) -> tuple[Tensor | None, Tensor | None]:
        # A timestep on another scale than Ovi's: it must come as 0..1.
        assert float(timestep.max()) <= 1.0
        moved = self.text(text).mean((1, 2)) + timestep
        if video is not None:
            tokens = self.video(video.flatten(2).transpose(1, 2)) + moved[:, None, None]
            video = tokens.transpose(1, 2).reshape(video.shape)
        if audio is not None:
            audio = self.audio(audio) + moved[:, None, None]
        return video, audio


def units(model: nn.Module) -> Iterator[str]:
    yield from ("video", "audio")


def flops(
    settings: LinearSettings, inputs: InputFormat, tokens: TokenCounts, gradients: Gradients
) -> Flops:
    per_video, per_audio = inputs.video_channels, inputs.audio_channels
    forward = 4.0 * settings.width * (tokens.video * per_video + tokens.audio * per_audio)
    return Flops(forward, 2 * forward, forward)


def activation_bytes(
    settings: LinearSettings, tokens: TokenCounts, *, matmul_bytes: int, recompute: bool
) -> float:
    return float(matmul_bytes * settings.width * (tokens.video + tokens.audio))


def linear() -> ModelFamily[LinearSettings]:
    """The family: what a recipe names as `module:linear`."""
    return ModelFamily(
        settings=LinearSettings,
        build=LinearModel,
        patch=lambda settings: (1, 1, 1),
        units=units,
        flops=flops,
        activation_bytes=activation_bytes,
        timestep_scale=1.0,
    )


class TrippingModel(LinearModel):
    """One whose velocities are not finite at high noise levels."""

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        timestep: Tensor,
        text: Tensor,
        **more: Any,
    ) -> tuple[Tensor | None, Tensor | None]:
        video, audio = super().forward(video, audio, timestep, text, **more)
        factor = torch.ones_like(timestep).masked_fill(timestep > TRIPS_ABOVE, torch.inf)
        if video is not None:
            video = video * factor[:, None, None, None, None]
        return video, audio


TRIPS_ABOVE = 0.85


def tripping() -> ModelFamily[LinearSettings]:
    """A family whose steps cannot all be taken."""
    return dataclasses.replace(linear(), build=TrippingModel)


def no_family() -> torch.device:
    """Something else."""
    return torch.device("cpu")
