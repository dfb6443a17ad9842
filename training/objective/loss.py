"""The training objective: from a micro-batch and a task to the model's inputs and the loss."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from training.data.geometry import Geometry
from training.data.loader import MicroBatch
from training.data.order import GlobalBatch
from training.models.generator import Generator
from training.models.ovi.model import TIMESTEPS
from training.objective.flow import draw_sigma, interpolate, shift_sigma, velocity
from training.objective.keys import generator as keyed
from training.objective.keys import uniform
from training.objective.tasks import TASKS, Part, Task
from training.recipe import Recipe

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, Modality] = ("video", "audio")


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is random about a micro-batch: [B] noise levels and a noise for each latent."""

    video_sigma: Tensor
    audio_sigma: Tensor
    video_noise: Tensor | None
    audio_noise: Tensor | None
    prompts: tuple[str, ...]


def draw(micro: MicroBatch, recipe: Recipe, step: int) -> Draw:
    """Noise, noise levels and dropped captions, each keyed by (seed, step, sample).

    No rank, batch or device has a part in them: any split of a batch sees the same numbers.
    """
    names = [(recipe.seed, step, sample_id) for sample_id in micro.sample_ids]
    flow = recipe.flow
    shared = draw_sigma([keyed("sigma", *name) for name in names], flow.sigma, 1.0)
    other = shared
    if flow.coupling == "independent":
        other = draw_sigma([keyed("audio sigma", *name) for name in names], flow.sigma, 1.0)
    prompts = tuple(
        "" if uniform("caption", *name) < recipe.caption_dropout else prompt
        for name, prompt in zip(names, micro.prompts, strict=True)
    )
    device = micro.weights.device
    return Draw(
        shift_sigma(shared, flow.video_shift).to(device),
        shift_sigma(other, flow.audio_shift).to(device),
        noise_like(micro.video, [("video noise", *name) for name in names]),
        noise_like(micro.audio, [("audio noise", *name) for name in names]),
        prompts,
    )


def noise_like(latents: Tensor | None, names: Sequence[tuple[object, ...]]) -> Tensor | None:
    """Standard normal noise [B, ...] like the latents, each sample's keyed by its name."""
    if latents is None:
        return None
    shape = latents.shape[1:]
    drawn = [torch.randn(shape, generator=keyed(*name)) for name in names]
    return torch.stack(drawn).to(latents.device)


def errors(
    generator: Generator, micro: MicroBatch, task: Task, drawn: Draw
) -> dict[Modality, Tensor]:
    """Sums of squared velocity errors over generated latents, [B] a modality.

    Args:
        generator: predicts velocities.
        micro: clean latents.
        task: which of them are given.
        drawn: noise and prompts.
    """
    latents: dict[Modality, Tensor | None] = {"video": None, "audio": None}
    targets: dict[Modality, Tensor] = {}
    open_: dict[Modality, Tensor] = {}
    given: dict[str, Tensor | None] = {}
    sources: tuple[tuple[Modality, Part | None, Tensor | None, Tensor | None, Tensor], ...] = (
        ("video", task.video, micro.video, drawn.video_noise, drawn.video_sigma),
        ("audio", task.audio, micro.audio, drawn.audio_noise, drawn.audio_sigma),
    )
    for modality, part, data, noise, sigma in sources:
        if part is None or data is None or noise is None:
            continue
        mask = given_latents(part, data, modality)
        latents[modality] = torch.where(mask, data, interpolate(data, noise, sigma))
        targets[modality] = velocity(data, noise)
        open_[modality] = ~mask
        given[f"{modality}_given"] = given_tokens(part, data, modality, generator)
    predicted = generator(
        latents["video"],
        latents["audio"],
        TIMESTEPS * drawn.video_sigma,
        drawn.prompts,
        audio_timestep=TIMESTEPS * drawn.audio_sigma,
        **given,
    )
    sums: dict[Modality, Tensor] = {}
    for modality, prediction in zip(MODALITIES, predicted, strict=True):
        if prediction is not None:
            squares = (prediction.float() - targets[modality]).square() * open_[modality]
            sums[modality] = squares.flatten(1).sum(1)
    return sums


def given_latents(part: Part, data: Tensor, modality: Modality) -> Tensor:
    """Which latents are given, bool and broadcastable over [B, C, F, H, W] or [B, L, C]."""
    if modality == "video":
        return part.given(data.shape[2]).to(data.device).view(1, 1, -1, 1, 1)
    return part.given(data.shape[1]).to(data.device).view(1, -1, 1)


def given_tokens(
    part: Part, data: Tensor, modality: Modality, generator: Generator
) -> Tensor | None:
    """Which tokens are given, bool [B, tokens]; None where none is."""
    if not part.gives:
        return None
    if modality == "audio":
        mask = part.given(data.shape[1])
    else:
        f, h, w = generator.model.video_model.configuration.patch_size
        in_frame = (data.shape[3] // h) * (data.shape[4] // w)
        mask = part.given(data.shape[2])[::f].repeat_interleave(in_frame)
    return mask.to(data.device).expand(data.shape[0], -1)


def generated_elements(batch: GlobalBatch, geometry: Geometry) -> dict[Modality, int]:
    """How many numbers of each modality all ranks together are to generate."""
    task, count = TASKS[batch.task], len(batch.samples)
    channels, frames, rows, columns = geometry.video_latent(batch.shape)
    length, width = geometry.audio_latent(batch.shape)
    return {
        "video": count * task.generated("video", frames) * channels * rows * columns,
        "audio": count * task.generated("audio", length) * width,
    }


def weighted_loss(
    sums: Mapping[Modality, Tensor],
    weights: Tensor,
    elements: Mapping[Modality, int],
    recipe: Recipe,
) -> tuple[Tensor, dict[Modality, Tensor]]:
    """The loss of a micro-batch, and each modality's unweighted part of it.

    Sums are divided by the counts of the whole batch, so that adding up micro-batches and ranks
    gives the batch's mean squared errors.

    Args:
        sums: from `errors`.
        weights: [B], 0 for samples that another rank counts.
        elements: from `generated_elements`.
        recipe: has the modalities' weights.
    """
    parts: dict[Modality, Tensor] = {
        modality: (total * weights).sum() / elements[modality]
        for modality, total in sums.items()
        if elements[modality]
    }
    scale = {"video": recipe.loss.video, "audio": recipe.loss.audio}
    loss = torch.stack([scale[modality] * part for modality, part in parts.items()]).sum()
    return loss, {modality: part.detach() for modality, part in parts.items()}


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of a step, counted from 0: warmed up linearly, then constant or a cosine."""
    settings = recipe.optimizer
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.decay == "cosine":
        done = min(1.0, step / recipe.steps)
        rate *= 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
    return rate


def rate_factor(name: str, recipe: Recipe) -> float:
    """The factor of the learning rate for a parameter, by its name."""
    for pattern, factor in recipe.optimizer.rates.items():
        if fnmatch.fnmatchcase(name, pattern):
            return factor
    return 1.0
