"""What a recipe costs, before it is paid for: parameters, tokens, operations, memory, hours."""

from __future__ import annotations

import dataclasses

import torch

from training.data.geometry import Geometry
from training.models.generator import build_model, is_trainable
from training.models.ovi.model import OviModel
from training.recipe import Recipe

_FP32, _BF16 = 4, 2
_SECONDS_OF_HOUR = 3600
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What a run of a recipe takes.

    Attributes:
        parameters: of both towers; the text encoder and the codecs are not counted.
        trained_parameters: of them, those that the recipe trains.
        shape: columns x rows x frames of the pictures counted with.
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
        aspect: columns and rows, in any unit, of the pictures to count with.
    """
    with torch.device("meta"):
        model = build_model(recipe)
    geometry = Geometry(recipe)
    shape = geometry.clip(*aspect)
    video, audio = geometry.video_tokens(shape), geometry.audio_tokens(shape)
    sizes = {f"model.{name}": one.numel() for name, one in model.named_parameters()}
    trained = sum(size for name, size in sizes.items() if is_trainable(name, recipe))
    # A backward pass costs two forward passes; recomputing the activations a third.
    passes = 4 if recipe.recompute else 3
    sample = passes * model.forward_flops(video, audio, recipe.text.length)
    run = sample * recipe.batch * recipe.steps
    half = recipe.precision != "fp32"
    state = (_FP32 * sum(sizes.values()) + 3 * _FP32 * trained) / ranks
    gathered = 2 * _largest_unit(model) * (_BF16 if half else _FP32)
    activations = recipe.micro_batch * activation_bytes(recipe, video, audio)
    rank_s = run / (peak_tflops * 1e12 * utilisation)
    return TrainingPlan(
        parameters=sum(sizes.values()),
        trained_parameters=trained,
        shape=f"{shape.width} x {shape.height} x {shape.frames}",
        video_tokens=video,
        audio_tokens=audio,
        text_tokens=recipe.text.length,
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


def activation_bytes(recipe: Recipe, video_tokens: int, audio_tokens: int) -> float:
    """Bytes that one sample's forward pass leaves behind for its backward pass, about.

    Counted per token of a block. Outside the units: the residual stream's norms, modulations and
    gates, in fp32, nine times the width. Inside, in the precision of matrix products: the inputs of
    the three units alone when they are recomputed; else also queries, keys, values, their norms and
    rotations, and both sides of the hidden layer.
    """
    settings = recipe.model
    width = _BF16 if recipe.precision != "fp32" else _FP32
    outside = 9 * settings.dim * _FP32
    inside = 4 * settings.dim * width
    if not recipe.recompute:
        inside += (16 * settings.dim + 2 * settings.ffn_dim) * width
    return float((video_tokens + audio_tokens) * settings.layers * (outside + inside))


def _largest_unit(model: OviModel) -> int:
    """Parameters of the largest part that is gathered at once."""
    block = model.video_model.blocks[0]
    units = [getattr(block, name) for name in ("self_attn", "cross_attn", "ffn")]
    return max(sum(one.numel() for one in unit.parameters()) for unit in units)
