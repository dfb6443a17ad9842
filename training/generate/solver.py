"""Solvers: from noise along the model's velocities to data, a step for each level of a grid.

All share one face (`Solver`); `SOLVERS` has them by the name that a recipe says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

Latents = tuple[Tensor, ...]
Velocity = Callable[[Latents, float], Latents]
"""Velocities of several latents at once, given the latents and the noise level they share."""
OnStep = Callable[[int, Latents], None]
"""Told after each step how many are done, and where the latents stand."""
SolverName = Literal["unipc", "adams-bashforth"]


class Solver(Protocol):
    """Carries latents along their velocities from noise to data."""

    def __call__(
        self, latents: Latents, velocity_of: Velocity, sigmas: Tensor, on_step: OnStep | None = None
    ) -> Latents:
        """The latents at noise level 0; the model is asked once a step.

        Args:
            latents: noise, one tensor a modality.
            velocity_of: the model, with guidance.
            sigmas: from `sigma_grid`, on the CPU.
            on_step: told of every step.
        """


def adams_bashforth(
    latents: Latents, velocity_of: Velocity, sigmas: Tensor, on_step: OnStep | None = None
) -> Latents:
    """Second-order Adams-Bashforth in sigma; the first step is Euler's.

    Exact where velocities change linearly with sigma.
    """
    before: Latents | None = None
    before_size = math.nan
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas.tolist())):
        size = following - sigma
        now = velocity_of(latents, sigma)
        slopes = now
        if before is not None:
            ratio = size / before_size / 2
            slopes = tuple(v + ratio * (v - u) for v, u in zip(now, before, strict=True))
        latents = tuple(x + size * slope for x, slope in zip(latents, slopes, strict=True))
        before, before_size = now, size
        if on_step is not None:
            on_step(step + 1, latents)
    return latents


def unipc(
    latents: Latents, velocity_of: Velocity, sigmas: Tensor, on_step: OnStep | None = None
) -> Latents:
    """UniPC of second order, B2(h), on predicted data (Zhao et al., 2023), as Ovi releases it.

    Each step asks the model once: what it says corrects the step that led there (UniC), then
    predicts the next (UniP). The first and the last step are of first order; the last one, to level
    0, takes the predicted data. The model is told the level in whole thousandths, rounded down, as
    it is in the release; the solver goes by the exact one.
    """
    levels = sigmas.tolist()
    start = latents  # where the step before began
    known: list[Latents] = []  # data predicted at the levels so far: the last two are needed
    for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
        told = int(1000 * sigma) / 1000
        velocities = velocity_of(latents, told)
        predicted = tuple(x - sigma * v for x, v in zip(latents, velocities, strict=True))
        if step > 0:
            order = min(2, len(known))
            weights = _corrector(levels[step - order : step + 1])
            latents = _combine(weights, start, (*known[-order:], predicted))
        known = [*known[-1:], predicted]
        order = 1 if following == 0 else min(2, len(known))
        weights = _predictor(levels[step + 1 - order : step + 2])
        start, latents = latents, _combine(weights, latents, known[-order:])
        if on_step is not None:
            on_step(step + 1, latents)
    return latents


SOLVERS: dict[SolverName, Solver] = {"unipc": unipc, "adams-bashforth": adams_bashforth}


def _predictor(levels: Sequence[float]) -> list[float]:
    """Weights of a predicting step (UniP) from the last but one level to the last.

    Args:
        levels: of the data that is known, in order, then the one to reach.

    Returns:
        The weight of the latent at the start, then one for each predicted datum.
    """
    *_, start, end = levels
    if end == 0:
        # The limit: the data as predicted.
        return [0.0, *[0.0] * (len(levels) - 2), 1.0]
    gain = -(1 - end) * math.expm1(-_log_snr_step(start, end))
    if len(levels) == 2:
        return [end / start, gain]
    ratio = _log_snr_step(start, levels[0]) / _log_snr_step(start, end)
    slope = gain / (2 * ratio)
    return [end / start, slope, gain - slope]


def _corrector(levels: Sequence[float]) -> list[float]:
    """Weights of a corrected step (UniC) from the last but one level to the last.

    As `_predictor`, with the datum that was predicted at the end as one more.
    """
    *_, start, end = levels
    step = _log_snr_step(start, end)
    growth = math.expm1(-step)
    gain = -(1 - end) * growth
    if len(levels) == 2:
        return [end / start, gain / 2, gain / 2]
    ratio = _log_snr_step(start, levels[0]) / step
    # The moments that weights of the two differences have to meet.
    first = (-growth / step - 1) / growth
    second = 2 * ((growth / step + 1) / step - 0.5) / growth
    before = (first - second) / (1 - ratio)
    after = first - before
    return [
        end / start,
        gain * before / ratio,
        gain * (1 - before / ratio - after),
        gain * after,
    ]


def _log_snr_step(start: float, end: float) -> float:
    """How much the logarithm of (1 - sigma) / sigma grows between two levels."""
    return math.log((1 - end) * start) - math.log((1 - start) * end)


def _combine(weights: Sequence[float], latents: Latents, predicted: Sequence[Latents]) -> Latents:
    """Weighted sums, for each modality, of its latent and its predicted data."""
    return tuple(
        sum((weight * one for weight, one in zip(weights, terms, strict=True)), torch.zeros(()))
        for terms in zip(latents, *predicted, strict=True)
    )
