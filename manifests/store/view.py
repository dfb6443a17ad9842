"""The tables through the eyes of a job: current rows under its fingerprints, and `dataset`.

Tables are logs. `<table>_log` holds every row ever committed; the view named like the table holds
the latest row per key among those whose fingerprints the job resolves to. `dataset` joins them: one
row per clip of the job's segmentation.

All views read Parquet lazily, so that a question costs what its columns cost. Only which row of the
log is the current one is worked out beforehand, as row numbers in the schema `keyed`; and where
clips are few, so that binding a question costs more than reading them, `dataset` is a copy.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from manifests.store.dataset_views import Views
from manifests.store.selection import Selection
from manifests.store.store import Store


def connect(store: Store, selection: Selection) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory database with the views, as of now.

    Views: `<table>_log`; `sources`, `units`, `signals`, `clips`, `mix`, `decisions`, `captions`,
    `samples` and the selection's side tables; and `dataset`, whose columns are those of a clip,
    those of its source (`bytes`, `etag`, `sha256`, `status`, `error` and `fingerprint` with the
    prefix `source_`), one struct per stage of the selection, `state`, `rejected_by`, `pending_on`,
    and the structs `mix`, `caption` and `sample` (null where there is none).

    Raises:
        StorageError: the tables cannot be read.
    """
    return LiveViews(store, selection).connection


class LiveViews:
    """The database of `connect`, which can be brought up to date.

    Args:
        store: the tables.
        selection: which rows the views show.

    Raises:
        StorageError: the tables cannot be read.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self._store = store
        self.connection = duckdb.connect(
            config={
                "temp_directory": str(
                    Path(tempfile.gettempdir()) / f"twinreel-duckdb-{os.getpid()}"
                ),
                # A name that is no table must be an error, not a variable of the calling code.
                "python_enable_replacements": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        self._views = Views(self.connection, store, selection)
        with self._closed_on_failure():
            self._views.create(store.all_live_files())

    def refresh(self) -> None:
        """Show what has been committed since; connections that are open see it too.

        Raises:
            StorageError: the tables cannot be read.
        """
        with self._closed_on_failure():
            self._views.refresh(self._store.all_live_files())

    def close(self) -> None:
        """Close the database; connections of others to it stay as they are."""
        self.connection.close()

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def query_table(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The whole result of a query; an earlier result that was not fetched to its end is dropped.

    Raises:
        duckdb.Error: the query fails.
    """
    connection.abort()
    return connection.sql(sql).to_arrow_table()


def query_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """As `query_table`, a mapping a row."""
    rows: list[dict[str, Any]] = query_table(connection, sql).to_pylist()
    return rows


def stage_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The stages that have a column in `dataset`, sorted."""
    rows = connection.execute(
        "SELECT stage FROM keyed.stage_fingerprints ORDER BY stage"
    ).fetchall()
    return [row[0] for row in rows]


def filled_later(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The structs of `dataset` that phases after the first decision fill in under the selection."""
    rows = connection.execute("SELECT name FROM keyed.filled_later ORDER BY name").fetchall()
    return [row[0] for row in rows]


def packed_windows(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The windows of kept clips that the selection packs."""
    rows = connection.execute("SELECT name FROM keyed.packed_windows ORDER BY name").fetchall()
    return [row[0] for row in rows]


def readable_files(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The Parquet files that the connection's views read."""
    rows = connection.execute("SELECT path FROM keyed.view_files ORDER BY path").fetchall()
    return [row[0] for row in rows]
