"""`OUT/manifests/selection.json`: all that a reader has to know to see a job's results.

The job that made the results writes it. Whoever reads them later needs neither the stages' code nor
their weights, and sees the same rows whatever version of either is installed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from manifests.errors import StorageError, UsageError
from manifests.store.schema_text import schema_from_json, schema_to_json
from manifests.store.selection import Selection, SideTable
from manifests.store.storage import Storage
from manifests.store.store import FOLDER

SELECTION_FILE = f"{FOLDER}/selection.json"
_FORMAT = 1
"""Raise when a reader of the format before would take the file for something else."""


@dataclasses.dataclass(frozen=True)
class StageOrigin:
    """What a stage's fingerprint was made of: by it one can say why another one differs.

    Args:
        version: of the stage's code.
        parameters: its settings, as plain data.
        backend: which one measured.
        weights_sha256: of the backend's weights, if it has any.
        reads: fingerprint of every stage whose results it used.
    """

    version: int
    parameters: Mapping[str, Any]
    backend: str
    weights_sha256: str | None
    reads: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class SavedSelection:
    """What a job resolved to, as it is kept with the results.

    Args:
        selection: which rows are the job's.
        schemas: of the tables that hold what stages own, without the log's columns.
        gates: by name, the rules that `selection.policy` is the hash of: `sql`, `backends`,
            `unmeasured`.
        origins: by stage; a stage that was asked for and had no weights has none.
        finished: whether the job has come to its end.
    """

    selection: Selection
    schemas: Mapping[str, pa.Schema]
    gates: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, StageOrigin]
    finished: bool


def read_selection(storage: Storage) -> SavedSelection | None:
    """What the last job on OUT resolved to; None if none has said so.

    Raises:
        UsageError: `newer_selection`: a newer version wrote it; `selection_unreadable`.
        StorageError: `storage_denied` or `storage_failed`.
    """
    try:
        data = storage.read(SELECTION_FILE)
    except StorageError as error:
        if error.code != "storage_missing":
            raise
        return None
    try:
        content = json.loads(data)
        if content["format"] > _FORMAT:
            raise UsageError(
                "newer_selection",
                "A newer version of twinreel wrote it.",
                subject=storage.url(SELECTION_FILE),
                remedy="Read it with that version.",
            )
        return _from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "selection_unreadable",
            f"It is damaged ({type(error).__name__}: {error}).",
            subject=storage.url(SELECTION_FILE),
            remedy="Restore it from a copy, or delete it and run the same `twinreel curate` again:"
            " what is measured stays.",
        ) from error


def write_selection(storage: Storage, saved: SavedSelection) -> None:
    """Keep what a job resolved to; nothing is written if nothing has changed.

    Raises:
        StorageError: `storage_unwritable`.
    """
    data = (json.dumps(_to_json(saved), indent=1, ensure_ascii=False) + "\n").encode()
    if not storage.exists(SELECTION_FILE) or storage.read(SELECTION_FILE) != data:
        storage.write(SELECTION_FILE, data)


def _to_json(saved: SavedSelection) -> dict[str, Any]:
    selection = dataclasses.asdict(saved.selection)
    del selection["stages"]
    stages = {
        name: {
            "fingerprint": fingerprint,
            **(dataclasses.asdict(saved.origins[name]) if name in saved.origins else {}),
        }
        for name, fingerprint in sorted(saved.selection.stages.items())
    }
    return {
        "format": _FORMAT,
        "finished": saved.finished,
        **selection,
        "stages": stages,
        "gates": {name: dict(gate) for name, gate in sorted(saved.gates.items())},
        "schemas": {name: schema_to_json(schema) for name, schema in sorted(saved.schemas.items())},
    }


def _from_json(content: Mapping[str, Any]) -> SavedSelection:
    stages = content["stages"]
    side_tables = {
        name: SideTable(side["stage"], tuple(side["key"]))
        for name, side in content["side_tables"].items()
    }
    read_apart = {"stages", "side_tables", "caption", "packed_windows", "decided_under"}
    plain = {field.name for field in dataclasses.fields(Selection)} - read_apart
    caption = content["caption"]
    selection = Selection(
        **{name: content[name] for name in plain},
        stages={name: stage["fingerprint"] for name, stage in stages.items()},
        caption=None if caption is None else (caption[0], caption[1]),
        packed_windows=tuple(content["packed_windows"]),
        # Files of the first versions of the format have none.
        decided_under=content.get("decided_under"),
        side_tables=side_tables,
    )
    return SavedSelection(
        selection=selection,
        schemas={name: schema_from_json(schema) for name, schema in content["schemas"].items()},
        gates=content["gates"],
        origins={
            name: StageOrigin(
                **{field.name: stage[field.name] for field in dataclasses.fields(StageOrigin)}
            )
            for name, stage in stages.items()
            if "version" in stage
        },
        finished=content["finished"],
    )
