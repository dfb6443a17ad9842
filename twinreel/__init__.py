"""Twinreel for notebooks and programs: curate, look at what came out, measure, train, generate.

Importing it loads nothing: what a name needs is loaded when the name is first used, and only then
are the names of our packages claimed (see `twinreel._names`). See docs/python.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manifests.errors import TwinreelError
    from twinreel.dataset import Dataset, open_dataset
    from twinreel.generation import generate
    from twinreel.jobs import curate, select
    from twinreel.measuring import Measurement, measure
    from twinreel.samples import CuratedSamples

__all__ = [
    "CuratedSamples",
    "Dataset",
    "Measurement",
    "TwinreelError",
    "curate",
    "generate",
    "measure",
    "open_dataset",
    "select",
]

_MODULES = {
    "CuratedSamples": "twinreel.samples",
    "Dataset": "twinreel.dataset",
    "Measurement": "twinreel.measuring",
    "curate": "twinreel.jobs",
    "generate": "twinreel.generation",
    "measure": "twinreel.measuring",
    "open_dataset": "twinreel.dataset",
    "select": "twinreel.jobs",
}


def __getattr__(name: str) -> object:
    if name == "TwinreelError":
        # Also where it is about to say that `manifests` is somebody else's.
        from twinreel._names import errors  # noqa: PLC0415

        found: object = errors().TwinreelError
    elif name in _MODULES:
        found = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'twinreel' has no attribute '{name}'")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
