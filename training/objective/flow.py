"""Flow matching on straight paths, in the released models' convention.

Noise level sigma runs from 0 (data) to 1 (noise): x = (1 - sigma) * data + sigma * noise, and the
model predicts the velocity noise - data. Ovi's equation 3 is its mirror image, t = 1 - sigma.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SigmaDistribution = Literal["uniform", "logit-normal"]
Prediction = Literal["velocity", "data"]
"""What a model's output stands for.

A velocity is as noisy as the noise that it points to, so that a model has to carry all of a token's
numbers through its width. Data lies near a surface of few dimensions, which a narrow model can
learn: where a token has more numbers than the model has room for, predict the data (Li and He,
"Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720, section 3).
"""
LEAST_SIGMA = 0.05
"""A velocity follows from data by dividing by the noise level, which is 0 at the end of the way:
below this one it is divided by this one, as in the same paper (its section 4), or errors of the
least noisy samples would outweigh all others.
"""
FIRST_SIGMA = 0.999
"""Where the released sampler's grid starts before it is shifted."""


def interpolate(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The noisy latent. `sigma` [B] has a value per sample; data and noise [B, ...]."""
    level = sigma.view(-1, *(1,) * (data.dim() - 1))
    return (1 - level) * data + level * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """What the model is to predict: noise - data."""
    return noise - data


def velocity_towards(noisy: Tensor, data: Tensor, sigma: Tensor) -> Tensor:
    """The velocity away from data, (noisy - data) / max(sigma, `LEAST_SIGMA`).

    The same as `velocity` for the noisy latent of `interpolate` from that level on.

    Args:
        noisy: [B, ...].
        data: like it: true or predicted.
        sigma: noise levels [B].
    """
    level = sigma.clamp(min=LEAST_SIGMA).view(-1, *(1,) * (noisy.dim() - 1))
    return (noisy - data) / level


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
