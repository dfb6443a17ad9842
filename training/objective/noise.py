"""What is random about a step: noise, noise levels and dropped captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.loader import MicroBatch
from training.objective.flow import draw_sigma, shift_sigma
from training.objective.keys import generator as keyed
from training.objective.keys import uniform
from training.recipe import FlowSettings


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is random about a micro-batch: [B] noise levels and a noise for each latent.

    `text` has the prompts encoded, [B, length, dim], where a frozen encoder did that.
    """

    video_sigma: Tensor
    audio_sigma: Tensor
    video_noise: Tensor | None
    audio_noise: Tensor | None
    prompts: tuple[str, ...]
    text: Tensor | None = None


def draw(
    micro: MicroBatch, flow: FlowSettings, *, caption_dropout: float, seed: int, step: int
) -> Draw:
    """Noise, noise levels and dropped captions, each keyed by (seed, step, sample).

    No rank, batch or device has a part in them: any split of a batch sees the same numbers.

    Args:
        micro: clean latents and their captions.
        flow: distribution of the noise levels.
        caption_dropout: share of captions left empty.
        seed: of the run.
        step: of the run, from 0.
    """
    names = [(seed, step, sample_id) for sample_id in micro.sample_ids]
    shared = draw_sigma([keyed("sigma", *name) for name in names], flow.sigma, 1.0)
    other = shared
    if flow.coupling == "independent":
        other = draw_sigma([keyed("audio sigma", *name) for name in names], flow.sigma, 1.0)
    dropped = [uniform("caption", *name) < caption_dropout for name in names]
    prompts = tuple(
        "" if is_dropped else prompt
        for is_dropped, prompt in zip(dropped, micro.prompts, strict=True)
    )
    device = micro.weights.device
    text = micro.text
    if text is not None and micro.empty_text is not None:
        where = torch.tensor(dropped, device=device)[:, None, None]
        text = torch.where(where, micro.empty_text, text)
    return Draw(
        shift_sigma(shared, flow.video_shift).to(device),
        shift_sigma(other, flow.audio_shift).to(device),
        noise_like(micro.video, [("video noise", *name) for name in names]),
        noise_like(micro.audio, [("audio noise", *name) for name in names]),
        prompts,
        text,
    )


def noise_like(latents: Tensor | None, names: Sequence[tuple[object, ...]]) -> Tensor | None:
    """Standard normal noise [B, ...] like the latents, each sample's keyed by its name."""
    if latents is None:
        return None
    shape = latents.shape[1:]
    drawn = [torch.randn(shape, generator=keyed(*name)) for name in names]
    return torch.stack(drawn).to(latents.device)
