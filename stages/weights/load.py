"""Reading weight files without running what is in them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from manifests.errors import UsageError

if TYPE_CHECKING:
    import torch

_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    UnpicklingError,
    # A damaged pickle is a damaged program for torch's restricted reader.
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)


def load_state_dict(path: Path, *, within: str | None = None) -> Mapping[str, torch.Tensor]:
    """A state dict on the CPU, out of a safetensors file or a pickle that holds only tensors.

    A pickle is read by torch's restricted reader (`weights_only=True`), which runs no code.

    Args:
        path: the file.
        within: entry of the pickle that the state dict is, where it holds several.

    Raises:
        UsageError: `bad_weights`: it is neither, or it is damaged.
    """
    import torch  # noqa: PLC0415 - stages that need no model must not pay for torch

    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if within is not None and isinstance(loaded, Mapping):
        loaded = loaded.get(within)
    if not isinstance(loaded, Mapping):
        raise bad_weights(path, f"It holds a {type(loaded).__name__}, not a state dict.")
    other = next(
        (key for key, value in loaded.items() if not isinstance(value, torch.Tensor)), None
    )
    if other is not None:
        kind = type(loaded[other]).__name__
        raise bad_weights(path, f"It is no state dict: its '{other}' is a {kind}, not a tensor.")
    return loaded


def load_into(
    module: torch.nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    path: Path,
    *,
    assign: bool = False,
) -> torch.nn.Module:
    """Give a module its weights, all of them, and return it ready to evaluate.

    Args:
        module: gets the weights.
        state_dict: the weights.
        path: where they come from, for the message.
        assign: put the tensors themselves in the place of the module's, which may be on the meta
            device, instead of copying their values.

    Raises:
        UsageError: `bad_weights`: keys or shapes are not the module's.
    """
    try:
        module.load_state_dict(dict(state_dict), strict=True, assign=assign)
    except RuntimeError as error:
        raise bad_weights(path, f"It does not fit the model ({_first_line(error, 2)}).") from error
    return module.eval().requires_grad_(False)


def _load_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError  # noqa: PLC0415 - comes with the extra `models`
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except (SafetensorError, *_UNREADABLE) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UsageError:
    return bad_weights(path, f"It cannot be read ({_first_line(error)}).")


def bad_weights(path: Path, message: str) -> UsageError:
    """The error for a file of weights that is not what it should be."""
    return UsageError(
        "bad_weights",
        message,
        subject=str(path),
        remedy="Check it with `twinreel weights verify`, and fetch it again.",
    )


def _first_line(error: Exception, lines: int = 1) -> str:
    kept = [line.strip() for line in str(error).splitlines()[:lines]]
    return " ".join(kept)[:300] or type(error).__name__
