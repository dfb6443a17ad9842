"""Reading weight files without running what is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import UsageError

if TYPE_CHECKING:
    import torch


def load_state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    """A state dict on the CPU, out of a safetensors file or a pickle that holds only tensors.

    A pickle is read by torch's restricted reader (`weights_only=True`), which runs no code.

    Raises:
        UsageError: `bad_weights`: it is neither, or it is damaged.
    """
    import torch  # noqa: PLC0415 - stages that need no model must not pay for torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise _bad(path, f"It cannot be read ({_first_line(error)}).") from error
    except Exception as error:
        # safetensors raises an error type of its own, which is no subclass of the usual ones.
        if type(error).__module__.startswith("safetensors"):
            raise _bad(path, f"It cannot be read ({_first_line(error)}).") from error
        raise
    if not isinstance(loaded, Mapping):
        raise _bad(path, f"It holds a {type(loaded).__name__}, not a state dict.")
    return loaded


def load_into(
    module: torch.nn.Module, state_dict: Mapping[str, torch.Tensor], path: Path
) -> torch.nn.Module:
    """Give a module its weights, all of them, and return it ready to evaluate.

    Raises:
        UsageError: `bad_weights`: keys or shapes are not the module's.
    """
    try:
        module.load_state_dict(dict(state_dict), strict=True)
    except RuntimeError as error:
        raise _bad(path, f"It does not fit the model ({_first_line(error, 2)}).") from error
    return module.eval().requires_grad_(False)


def _bad(path: Path, message: str) -> UsageError:
    return UsageError(
        "bad_weights",
        message,
        subject=str(path),
        remedy="Check it with `twinreel weights verify`, and fetch it again.",
    )


def _first_line(error: Exception, lines: int = 1) -> str:
    kept = [line.strip() for line in str(error).splitlines()[:lines]]
    return " ".join(kept)[:300] or type(error).__name__
