"""What a job lacks before it begins: weights, packages, a model for captions; how to get them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from curation.config import CaptionSettings, JobConfiguration
from manifests.errors import UsageError
from stages.registry import STAGES
from stages.weights.catalogue import CATALOGUE, WeightSet
from stages.weights.find import WEIGHTS_VARIABLE, find_set, size_text


def missing_parts(
    configuration: JobConfiguration, unavailable: Mapping[str, UsageError]
) -> UsageError:
    """All that a job lacks in one message: what, what it costs to get, how to go on without."""
    lines = [f"{len(unavailable)} of its parts lack what they need:"]
    wanted: list[WeightSet] = []
    for name, error in unavailable.items():
        sets = _missing_sets(configuration, name) if error.code == "missing_weights" else []
        wanted += sets
        lines += [f"  {_described(weights)}" for weights in sets] or [f"  {error}"]
    if wanted:
        names = " ".join(weights.name for weights in wanted)
        total = size_text(sum(weights.size_bytes for weights in wanted))
        lines.append(
            f"Get them with `twinreel weights fetch {names}` ({total} in all), or name a folder"
            f" that has them in {WEIGHTS_VARIABLE}."
        )
    going_on = (
        "Going on without"
        if configuration.missing == "pending"
        else ("Or go on without: --missing pending")
    )
    lines.append(
        f"{going_on} measures everything else, and clips whose gates need what is missing stay"
        " pending; the same command measures just that once it is there."
    )
    return UsageError("missing_parts", "\n".join(lines), subject=f"preset {configuration.preset}")


def _missing_sets(configuration: JobConfiguration, name: str) -> list[WeightSet]:
    """The sets that a stage's backend would load and that are not here."""
    asked = getattr(configuration.stages, name).backend
    loaded = {
        weights
        for backend in STAGES[name].backends
        if asked in ("auto", backend.name)
        for weights in backend.weights
    }
    return [
        weights
        for weights in CATALOGUE.values()
        if weights.name in loaded and find_set(weights) is None
    ]


def _described(weights: WeightSet) -> str:
    files = ", ".join(file.name for file in weights.files)
    commercial = {"yes": "allowed", "no": "not allowed", "unclear": "unclear"}[weights.commercial]
    return (
        f"{weights.name} ({files}): {weights.purpose}; {size_text(weights.size_bytes)}, licence"
        f" {weights.licence}, commercial use {commercial}"
    )


def lacking_for_captions(settings: CaptionSettings) -> UsageError | None:
    """What the phase `caption` lacks, if anything: a model's name, or the package that asks it."""
    if settings.model is None:
        return _no_caption_model(settings.backend)
    package = {"endpoint": "openai", "vllm": "vllm"}.get(settings.backend)
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    extra = "caption" if package == "openai" else "vllm"
    return UsageError(
        "missing_package",
        f"Captions need the package {package}.",
        subject=f"caption.{settings.backend}",
        remedy=f"Run: pip install 'twinreel[{extra}]'",
    )


def _no_caption_model(backend: str) -> UsageError:
    return UsageError(
        "missing_model",
        "Captions come from a multimodal model, and none is named.",
        subject=f"caption.{backend}",
        remedy=f"Give --set caption.{backend}.model=NAME"
        + (" and --set caption.endpoint.base_url=http://HOST:PORT/v1" * (backend == "endpoint"))
        + ", or --set caption.backend=attributes for sentences made of the measurements.",
    )
