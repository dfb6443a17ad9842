"""The model families by name; each is imported when a recipe first names it."""

from __future__ import annotations

import functools
import importlib
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
    family = factory()
    if not isinstance(family, ModelFamily):
        raise _unknown(name, f"It returns a {type(family).__name__}, not a ModelFamily.")
    return family


def _unknown(name: str, why: str) -> UsageError:
    return UsageError(
        "unknown_family",
        why.strip(),
        subject=f"model.family: {name}",
        remedy=f"Families are {', '.join(FAMILIES)}; name your own as module:factory, with its"
        " folder in PYTHONPATH.",
    )
