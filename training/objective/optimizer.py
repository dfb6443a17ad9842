"""The optimiser: what it trains, and how fast."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.recipe import OptimizerSettings


def build_optimizer(generator: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over what is trainable, a group for each factor of the learning rate."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in generator.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rate_factor(name, settings.rates), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "factor": factor} for factor, members in sorted(groups.items())],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        # One kernel instead of a dozen operations for each sharded parameter.
        fused=True,
    )


def step_if_finite(optimizer: torch.optim.AdamW, norm: Tensor) -> None:
    """Step where the gradients' norm is finite, else leave weights, moments and counts as they are.

    Decided on the device: the processor does not wait to learn which of the two it was.

    Args:
        optimizer: from `build_optimizer`.
        norm: a scalar, equal on all ranks.
    """
    # What torch's own GradScaler tells a fused optimiser: where it is 1 the kernel changes nothing.
    optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    optimizer.step()


def learning_rate(settings: OptimizerSettings, step: int, *, steps: int) -> float:
    """The rate of a step, counted from 0: warmed up linearly, then constant or a cosine.

    Args:
        settings: rate, warm-up and decay.
        step: counted from 0.
        steps: of the whole run.
    """
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.decay == "cosine":
        done = min(1.0, step / steps)
        rate *= 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
    return rate


def rate_factor(name: str, rates: Mapping[str, float]) -> float:
    """The factor of the learning rate for a parameter: that of the first pattern that fits."""
    for pattern, factor in rates.items():
        if fnmatch.fnmatchcase(name, pattern):
            return factor
    return 1.0
