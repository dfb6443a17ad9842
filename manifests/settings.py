"""Settings out of YAML and `key=value` assignments, validated; mistakes are answered by name."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from manifests.errors import UsageError

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Settings(pydantic.BaseModel):
    """A group of settings; a key that is none of them is refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def read_settings(file: Path) -> dict[str, Any]:
    """A YAML file's mapping; an empty file has none.

    Raises:
        UsageError: `configuration_unreadable`.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            "configuration_unreadable",
            f"It cannot be read as YAML ({str(error).splitlines()[0]}).",
            subject=str(file),
            remedy="Check the path and the indentation.",
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            "configuration_unreadable", "It must be a mapping of settings.", subject=str(file)
        )
    return values


def parse_assignment(assignment: str, *, text_keys: Collection[str] = ()) -> dict[str, Any]:
    """`dotted.key=value` as nested mappings; the value is YAML.

    Args:
        assignment: as given to `--set`.
        text_keys: first keys whose values are plain text unless they start with `{`: SQL is full
            of characters that mean something to YAML.

    Raises:
        UsageError: `bad_assignment`.
    """
    key, equals, text = assignment.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(
            "bad_assignment",
            "An assignment reads key=value.",
            subject=f"--set {assignment}",
            remedy="For example: --set seed=1 or --set clip.frames=97",
        )
    try:
        plain = path[0] in text_keys and not text.startswith("{")
        value = text if plain else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            "bad_assignment", "The value is not YAML.", subject=f"--set {assignment}"
        ) from error
    for part in reversed(path):
        value = {part: value}
    return typing.cast("dict[str, Any]", value)


def merge(
    below: Mapping[str, Any],
    above: Mapping[str, Any],
    *,
    whole: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda _, __: False,
) -> dict[str, Any]:
    """`below` with the settings of `above` over it, mapping by mapping.

    Args:
        below: settings.
        above: settings that win.
        whole: says of a mapping of `below` and one over it that the first is replaced.
    """
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping) and not whole(under, value):
            value = merge(under, value, whole=whole)  # noqa: PLW2901
        merged[key] = value
    return merged


def validate(model: type[Model], values: Mapping[str, Any], *, within: str | None = None) -> Model:
    """The settings as a model.

    Args:
        model: what they are to be.
        values: the settings.
        within: key of the group that they are, where they are part of something larger.

    Raises:
        UsageError: `unknown_setting` (names the nearest right one) or `bad_setting`.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise _usage_error(model, error, [] if within is None else [within]) from error


def _usage_error(
    model: type[pydantic.BaseModel], error: pydantic.ValidationError, within: list[str]
) -> UsageError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner, shown = _model_at(model, path[:-1])
        shown = [*within, *shown]
        known = sorted(owner.model_fields) if owner is not None else []
        nearest = did_you_mean(path[-1], known, ".".join(shown))
        return UsageError(
            "unknown_setting",
            "There is no such setting.",
            subject=".".join([*shown, path[-1]]),
            remedy=f"{nearest}Settings there: {', '.join(known)}.",
        )
    given = json.dumps(first.get("input"), default=str)[:80]
    _, shown = _model_at(model, path)
    message = first["msg"].removeprefix("Value error, ")
    subject = ".".join([*within, *shown])
    return UsageError("bad_setting", f"{message} (given: {given}).", subject=subject)


def _model_at(
    model: type[pydantic.BaseModel], path: Sequence[str]
) -> tuple[type[pydantic.BaseModel] | None, list[str]]:
    """The model at a path of pydantic's, and the path as a user writes it, without union tags."""
    at: type[pydantic.BaseModel] | None = model
    candidates: list[type[pydantic.BaseModel]] = []
    shown: list[str] = []
    for part in path:
        tagged = [one for one in candidates if part in _tags(one)]
        if tagged:
            at, candidates = tagged[0], []
            continue
        shown.append(part)
        field = at.model_fields.get(part) if at is not None else None
        if field is not None:
            candidates = list(_models_in(field.annotation))
            at = candidates[0] if len(candidates) == 1 else None
        # Else a key of a mapping of models, whose model stays the one that was found.
    return at, shown


def _models_in(annotation: object) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _tags(model: type[pydantic.BaseModel]) -> set[str]:
    return {
        str(tag)
        for field in model.model_fields.values()
        for tag in typing.get_args(field.annotation)
    }


def did_you_mean(word: str, known: Sequence[str], prefix: str = "") -> str:
    """A sentence that names the nearest of the known words, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:
        return ""
    return f"Did you mean '{prefix}.{near[0]}'? " if prefix else f"Did you mean '{near[0]}'? "
