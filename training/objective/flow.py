"""Flow matching on straight paths, in the released models' convention.

Noise level sigma runs from 0 (data) to 1 (noise): x = (1 - sigma) * data + sigma * noise, and the
model predicts the velocity noise - data. Ovi's equation 3 is its mirror image, t = 1 - sigma.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

SigmaDistribution = Literal["uniform", "logit-normal"]
FIRST_SIGMA = 0.999
"""Where the released sampler's grid starts before it is shifted."""


def interpolate(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The noisy latent. `sigma` [B] has a value per sample; data and noise [B, ...]."""
    level = sigma.view(-1, *(1,) * (data.dim() - 1))
    return (1 - level) * data + level * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """What the model is to predict: noise - data."""
    return noise - data


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards noise (shift > 1): s -> shift s / (1 + (shift - 1) s)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_sigma(
    generators: list[torch.Generator], distribution: SigmaDistribution, shift: float
) -> Tensor:
    """One noise level a sample, [B] float32, each from its own generator.

    Args:
        generators: one a sample.
        distribution: `uniform` as in the paper, or `logit-normal` (Esser et al., 2024).
        shift: applied afterwards; 1 leaves the distribution as it is.
    """
    if distribution == "uniform":
        drawn = [torch.rand(1, generator=own) for own in generators]
    else:
        drawn = [torch.randn(1, generator=own).sigmoid() for own in generators]
    return shift_sigma(torch.cat(drawn), shift)


def sigma_grid(steps: int, shift: float) -> Tensor:
    """Noise levels of a sampling run, [steps + 1] float32, from noise to exactly 0.

    As the released sampler: evenly spaced from 0.999, shifted.
    """
    levels = torch.linspace(FIRST_SIGMA, 0.0, steps + 1, dtype=torch.float64)[:-1]
    return torch.cat((shift_sigma(levels, shift), torch.zeros(1, dtype=torch.float64))).float()


Velocity = Callable[[tuple[Tensor, ...], float], tuple[Tensor, ...]]
"""Velocities of several latents at once, given the latents and the noise level they share."""


def integrate(
    latents: tuple[Tensor, ...],
    velocity_of: Velocity,
    sigmas: Tensor,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, ...]:
    """Carry latents along their velocities from noise to data.

    Second-order Adams-Bashforth in sigma (the first step is Euler's): one evaluation a step, and
    exact where velocities change linearly.

    Args:
        latents: noise, one tensor a modality.
        velocity_of: the model, with guidance.
        sigmas: from `sigma_grid`.
        on_step: told how many steps are done.
    """
    before: tuple[Tensor, ...] | None = None
    before_size = math.nan
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        size = float(following - sigma)
        now = velocity_of(latents, float(sigma))
        if before is None:
            slopes = now
        else:
            ratio = size / before_size / 2
            slopes = tuple(v + ratio * (v - u) for v, u in zip(now, before, strict=True))
        latents = tuple(x + size * slope for x, slope in zip(latents, slopes, strict=True))
        before, before_size = now, size
        if on_step is not None:
            on_step(step + 1)
    return latents
