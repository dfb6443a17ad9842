"""The weights of a run's newest checkpoint as files for others: a model's, or an adapter's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from manifests.errors import UsageError
from training.checkpoint import latest_checkpoint, load_weights, missing_checkpoint
from training.models.generator import build_generator
from training.models.lora import adapter_configuration, adapter_weights, merged_weights
from training.recipe import Recipe
from training.run import read_recipe
from training.weights import export_weights, write_safetensors


def export_model(run: Path, file: Path, *, layout: str | None, dtype: torch.dtype) -> int:
    """Write a run's weights as a released file names them, adapters merged; how many tensors.

    Args:
        run: the run's folder.
        file: a safetensors file, in a folder that exists.
        layout: one of the family's; None for its first, its own.
        dtype: of the tensors.

    Raises:
        UsageError: `not_a_run`, `no_checkpoint`, `unknown_layout` or `folder_missing`.
        StorageError: `checkpoint_unreadable` or `not_written`.
    """
    recipe, weights = _weights_of(run)
    if recipe.lora is not None:
        weights = merged_weights(weights, recipe.lora)
    return export_weights(weights, recipe, file, layout=layout, dtype=dtype)


def export_adapter(run: Path, folder: Path) -> int:
    """Write a run's adapter as peft reads it; how many tensors.

    Args:
        run: the run's folder.
        folder: gets `adapter_model.safetensors` and `adapter_config.json`; made, in a folder that
            exists.

    Raises:
        UsageError: `not_a_run`, `no_checkpoint`, `no_adapter` or `folder_missing`.
        StorageError: `checkpoint_unreadable` or `not_written`.
    """
    recipe, weights = _weights_of(run)
    if recipe.lora is None:
        raise UsageError(
            "no_adapter",
            "The run trains no adapter: its recipe has no `lora`.",
            subject=str(run),
            remedy="Export its weights, without --adapter.",
        )
    own = {
        name.removeprefix("model."): value
        for name, value in weights.items()
        if name.startswith("model.")
    }
    adapter = adapter_weights(own)
    if folder.parent.is_dir():
        folder.mkdir(exist_ok=True)
    write_safetensors(adapter, folder / "adapter_model.safetensors")
    configuration = adapter_configuration(own, recipe.lora)
    (folder / "adapter_config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    return len(adapter)


def _weights_of(run: Path) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a run, and the weights of its newest checkpoint, on the CPU."""
    recipe = read_recipe(run)
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        raise missing_checkpoint(run)
    with torch.device("meta"):
        generator = build_generator(recipe)
    generator.to_empty(device="cpu")
    load_weights(checkpoint, generator)
    return recipe, generator.state_dict()
