"""What a recipe costs, before it is paid for: parameters, tokens, operations, memory, hours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from training.data.geometry import geometry_of
from training.data.order import Shape
from training.models.family import Gradients, TokenCounts
from training.models.generator import Generator, build_generator, input_format
from training.models.registry import find_family
from training.objective.tasks import TASKS, TaskName
from training.recipe import Recipe

_FP32, _BF16 = 4, 2
_SECONDS_OF_HOUR = 3600
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What a run of a recipe takes.

    Attributes:
        parameters: of all that a run holds: the model, and a text encoder that is trained with it.
            Codecs and text encoders that stand outside are not counted.
        trained_parameters: of them, those that the recipe trains.
        shape: columns x rows x frames of the video counted with.
        video_tokens: of a sample.
        audio_tokens: of a sample.
        text_tokens: of a sample.
        sample_tflop: operations of a sample's training step, in 10^12, the mean of the recipe's
            tasks: of frozen weights no gradients, of recomputed units the second run too.
        step_tflop: of a step over the whole batch.
        run_eflop: of the whole run, in 10^18.
        state_gb_per_rank: a rank's share of weights, gradients and optimiser state, in fp32.
        gathered_gb: weights that are whole on each rank at a time: the largest unit twice (the next
            is fetched ahead), and all that is in no unit, in fp32, for the whole of a step.
        gradients_gb: whole on each rank: those of the largest unit, as computed and as exchanged;
            where a step has several micro-batches also those of all trained parameters, in fp32,
            which are exchanged after the last.
        activations_gb: kept for the backward pass of one micro-batch, of the task with most; an
            estimate, without the allocator's waste.
        memory_gb_per_rank: the four together.
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
    gradients_gb: float
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
    family = find_family(recipe.model.family)
    shape = geometry_of(recipe).clip(*aspect)
    with torch.device("meta"):
        generator = build_generator(recipe)
    sizes = _Sizes.of(generator)
    weights = sum(recipe.tasks.values())
    sample = sum(
        weight / weights * task_flops(recipe, generator, shape, task)
        for task, weight in recipe.tasks.items()
    )
    run = sample * recipe.batch * recipe.steps
    matmul_bytes = _FP32 if recipe.precision == "fp32" else _BF16
    state = (_FP32 * sizes.all + 3 * _FP32 * sizes.trained) / ranks
    gathered = 2 * matmul_bytes * sizes.largest_unit + _FP32 * sizes.outside_units
    gradients = (matmul_bytes + _FP32) * sizes.largest_trained_unit
    if -(-recipe.batch // ranks) > recipe.micro_batch:
        gradients += _FP32 * sizes.trained
    activations = recipe.micro_batch * max(
        family.activation_bytes(
            recipe.model,
            task_tokens(recipe, shape, task),
            matmul_bytes=matmul_bytes,
            recompute=recipe.recompute,
        )
        for task in recipe.tasks
    )
    rank_s = run / (peak_tflops * 1e12 * utilisation)
    tokens = [task_tokens(recipe, shape, task) for task in recipe.tasks]
    return TrainingPlan(
        parameters=sizes.all,
        trained_parameters=sizes.trained,
        shape=f"{shape.width} x {shape.height} x {shape.frames}",
        video_tokens=max(one.video for one in tokens),
        audio_tokens=max(one.audio for one in tokens),
        text_tokens=recipe.text.length,
        sample_tflop=sample / 1e12,
        step_tflop=sample * recipe.batch / 1e12,
        run_eflop=run / 1e18,
        state_gb_per_rank=state / _GB,
        gathered_gb=gathered / _GB,
        gradients_gb=gradients / _GB,
        activations_gb=activations / _GB,
        memory_gb_per_rank=(state + gathered + gradients + activations) / _GB,
        rank_hours=rank_s / _SECONDS_OF_HOUR,
        run_hours=rank_s / ranks / _SECONDS_OF_HOUR,
    )


def task_tokens(recipe: Recipe, shape: Shape, task: TaskName) -> TokenCounts:
    """Tokens of a sample of this shape, without those of a modality that the task leaves out."""
    geometry, parts = geometry_of(recipe), TASKS[task]
    return TokenCounts(
        geometry.video_tokens(shape) if parts.video is not None else 0,
        geometry.audio_tokens(shape) if parts.audio is not None else 0,
        recipe.text.length,
    )


def task_flops(recipe: Recipe, generator: Generator, shape: Shape, task: TaskName) -> float:
    """Operations of a training step on one sample of this shape, its prompt included.

    What an adapter of low rank adds to its map, about a hundredth, is left out.

    Args:
        recipe: of the run.
        generator: of the recipe, on any device.
        shape: of the sample.
        task: what is generated.
    """
    geometry, parts = geometry_of(recipe), TASKS[task]
    trained = _trained(generator)
    text_trained = any(name.startswith("text_encoder.") for name in trained)
    gradients = Gradients(
        trained=lambda name: f"model.{name}" in trained,
        text=text_trained,
        video=parts.generated("video", geometry.video_latent(shape)[1]) > 0,
        audio=parts.generated("audio", geometry.audio_tokens(shape)) > 0,
    )
    counted = find_family(recipe.model.family).flops(
        recipe.model, input_format(recipe), task_tokens(recipe, shape, task), gradients
    )
    text = recipe.text.forward_flops() * (3 if text_trained else 1)
    return text + counted.forward + counted.backward + counted.recomputed * recipe.recompute


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """How many parameters there are: trained, in the largest unit, in none."""

    all: int
    trained: int
    largest_unit: int
    largest_trained_unit: int
    outside_units: int

    @classmethod
    def of(cls, generator: Generator) -> _Sizes:
        sizes = {name: one.numel() for name, one in generator.named_parameters()}
        trained = {name: sizes[name] for name in _trained(generator)}
        units = [f"{unit}." for unit in generator.units]
        in_units = [_within(unit, sizes) for unit in units]
        trained_in_units = [_within(unit, trained) for unit in units]
        trained_rest = sum(trained.values()) - sum(trained_in_units)
        return cls(
            all=sum(sizes.values()),
            trained=sum(trained.values()),
            largest_unit=max(in_units, default=0),
            largest_trained_unit=max([trained_rest, *trained_in_units]),
            outside_units=sum(sizes.values()) - sum(in_units),
        )


def _trained(generator: Generator) -> set[str]:
    return {name for name, one in generator.named_parameters() if one.requires_grad}


def _within(unit: str, sizes: Mapping[str, int]) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(unit))
