"""Made-up rows: a small OUT whose every answer can be worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from manifests.store.records import ClipRow, StageMark, arrow_schema, struct_type
from manifests.store.selection import CLIP_KEY, UNIT_KEY, Selection, SideTable
from manifests.store.store import Store
from manifests.store.view import connect


@dataclasses.dataclass(frozen=True)
class Motion:
    static_share: float | None


@dataclasses.dataclass(frozen=True)
class Sync:
    offset_frames: float | None
    confidence: float | None


@dataclasses.dataclass(frozen=True)
class ShotRow:
    """A side table's row, with its key and fingerprint."""

    source_id: str
    unit_index: int
    shot_index: int
    start_s: float
    end_s: float
    kind: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class WordRow:
    """The same of a table whose rows belong to clips."""

    clip_id: str
    word: str
    fingerprint: str


STAGES = {"motion": Motion, "sync": Sync}
SCHEMAS = {
    "clips": pa.schema(
        [
            *arrow_schema(ClipRow),
            *(pa.field(name, struct_type(record, StageMark)) for name, record in STAGES.items()),
        ]
    ),
    "shots": arrow_schema(ShotRow),
    "words": arrow_schema(WordRow),
    "signals": pa.schema(
        [
            ("source_id", pa.string()),
            ("unit_index", pa.int64()),
            ("stage", pa.string()),
            ("motion_energy", pa.list_(pa.float32())),
            ("fingerprint", pa.string()),
        ]
    ),
}
SELECTION = Selection(
    segmentation="cut-a",
    policy="policy-a",
    stages={"motion": "motion-1", "sync": "sync-1"},
    probe="probe",
    units="unit",
    caption=("ovi", "caption-1"),
    profile="profile",
    side_tables={
        "shots": SideTable("shots", UNIT_KEY),
        "words": SideTable("transcript", CLIP_KEY),
    },
)


def open_out(folder: Path | str) -> Store:
    return Store(str(folder), schemas=SCHEMAS)


def look(store: Store, **changes: object) -> duckdb.DuckDBPyConnection:
    return connect(store, dataclasses.replace(SELECTION, **changes))  # type: ignore[arg-type]


def clip(clip_id: str, *, cut: str = "cut-a", **structs: object) -> dict[str, Any]:
    return {
        "clip_id": clip_id,
        "source_id": "source-1",
        "unit_index": 0,
        "segmentation": cut,
        "start_s": 0.0,
        "end_s": 5.0,
        "first_shot": 0,
        "last_shot": 0,
        "window": "full",
        "damaged_s": 0.0,
        **structs,
    }


def motion(
    share: float | None, status: str = "ok", fingerprint: str = "motion-1", backend: str = "e"
) -> dict[str, Any]:
    return {"static_share": share, **mark(status, fingerprint, backend)}


def sync(
    confidence: float | None,
    status: str = "ok",
    fingerprint: str = "sync-1",
    backend: str = "embedded",
    offset: float | None = 0.0,
) -> dict[str, Any]:
    values = {"offset_frames": offset, "confidence": confidence}
    return {**values, **mark(status, fingerprint, backend)}


def mark(status: str, fingerprint: str, backend: str) -> dict[str, Any]:
    error = (
        {"code": "broken", "message": "It broke.", "retryable": False}
        if status == "failed"
        else None
    )
    return {"status": status, "error": error, "backend": backend, "fingerprint": fingerprint}


def source(source_id: str, uri: str = "/raw/a.mp4", **changes: object) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "uri": uri,
        "modality": "video",
        "bytes": 10,
        "etag": "x",
        "duration_s": 100.0,
        "width": 1280,
        "height": 720,
        "fps": 24.0,
        "spans": [],
        "split": "train",
        "carried": {"owner": "me"},
        "status": "ok",
        "fingerprint": "probe",
        **changes,
    }


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
    return found
