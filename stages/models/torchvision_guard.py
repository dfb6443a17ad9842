"""Importing torchvision, also where its compiled operators do not fit the torch beside it.

PyPI has one torchvision wheel per release and platform, built for CUDA. Beside a torch without CUDA
its operators cannot be loaded. That alone would do no harm, since RAFT and the image models need
none of them, but while it is imported it tells torch the result shapes of two of them, and torch
refuses because it does not know their names.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

_UNKNOWN_OPERATOR = "operator torchvision::"
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators' signatures, as in torchvision's `csrc/ops/nms.cpp` and `quantized/cpu`."""


@functools.lru_cache(maxsize=1)
def import_torchvision() -> ModuleType:
    """torchvision, imported; where its operators fit, nothing else is done.

    Call it before importing anything that imports torchvision itself (open_clip does).

    Raises:
        ImportError: torch or torchvision is not installed.
    """
    _forget_remains()
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _UNKNOWN_OPERATOR not in str(error):
            raise
    _name_operators()
    _forget_remains()
    return importlib.import_module("torchvision")


def _forget_remains() -> None:
    """Drop what a failed import left: submodules that no parent package knows of any more."""
    if "torchvision" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]


@functools.lru_cache(maxsize=1)
def _name_operators() -> Library:
    """Names without code for what is missing; torch forgets them when nobody holds the library."""
    import torch  # noqa: PLC0415 - stages that need no model must not pay for torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library
