"""Opening what a job wrote, by what it left beside its results: no code of the job is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.explore.query import run_query
from manifests.store.selection_file import SavedSelection, read_selection
from manifests.store.storage import open_storage
from manifests.store.store import Store
from manifests.store.view import connect

SelectionOf = Callable[[str], SavedSelection]
"""Works out the selection of an OUT, a folder or prefix, that has none saved."""


def saved_selection(out: str, unsaved: SelectionOf | None = None) -> SavedSelection:
    """What the last job on OUT resolved to.

    Args:
        out: folder or object-store prefix.
        unsaved: asked of an OUT whose job saved no selection, as earlier versions did.

    Raises:
        UsageError: `not_an_output`; `newer_selection` or `selection_unreadable`.
        StorageError: OUT cannot be read.
    """
    saved = read_selection(open_storage(out, create=False))
    if saved is not None:
        return saved
    if unsaved is not None:
        return unsaved(out)
    raise not_an_output(out)


def open_view(out: str, unsaved: SelectionOf | None = None) -> duckdb.DuckDBPyConnection:
    """The view `dataset` and the tables as the last job on OUT sees them, see `connect`.

    Args:
        out: folder or object-store prefix.
        unsaved: as for `saved_selection`.

    Raises:
        UsageError: as `saved_selection`.
        StorageError: OUT cannot be read.
    """
    saved = saved_selection(out, unsaved)
    return connect(Store(out, schemas=saved.schemas), saved.selection)


def inspect_sql(out: str, sql: str, unsaved: SelectionOf | None = None) -> pa.Table:
    """The rows of one SELECT over the tables of OUT.

    Raises:
        UsageError: `sql_refused` or `sql_error`; as `saved_selection`.
    """
    with open_view(out, unsaved) as connection:
        return run_query(connection, sql)


def find_clip(connection: duckdb.DuckDBPyConnection, clip_id: str) -> dict[str, Any]:
    """The row of `dataset` of a clip; the start of its id is enough if no other begins so.

    Raises:
        UsageError: `unknown_clip`.
    """
    found = connection.sql(
        "SELECT * FROM dataset WHERE starts_with(clip_id, $1) LIMIT 2", params=[clip_id]
    )
    rows: list[dict[str, Any]] = found.to_arrow_table().to_pylist()
    if len(rows) != 1:
        raise UsageError(
            "unknown_clip",
            "No clip has this id." if not rows else "More than one clip's id begins so.",
            subject=f"--clip {clip_id}",
            remedy='List some: twinreel inspect OUT --sql "SELECT clip_id, uri FROM dataset"',
        )
    return rows[0]


def not_an_output(out: str) -> UsageError:
    """Nothing at OUT was written by a job."""
    return UsageError(
        "not_an_output",
        "No curation job has written here.",
        subject=out,
        remedy="Give the folder that was --out of `twinreel curate`.",
    )
