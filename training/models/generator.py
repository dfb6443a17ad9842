"""A joint generator: a family's model with its text encoder, as a recipe describes them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.data.geometry import geometry_of
from training.models.family import InputFormat, JointModel
from training.models.lora import add_adapters, is_adapter
from training.models.registry import find_family
from training.objective.flow import Prediction, interpolate, velocity, velocity_towards
from training.objective.keys import key
from training.recipe import Recipe
from training.text.encoder import TextEncoder


class Generator(nn.Module):
    """A joint model with its text encoder: all that a run trains and a checkpoint holds.

    Args:
        model: predicts velocities or data.
        text_encoder: of its prompts; None if it is a frozen one, which stands outside.
        prediction: which of the two the model predicts.
        timestep_scale: the model's timestep at noise level 1.
        patch: video latents a token along time, rows and columns.
        units: names of the parts that are sharded and recomputed as one, from here.
    """

    def __init__(
        self,
        model: JointModel,
        text_encoder: TextEncoder | None,
        *,
        prediction: Prediction,
        timestep_scale: float,
        patch: tuple[int, int, int],
        units: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.text_encoder = text_encoder
        self.prediction = prediction
        self.timestep_scale = timestep_scale
        self.patch = patch
        self.units = tuple(units)

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        sigma: Tensor,
        prompts: Sequence[str] | Tensor,
        *,
        audio_sigma: Tensor | None = None,
        audio_prompts: Sequence[str] | Tensor | None = None,
        **conditions: Any,  # noqa: ANN401 - those of the model
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities of both latents, as `JointModel.forward` with prompts for text.

        Args:
            video: noisy latent [B, C, F, H, W] or None.
            audio: noisy latent [B, L, C] or None.
            sigma: noise levels [B] in 0..1.
            prompts: one a sample, or what the text encoder made of them.
            audio_sigma: the audio's own, where they differ.
            audio_prompts: the audio's own, where they differ.
            conditions: further arguments of `JointModel.forward`.
        """
        if audio_sigma is not None:
            conditions["audio_timestep"] = self.timestep_scale * audio_sigma
        if audio_prompts is not None:
            conditions["audio_text"] = self._encoded(audio_prompts)
        predicted: tuple[Tensor | None, Tensor | None] = self.model(
            video, audio, self.timestep_scale * sigma, self._encoded(prompts), **conditions
        )
        if self.prediction == "velocity":
            return predicted
        levels = (sigma, sigma if audio_sigma is None else audio_sigma)
        v, a = (
            None if noisy is None or data is None else velocity_towards(noisy, data, level)
            for noisy, data, level in zip((video, audio), predicted, levels, strict=True)
        )
        return v, a

    def target(self, data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The velocity that a perfect model would give for data [B, ...] under noise [B, ...]."""
        if self.prediction == "velocity":
            return velocity(data, noise)
        return velocity_towards(interpolate(data, noise, sigma), data, sigma)

    def _encoded(self, prompts: Sequence[str] | Tensor) -> Tensor:
        if isinstance(prompts, Tensor):
            return prompts
        assert self.text_encoder is not None, "a frozen encoder's prompts come encoded"
        return self.text_encoder(prompts)


def build_generator(recipe: Recipe) -> Generator:
    """The model and text encoder of a recipe, initialised by the recipe's seed.

    Raises:
        UsageError: `missing_package`, `missing_weights`, `bad_weights` or `no_lora_targets`.
    """
    family = find_family(recipe.model.family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("initialise", recipe.seed))
        text_encoder = None if recipe.text.is_frozen else recipe.text.build()
        model = build_model(recipe)
    generator = Generator(
        model,
        text_encoder,
        prediction=recipe.prediction,
        timestep_scale=family.timestep_scale,
        patch=family.patch(recipe.model),
        units=[f"model.{name}" for name in family.units(model)],
    )
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(
            is_trainable(name, recipe.trainable) if recipe.lora is None else is_adapter(name)
        )
    return generator


def build_model(recipe: Recipe) -> JointModel:
    """The model alone, with its adapters; under `torch.device("meta")` it costs nothing.

    Raises:
        UsageError: `no_lora_targets`.
    """
    model = find_family(recipe.model.family).build(recipe.model, input_format(recipe))
    if recipe.lora is not None:
        add_adapters(model, recipe.lora)
    return model


def input_format(recipe: Recipe) -> InputFormat:
    """What a recipe's codecs and text encoder hand to its model."""
    return InputFormat(
        video_channels=recipe.video.codec.channels,
        audio_channels=recipe.audio.codec.channels,
        text_dim=recipe.text.dim,
        text_length=recipe.text.length,
        latent_rate_ratio=geometry_of(recipe).latent_rate_ratio(),
    )


def is_trainable(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter is trained, by its name and the recipe's patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
