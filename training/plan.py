"""What a recipe costs, before it is paid for: parameters, tokens, operations, memory, hours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from training.data.geometry import geometry_of
from training.models.family import JointModel, TokenCounts
from training.models.generator import build_model, input_format, is_trainable
from training.models.registry import find_family
from training.recipe import Recipe

_FP32, _BF16 = 4, 2
_SECONDS_OF_HOUR = 3600
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What a run of a recipe takes.

    Attributes:
        parameters: of the model; the text encoder and the codecs are not counted.
        trained_parameters: of them, those that the recipe trains.
        shape: columns x rows x frames of the video counted with.
        video_tokens: of a sample.
        audio_tokens: of a sample.
        text_tokens: of a sample.
        sample_tflop: operations of a sample's training step, in 10^12.
        step_tflop: of a step over the whole batch.
        run_eflop: of the whole run, in 10^18.
        state_gb_per_rank: weights, gradients and optimiser state on each rank.
        gathered_gb: the largest unit of weights that is whole on each rank at a time, twice (the
            next is fetched ahead).
        activations_gb: kept for the backward pass of one micro-batch; an estimate, without the
            allocator's waste.
        memory_gb_per_rank: the three together.
        rank_hours: of the whole run, all ranks together, at the given speed and utilisation.
        run_hours: the same by the clock.
    """

    parameters: int
    trained_parameters: int
    shape: str
    video_tokens: int
    audio_tokens: int
    text_tokens: int
    sample_tflop: float
    step_tflop: float
    run_eflop: float
    state_gb_per_rank: float
    gathered_gb: float
    activations_gb: float
    memory_gb_per_rank: float
    rank_hours: float
    run_hours: float


def plan_training(
    recipe: Recipe, *, ranks: int, peak_tflops: float, utilisation: float, aspect: tuple[int, int]
) -> TrainingPlan:
    """Work out what a recipe takes; allocates nothing.

    Args:
        recipe: of the run.
        ranks: accelerators.
        peak_tflops: of one of them, in the recipe's precision.
        utilisation: share of the peak that training reaches, 0..1.
        aspect: columns and rows, in any unit, of the video to count with.
    """
    family, settings = find_family(recipe.model.family), recipe.model
    with torch.device("meta"):
        model = build_model(recipe)
    geometry = geometry_of(recipe)
    shape = geometry.clip(*aspect)
    tokens = TokenCounts(
        geometry.video_tokens(shape), geometry.audio_tokens(shape), recipe.text.length
    )
    sizes = {f"model.{name}": one.numel() for name, one in model.named_parameters()}
    trained = sum(size for name, size in sizes.items() if is_trainable(name, recipe.trainable))
    # A backward pass costs two forward passes; recomputing the activations a third.
    passes = 4 if recipe.recompute else 3
    sample = passes * family.forward_flops(settings, input_format(recipe), tokens)
    run = sample * recipe.batch * recipe.steps
    matmul_bytes = _FP32 if recipe.precision == "fp32" else _BF16
    state = (_FP32 * sum(sizes.values()) + 3 * _FP32 * trained) / ranks
    gathered = 2 * _largest_unit(model, family.units(model)) * matmul_bytes
    activations = recipe.micro_batch * family.activation_bytes(
        settings, tokens, matmul_bytes=matmul_bytes, recompute=recipe.recompute
    )
    rank_s = run / (peak_tflops * 1e12 * utilisation)
    return TrainingPlan(
        parameters=sum(sizes.values()),
        trained_parameters=trained,
        shape=f"{shape.width} x {shape.height} x {shape.frames}",
        video_tokens=tokens.video,
        audio_tokens=tokens.audio,
        text_tokens=tokens.text,
        sample_tflop=sample / 1e12,
        step_tflop=sample * recipe.batch / 1e12,
        run_eflop=run / 1e18,
        state_gb_per_rank=state / _GB,
        gathered_gb=gathered / _GB,
        activations_gb=activations / _GB,
        memory_gb_per_rank=(state + gathered + activations) / _GB,
        rank_hours=rank_s / _SECONDS_OF_HOUR,
        run_hours=rank_s / ranks / _SECONDS_OF_HOUR,
    )


def _largest_unit(model: JointModel, units: Iterable[str]) -> int:
    """Parameters of the largest part that is gathered at once: the whole model without units."""
    parts = [model.get_submodule(name) for name in units] or [model]
    return max(sum(one.numel() for one in part.parameters()) for part in parts)
