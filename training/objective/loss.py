"""From a micro-batch, a task and its noise to the model's inputs and the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.data.geometry import Geometry
from training.data.loader import MicroBatch
from training.data.order import GlobalBatch
from training.models.generator import Generator
from training.objective.flow import interpolate
from training.objective.noise import Draw
from training.objective.tasks import MODALITIES, TASKS, Modality, Part, Task
from training.recipe import LossSettings


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
        targets[modality] = generator.target(data, noise, sigma)
        open_[modality] = ~mask
        given[f"{modality}_given"] = given_tokens(part, data, modality, generator.patch)
    predicted = generator(
        latents["video"],
        latents["audio"],
        drawn.video_sigma,
        drawn.prompts if drawn.text is None else drawn.text,
        audio_sigma=drawn.audio_sigma,
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
    part: Part, data: Tensor, modality: Modality, patch: tuple[int, int, int]
) -> Tensor | None:
    """Which tokens are given, bool [B, tokens]; None where none is.

    Args:
        part: the modality's part in the task.
        data: latents [B, C, F, H, W] or [B, L, C].
        modality: which of the two.
        patch: video latents a token along time, rows and columns.
    """
    if not part.gives:
        return None
    if modality == "audio":
        mask = part.given(data.shape[1])
    else:
        f, h, w = patch
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
    loss_weights: LossSettings,
) -> tuple[Tensor, dict[Modality, Tensor]]:
    """The loss of a micro-batch, and each modality's unweighted part of it.

    Sums are divided by the counts of the whole batch, so that adding up micro-batches and ranks
    gives the batch's mean squared errors.

    Args:
        sums: from `errors`.
        weights: [B], 0 for samples that another rank counts.
        elements: from `generated_elements`.
        loss_weights: of the modalities.
    """
    parts: dict[Modality, Tensor] = {
        modality: (total * weights).sum() / elements[modality]
        for modality, total in sums.items()
        if elements[modality]
    }
    scale = {"video": loss_weights.video, "audio": loss_weights.audio}
    loss = torch.stack([scale[modality] * part for modality, part in parts.items()]).sum()
    return loss, {modality: part.detach() for modality, part in parts.items()}
