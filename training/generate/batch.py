"""A clip for every line of a file of prompts, in a folder that can be gone on with."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from manifests.errors import MediaError, TwinreelError, UsageError
from manifests.fingerprint import fingerprint
from training.generate.clip import write_clip
from training.generate.prompts import PromptLine
from training.generate.request import Request
from training.generate.sampler import Sampler

INDEX = "clips.jsonl"
"""Beside the clips: which line each belongs to, and what went wrong with the others."""
_SLUG_CHARACTERS = 40


@dataclasses.dataclass(frozen=True)
class Batch:
    """What came of a file of prompts: names of clips, and errors, by line."""

    generated: tuple[str, ...]
    found: tuple[str, ...]
    failed: tuple[TwinreelError, ...]


def generate_batch(
    sampler: Sampler,
    lines: Sequence[PromptLine],
    folder: Path,
    *,
    scale: int = 1,
    on_line: Callable[[int], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Batch:
    """Generate what a folder does not have yet; a line that fails stops no other.

    A clip is named by its prompt and by a hash of all that it comes of: request, given files,
    sampler and checkpoint. Equal lines share a clip; a changed line gets another one, and what the
    folder had stays. `clips.jsonl` says which line each belongs to.

    Args:
        sampler: of the run.
        lines: of the file.
        folder: made if it is not there, in a folder that is.
        scale: columns and rows written for each generated one.
        on_line: told how many lines are done.
        on_step: told how many steps of the current clip are done.

    Raises:
        UsageError: `folder_missing`.
        MediaError: `not_written`: nothing more can be written.
    """
    _make(folder)
    generated, found, failed = [], [], []
    entries = []
    for count, line in enumerate(lines, 1):
        entry: dict[str, object] = {"line": line.number}
        try:
            if line.request is None:
                assert line.error is not None
                raise line.error
            name = _name(line.request, sampler, scale)
            entry |= {"prompt": line.request.prompt, "seed": line.request.seed, "clip": name}
            if (folder / name).exists():
                found.append(name)
            else:
                clip = sampler.generate(line.request, on_step)
                write_clip(clip, folder / name, scale=scale)
                generated.append(name)
        except (MediaError, UsageError) as error:
            if error.code == "not_written":
                raise
            entry = {**entry, "clip": None, "error": error.code, "message": str(error)}
            failed.append(error)
        entries.append(entry)
        if on_line is not None:
            on_line(count)
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (folder / INDEX).write_text(text, encoding="utf-8")
    return Batch(tuple(generated), tuple(found), tuple(failed))


def _name(request: Request, sampler: Sampler, scale: int) -> str:
    """The file of a request's clip."""
    words = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower())[:_SLUG_CHARACTERS].strip("-")
    values = {key: _as_json(value) for key, value in dataclasses.asdict(request).items()}
    made_of = fingerprint({"request": values, "sampler": sampler.fingerprint, "scale": scale})
    return f"{words or 'clip'}-{made_of}.mp4"


def _as_json(value: object) -> object:
    """A field of a request; of a file also its size and time, since its content may change."""
    if not isinstance(value, Path):
        return value
    try:
        status = value.stat()
    except OSError:
        return str(value)
    return [str(value), status.st_size, status.st_mtime_ns]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            "folder_missing",
            f"The folder for the clips cannot be made ({error.strerror}).",
            subject=str(folder),
            remedy="Name a folder, or a new one in a folder that exists.",
        ) from error
