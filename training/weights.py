"""A run's first weights out of released files, and its weights written as such files.

Every tensor of a file and every weight of the parts that it fills is accounted for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.errors import StorageError, UsageError
from training.distributed import local_part
from training.models.generator import Generator
from training.models.lora import is_adapter
from training.models.registry import find_family
from training.models.released import ReleasedLayout
from training.recipe import InitialWeights, Recipe

_MODEL = "model."
_NAMED = 3
"""Names that a message shows of each kind."""


def load_initial(generator: Generator, recipe: Recipe) -> None:
    """Give a generator the weights that its recipe starts from, in place, one tensor at a time.

    Args:
        generator: on any device, spread over ranks or not: each rank reads what it holds.
        recipe: whose `initial` names files and layouts.

    Raises:
        UsageError: `weights_missing`, `weights_ambiguous`, `bad_weights`, `unknown_layout` or
            `weights_do_not_fit`: then no weight has been changed by that file.
    """
    weights = generator.state_dict()
    for source in recipe.initial:
        with _opened(source.weights) as stored:
            layout = _layout(recipe.model.family, source.layout, stored, weights)
            fits = _fit(source, layout, stored, weights)
            for name, there in fits.items():
                part, where = local_part(weights[name])
                if part.numel():
                    part.copy_(stored[there].get_slice(there)[where])
            for name in weights.keys() - fits.keys():
                factor = _fresh_factor(layout, name)
                if factor is not None:
                    weights[name].mul_(factor)


def export_weights(
    weights: Mapping[str, Tensor],
    recipe: Recipe,
    file: Path,
    *,
    layout: str | None,
    dtype: torch.dtype,
) -> int:
    """Write weights as a released file names them; how many tensors it has.

    Args:
        weights: a generator's state dict.
        recipe: of the run.
        file: a safetensors file, written whole or not at all.
        layout: one of the family's; None for its first, its own.
        dtype: of the tensors.

    Raises:
        UsageError: `unknown_layout` or `folder_missing`.
        StorageError: `not_written`.
    """
    chosen = _named_layout(recipe.model.family, layout)
    tensors = {}
    for name, value in weights.items():
        # A file of a part alone has no place for the text encoder.
        there = None if chosen.fresh else name
        if name.startswith(_MODEL):
            there = chosen.to_file(name.removeprefix(_MODEL))
        if there is not None:
            tensors[there] = value.to(dtype).contiguous()
    write_safetensors(tensors, file)
    return len(tensors)


def write_safetensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors to a file, whole or not at all.

    Raises:
        UsageError: `folder_missing`.
        StorageError: `not_written`.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - not in every install

    if not file.parent.is_dir():
        raise UsageError(
            "folder_missing",
            "There is no such folder to write the weights to.",
            subject=str(file.parent),
            remedy="Make it, or look for a slip in its name.",
        )
    partial = file.with_name(f"{file.name}.partial")
    try:
        save_file(dict(tensors), partial, metadata={"format": "pt"})
        partial.replace(file)
    except OSError as error:
        raise StorageError(
            "not_written", f"The weights cannot be written ({error}).", subject=str(file)
        ) from error
    finally:
        partial.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Misfit:
    """What keeps a file from fitting a model."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def raise_if_any(self, source: Path) -> None:
        parts = [
            f"{len(names)} {kind}: {', '.join(names[:_NAMED])}" + (" ..." if names[_NAMED:] else "")
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.misshaped),
            )
            if names
        ]
        if parts:
            raise UsageError(
                "weights_do_not_fit",
                f"The weights are not those of the recipe's model ({'; '.join(parts)}).",
                subject=str(source),
                remedy="Give the recipe the model's own sizes, or name another file or layout;"
                " `only` takes a part of a file.",
            )


def _fit(
    source: InitialWeights, layout: ReleasedLayout, stored: _Stored, weights: Mapping[str, Tensor]
) -> dict[str, str]:
    """The file's name of each weight that it gives; each must be there, known and of its shape."""
    found, unexpected = {}, []
    for there in stored:
        name = _ours(layout, there)
        if name is not None and source.only and not _matches(name, source.only):
            continue
        if name is None or name not in weights:
            unexpected.append(there)
        else:
            found[name] = there
    parts = {_part(name) for name in found}
    missing = [
        name.removeprefix(_MODEL)
        for name in weights
        if name not in found
        and not is_adapter(name)
        and _part(name) in parts
        and _fresh_factor(layout, name) is None
        and (not source.only or _matches(name, source.only))
    ]
    misshaped = []
    for name, there in found.items():
        shape, wanted = stored[there].get_slice(there).get_shape(), list(weights[name].shape)
        if shape != wanted:
            misshaped.append(f"{there} {shape} for {wanted}")
    if not found and not unexpected:
        missing = [f"all of {', '.join(source.only)}"]
    _Misfit(missing, unexpected, misshaped).raise_if_any(source.weights)
    return found


def _ours(layout: ReleasedLayout, there: str) -> str | None:
    """The generator's name of a file's tensor: of its model, or of the text encoder it trains."""
    if there.startswith("text_encoder."):
        return there
    name = layout.to_model(there)
    return None if name is None else f"{_MODEL}{name}"


def _part(name: str) -> str:
    """What a file fills as a whole: a tower, or the text encoder."""
    first, second, *_ = name.split(".")
    return f"{first}.{second}" if f"{first}." == _MODEL else first


def _matches(name: str, patterns: Sequence[str]) -> bool:
    own = name.removeprefix(_MODEL)
    return any(fnmatch.fnmatchcase(own, pattern) for pattern in patterns)


def _fresh_factor(layout: ReleasedLayout, name: str) -> float | None:
    for pattern, factor in layout.fresh.items():
        if fnmatch.fnmatchcase(name, f"{_MODEL}{pattern}"):
            return factor
    return None


def _layout(
    family: str, name: str, stored: _Stored, weights: Mapping[str, Tensor]
) -> ReleasedLayout:
    """The layout that is named, or, for `auto`, the one under which most names are known."""
    if name != "auto":
        return _named_layout(family, name)
    layouts = find_family(family).released
    if not layouts:
        raise _no_layout(family, name)
    return max(layouts, key=lambda one: sum(_ours(one, there) in weights for there in stored))


def _named_layout(family: str, name: str | None) -> ReleasedLayout:
    for layout in find_family(family).released:
        if name in (None, layout.name):
            return layout
    raise _no_layout(family, name)


def _no_layout(family: str, name: str | None) -> UsageError:
    names = [layout.name for layout in find_family(family).released]
    return UsageError(
        "unknown_layout",
        f"The family '{family}' has no such layout of files.",
        subject=name,
        remedy=f"Layouts are {', '.join(names)}." if names else "It names none in its `released`.",
    )


_Stored = Mapping[str, Any]
"""The open safetensors file that holds each tensor, by the tensor's name."""


@contextlib.contextmanager
def _opened(weights: Path) -> Iterator[_Stored]:
    """The tensors of a safetensors file, or of a folder's parts; nothing of them is read yet."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - not in every install

    with contextlib.ExitStack() as stack:
        stored: dict[str, Any] = {}
        for file in _files(weights.expanduser()):
            try:
                opened = stack.enter_context(safe_open(file, "pt"))
            except (OSError, SafetensorError) as error:
                raise UsageError(
                    "bad_weights",
                    f"It cannot be read as safetensors ({error}).",
                    subject=str(file),
                    remedy="Fetch it again, or convert it to safetensors.",
                ) from error
            stored |= dict.fromkeys(opened.keys(), opened)
        yield stored


def _files(weights: Path) -> list[Path]:
    """The file itself; of a folder (or its `transformer`) those of its index, or the only one."""
    if weights.is_file():
        return [weights]
    folder = weights / "transformer" if (weights / "transformer").is_dir() else weights
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        names = sorted(set(json.loads(indices[0].read_text())["weight_map"].values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise _missing(folder, f"Of the files in its index {', '.join(absent)} are not there.")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _missing(weights, "There is no safetensors file here.")
    if len(files) > 1:
        raise UsageError(
            "weights_ambiguous",
            f"The folder has several files: {', '.join(file.name for file in files)}.",
            subject=str(folder),
            remedy="Name one of them.",
        )
    return files


def _missing(where: Path, message: str) -> UsageError:
    return UsageError(
        "weights_missing",
        message,
        subject=str(where),
        remedy="Name a safetensors file, or a folder with one or with parts and their index.",
    )
