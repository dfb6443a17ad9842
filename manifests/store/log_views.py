"""The views over whole logs: `<table>_log`, and the same rows with the key that orders them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import duckdb

from manifests.store.sql import quote_name, quote_text, type_sql
from manifests.store.store import Store, TableFile

PRIVATE = "keyed"
"""The schema of what views are made of: `<table>` there has the column `row_key`."""
_ROWS_PER_COMMIT = 1 << 36


class LogViews:
    """Every row ever committed, a view a table; its files may be replaced by later ones.

    Args:
        connection: has the schema `PRIVATE`.
        store: the tables, their files and declared columns.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, store: Store) -> None:
        self._connection = connection
        self._store = store
        self._shown: dict[str, list[TableFile]] = {}
        self._readable: dict[str, list[str]] = {}
        self._columns = {
            table: {field.name: type_sql(field.type) for field in schema}
            for table, schema in store.schemas.items()
        }

    @property
    def files(self) -> list[str]:
        """What the views read, as DuckDB checks it: paths, and the patterns that stand for them."""
        return [file for files in self._readable.values() for file in files]

    def create(self, files: Mapping[str, Sequence[TableFile]]) -> None:
        """Create the views of all tables over these files."""
        for table, columns in self._columns.items():
            # The declared columns come from an empty table, whatever the files hold.
            listed = ", ".join(f"{quote_name(name)} {kind}" for name, kind in columns.items())
            self._connection.execute(f"CREATE TABLE {_empty(table)} ({listed})")
            self._show(table, files.get(table, []))
            self._connection.execute(
                f"CREATE VIEW {quote_name(table + '_log')} AS"
                f" SELECT * EXCLUDE (row_key) FROM {PRIVATE}.{quote_name(table)}"
            )

    def refresh(self, files: Mapping[str, Sequence[TableFile]]) -> set[str]:
        """Show these files instead; gives the tables that have others than before."""
        changed = {
            table for table, shown in self._shown.items() if shown != list(files.get(table, []))
        }
        for table in changed:
            self._show(table, files.get(table, []))
        return changed

    def _show(self, table: str, files: Sequence[TableFile]) -> None:
        """The view with `row_key`, which grows with commit and row."""
        parts = [f"SELECT *, 0::BIGINT AS row_key FROM {_empty(table)}"]
        paths = [str(path) for path in self._store.mirror(files)]
        patterns = [_escaped_glob(path) for path in paths]
        self._shown[table] = list(files)
        # The engine checks both what it is asked for and what that comes to.
        self._readable[table] = sorted({*paths, *patterns})
        if patterns:
            parts.append(
                f"SELECT * EXCLUDE (file_row_number),"
                f" commit * {_ROWS_PER_COMMIT} + file_row_number AS row_key"
                f" FROM read_parquet([{', '.join(map(quote_text, patterns))}],"
                " union_by_name = true, hive_partitioning = false, file_row_number = true)"
            )
        # A time zone would ask every reader of a row for a time zone database.
        read_as = ["make_timestamp(epoch_us(committed_at)) AS committed_at"]
        # Fields that another version has added to a struct are nobody's here; a cast to the type
        # that a column has already costs nothing.
        read_as += [
            f"{quote_name(name)}::{kind} AS {quote_name(name)}"
            for name, kind in self._columns[table].items()
            if "STRUCT" in kind
        ]
        self._connection.execute(
            f"CREATE OR REPLACE VIEW {PRIVATE}.{quote_name(table)} AS"
            f" SELECT * REPLACE ({', '.join(read_as)}) FROM ({' UNION ALL BY NAME '.join(parts)})"
        )


def _empty(table: str) -> str:
    return f"{PRIVATE}.{quote_name('empty_' + table)}"


def _escaped_glob(path: str) -> str:
    """A path that DuckDB takes literally, whatever characters its folders have."""
    return re.sub(r"([*?\[])", r"[\1]", path)
