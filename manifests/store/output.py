"""A job's OUT while the job runs: its tables as they stand, rows that appear at once, its files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from manifests.store.lease import Lease
from manifests.store.selection import Selection
from manifests.store.storage import Storage
from manifests.store.store import Store
from manifests.store.view import LiveViews

_COMMIT_ROWS = 4096
_COMMIT_TASKS = 256
_COMMIT_EVERY_S = 60.0


class Output:
    """OUT through the eyes of one selection, for as long as its lease is held.

    Args:
        address: folder or object-store prefix.
        storage: the files below it.
        store: the tables.
        lease: says whether this process may still write.
        selection: which rows the views show.
        views: of the selection, if the caller has opened them already; closed with the rest.
    """

    def __init__(
        self,
        address: str,
        storage: Storage,
        store: Store,
        lease: Lease,
        selection: Selection,
        views: LiveViews | None = None,
    ) -> None:
        self.address = address
        self.storage = storage
        self.store = store
        self.lease = lease
        self.selection = selection
        self.rows_written = 0
        self._views = views
        self._views_are_old = True

    def connect(self) -> duckdb.DuckDBPyConnection:
        """The tables as they are now, as `manifests.store.view.connect` shows them.

        The views stay as they are until somebody connects after a commit. Temporary tables and
        registered names are the caller's own, and go when it closes what it got.

        Raises:
            StorageError: the tables cannot be read.
        """
        if self._views is None:
            self._views = LiveViews(self.store, self.selection)
        elif self._views_are_old:
            self._views.refresh()
        self._views_are_old = False
        return self._views.connection.cursor()

    def close(self) -> None:
        """Give up the views."""
        if self._views is not None:
            self._views.close()
            self._views = None

    def commit(self, rows: Mapping[str, Sequence[Any] | pa.Table]) -> None:
        """Make rows of several tables appear at once, if the lease is still this job's.

        Raises:
            StorageError: they cannot be written, or another job has the lease (`out_busy`).
        """
        filled = {table: part for table, part in rows.items() if len(part)}
        if not filled:
            return
        self.lease.check()
        self.store.commit(filled)
        self._views_are_old = True
        self.rows_written += sum(len(part) for part in filled.values())


class Batch:
    """Rows on their way to the store: committed every 256 tasks, 4096 rows or 60 s.

    Args:
        output: where they appear.
        tasks: fewer tasks, where each is dear.
        seconds: fewer seconds.
    """

    def __init__(
        self, output: Output, *, tasks: int = _COMMIT_TASKS, seconds: float = _COMMIT_EVERY_S
    ) -> None:
        self._output = output
        self._most_tasks, self._most_seconds = tasks, seconds
        self._rows: dict[str, list[Any]] = {}
        self._tasks = 0
        self._since = time.monotonic()

    def add(self, rows: Mapping[str, Iterable[Any]]) -> None:
        """Add one task's rows; they are committed together."""
        for table, part in rows.items():
            self._rows.setdefault(table, []).extend(part)
        self._tasks += 1
        due = time.monotonic() - self._since >= self._most_seconds
        count = sum(len(part) for part in self._rows.values())
        if due or self._tasks >= self._most_tasks or count >= _COMMIT_ROWS:
            self.flush()

    def flush(self) -> None:
        """Commit what is there."""
        self._output.commit(self._rows)
        self._rows, self._tasks, self._since = {}, 0, time.monotonic()
