"""Files of prompts: text, JSON lines or CSV. A line that cannot be used costs only itself."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from manifests.errors import MediaError, TwinreelError, UsageError
from manifests.settings import Settings, validate
from training.generate.request import Request, task_of
from training.objective.tasks import TaskName


@dataclasses.dataclass(frozen=True)
class PromptLine:
    """A line of a file of prompts: what it asks for, or why nothing can be made of it.

    Attributes:
        number: of the line, from 1 (of the record, in a CSV, without its header).
        request: None if the line cannot be used.
        error: why not.
    """

    number: int
    request: Request | None
    error: TwinreelError | None = None


class _Fields(Settings):
    """What a line of JSON or a row of CSV may say."""

    prompt: str = pydantic.Field(min_length=1)
    negative: str | None = None
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    task: TaskName | None = None
    size: str | None = pydantic.Field(None, pattern=r"^[1-9]\d*x[1-9]\d*$")
    seed: int = 0


def read_prompts(file: Path, *, seed: int = 0) -> list[PromptLine]:
    """The lines of a file of prompts, in its order.

    `.txt` has a prompt a line; `.jsonl` an object a line and `.csv` a row, with `prompt` and, where
    wanted, `negative`, `image`, `video`, `audio` (paths from the file's own folder), `task`,
    `size` (such as 16x9) and `seed`. Empty lines count but ask for nothing.

    Args:
        file: the file.
        seed: of lines that name none.

    Raises:
        UsageError: `prompts_unreadable`: the file cannot be read as a whole, or has no prompt.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = list(_lines(file, text, seed))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(file, str(error)) from error
    if not lines:
        raise _unreadable(file, "there is no prompt in it")
    return lines


def _lines(file: Path, text: str, seed: int) -> Iterator[PromptLine]:
    kind = file.suffix.lower()
    if kind == ".csv":
        for number, row in enumerate(csv.DictReader(io.StringIO(text), strict=True), 1):
            # A row that is too long has its rest under None, one that is too short has Nones.
            values = {str(name): value for name, value in row.items() if value not in ("", None)}
            yield _line(file, number, values, seed)
        return
    if kind not in (".txt", ".jsonl"):
        raise _unreadable(file, "its name ends in none of .txt, .jsonl and .csv")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if kind == ".txt":
            yield PromptLine(number, Request(line.strip(), seed=seed))
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield PromptLine(number, None, _bad_line(file, number, f"It is no JSON ({error})."))
            continue
        yield _line(file, number, values, seed)


def _line(file: Path, number: int, values: Any, seed: int) -> PromptLine:  # noqa: ANN401
    """A record as a request, or why it is none."""
    if not isinstance(values, dict):
        return PromptLine(number, None, _bad_line(file, number, "It is no JSON object."))
    try:
        fields = validate(_Fields, {"seed": seed, **values})
        size = fields.size.split("x") if fields.size else None
        request = Request(
            fields.prompt,
            image=_path(file, fields.image),
            video=_path(file, fields.video),
            audio=_path(file, fields.audio),
            task=fields.task,
            aspect=None if size is None else (int(size[0]), int(size[1])),
            seed=fields.seed,
            negative=fields.negative,
        )
        task_of(request)
    except UsageError as error:
        return PromptLine(number, None, _bad_line(file, number, str(error)))
    return PromptLine(number, request)


def _path(file: Path, name: str | None) -> Path | None:
    return None if name is None else file.parent / name


def _bad_line(file: Path, number: int, why: str) -> MediaError:
    return MediaError("bad_prompt_line", why, subject=f"{file}:{number}")


def _unreadable(file: Path, why: str) -> UsageError:
    return UsageError(
        "prompts_unreadable",
        f"The prompts cannot be read ({why}).",
        subject=str(file),
        remedy="Give a .txt with a prompt a line, or a .jsonl or .csv with the column 'prompt'.",
    )
