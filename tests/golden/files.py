"""A golden file, and how a result is held against it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tests.conftest import SHARED

RELATIVE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Golden:
    """Tensors by name, and the metadata with its JSON read."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Golden:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = file.metadata() or {}
        return cls(path, tensors, {name: _json_or_text(text) for name, text in texts.items()})

    def filled_state_dict(self) -> dict[str, Tensor]:
        """The made-up weights of every entry in the metadata's `state_dict`."""
        value = self._fill_function()
        return {
            name: torch.zeros((), dtype=torch.int64)
            if name.endswith("num_batches_tracked")
            else value(name, tuple(shape))
            for name, shape in self.metadata["state_dict"].items()
        }

    def _fill_function(self) -> Callable[[str, tuple[int, ...]], Tensor]:
        """`value` of the fill.py beside the file, or else of the one that is shared."""
        folders = (self.path.resolve().parent, SHARED / "golden")
        path = next(found for folder in folders if (found := folder / "fill.py").is_file())
        spec = importlib.util.spec_from_file_location("fill", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        value: Callable[[str, tuple[int, ...]], Tensor] = module.value
        return value


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@dataclasses.dataclass(frozen=True)
class Check:
    """One output: how far off it is, and whether that is near enough; or why it has not been run.

    `error` is max|difference| / max|reference|, None if it has not been run.
    """

    output: str
    ok: bool
    error: float | None = None
    note: str = ""


Checks = Iterator[Check]


def compare(
    output: str,
    found: Tensor,
    reference: Tensor,
    *,
    exact: bool = False,
    absolute: float | None = None,
) -> Check:
    """Hold a result against its reference.

    Args:
        output: the reference's name.
        found: the result.
        reference: of the same shape.
        exact: it must be equal.
        absolute: tolerance for the difference itself, in the place of the relative one.
    """
    if found.shape != reference.shape:
        shapes = f"{list(found.shape)} in the place of {list(reference.shape)}"
        return Check(output, False, note=f"shape {shapes}")
    found, reference = found.double(), reference.double()
    difference = float((found - reference).abs().max())
    error = difference / max(float(reference.abs().max()), 1e-30)
    if exact:
        return Check(output, difference == 0.0, error)
    if absolute is not None:
        return Check(output, difference <= absolute, error)
    return Check(output, error <= RELATIVE_TOLERANCE, error)


def not_implemented(output: str) -> Check:
    """An output that nothing here computes."""
    return Check(output, False, note="not implemented")
