"""The model families by name; each is imported when a recipe first names it."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from manifests.errors import UsageError
from manifests.settings import did_you_mean
from training.models.family import ModelFamily

FAMILIES = {"ovi": "training.models.ovi.family:ovi"}
"""Where each family comes from: `module:factory`. A recipe may also name a factory itself."""


@functools.cache
def find_family(name: str) -> ModelFamily[Any]:
    """The family that a recipe names.

    Args:
        name: one of `FAMILIES`, or `module:factory` of a function that returns a `ModelFamily`.

    Raises:
        UsageError: `unknown_family`.
    """
    module_name, colon, factory_name = FAMILIES.get(name, name).partition(":")
    if not colon:
        raise _unknown(name, f"There is no such family. {did_you_mean(name, list(FAMILIES))}")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise _unknown(name, f"It cannot be imported ({error}).") from error
    try:
        family = factory()
    except Exception as error:  # it may do anything, and may want arguments
        why = f"Calling it without arguments raises {type(error).__name__}: {error}."
        raise _unknown(name, why) from error
    if not isinstance(family, ModelFamily):
        raise _unknown(name, f"It returns a {type(family).__name__}, not a ModelFamily.")
    return family


def own_sources(name: str) -> dict[str, str]:
    """The sources of a family that a recipe names as `module:factory`, by file.

    All of the package that holds the module, or the module alone if it is in none. Empty for
    families of this package.
    """
    if name in FAMILIES:
        return {}
    module = importlib.import_module(name.partition(":")[0])
    if module.__file__ is None:
        return {}
    file = Path(module.__file__)
    files = file.parent.rglob("*.py") if module.__package__ else [file]
    return {
        f"{name}/{path.relative_to(file.parent).as_posix()}": path.read_text("utf-8", "replace")
        for path in files
        if path.suffix == ".py"
    }


def _unknown(name: str, why: str) -> UsageError:
    return UsageError(
        "unknown_family",
        why.strip(),
        subject=f"model.family: {name}",
        remedy=f"Families are {', '.join(FAMILIES)}; name your own as module:factory, with its"
        " folder in PYTHONPATH.",
    )
