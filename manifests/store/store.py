"""Tables as append-only logs of Parquet files, with commits that appear all at once.

A commit writes one Parquet file per table and then one record, `manifests/_commits/<number>.json`,
that names them. Readers see the files that records name and no others, so a writer that is killed
half way leaves nothing behind but orphans, which `compact` removes.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import StorageError
from manifests.fingerprint import fingerprint
from manifests.store.records import TABLES, arrow_schema, to_mapping
from manifests.store.storage import Storage, open_storage

FOLDER = "manifests"
_COMMITS = f"{FOLDER}/_commits"
_LOG_FIELDS = [
    # Both are volatile: they say when a row came, not what it says.
    pa.field("commit", pa.int64()),
    pa.field("committed_at", pa.timestamp("us", tz="UTC")),
]
VOLATILE_COLUMNS = tuple(field.name for field in _LOG_FIELDS)
_ROWS_PER_FOLDED_FILE = 1 << 20

TableFile = str
"""A live file, as a path below OUT."""


class Store:
    """The tables of one OUT.

    Args:
        url: OUT, a folder or an object-store prefix.
        schemas: of tables beyond `manifests.store.records.TABLES`, those that hold what stages own;
            kept as `stage_schemas`.
    """

    def __init__(self, url: str, schemas: Mapping[str, pa.Schema] | None = None) -> None:
        self.storage: Storage = open_storage(url)
        self._schemas = {name: arrow_schema(record) for name, record in TABLES.items()}
        self.stage_schemas = dict(schemas or {})
        self._schemas.update(self.stage_schemas)
        self.schemas = {name: self.schema(name) for name in self._schemas}
        self._files: dict[str, list[str]] = {name: [] for name in self._schemas}
        self._seen: set[int] = set()

    def tables(self) -> list[str]:
        """Names of all tables."""
        return sorted(self._schemas)

    def schema(self, table: str) -> pa.Schema:
        """A table's schema as it is written: its own columns, `commit` and `committed_at`."""
        return pa.schema([*self._schemas[table], *_LOG_FIELDS])

    def commit(self, rows: Mapping[str, Sequence[Any] | pa.Table]) -> int | None:
        """Append rows to tables; all of them become visible at once.

        Args:
            rows: per table, records (dataclasses or mappings) or an Arrow table.

        Returns:
            The commit's number; None if there were no rows, and nothing was written.

        Raises:
            StorageError: the place cannot be written, or `commit_conflict`.
        """
        filled = {table: part for table, part in rows.items() if len(part)}
        if not filled:
            return None
        self._refresh()
        number = max(self._seen, default=0) + 1
        at = datetime.datetime.now(datetime.UTC)
        added: dict[str, list[str]] = {}
        for table, part in sorted(filled.items()):
            content = self._arrow(table, part)
            stamped = content.append_column(
                _LOG_FIELDS[0], pa.array([number] * len(content), pa.int64())
            ).append_column(_LOG_FIELDS[1], pa.array([at] * len(content), _LOG_FIELDS[1].type))
            added[table] = [self._write_parquet(table, number, stamped)]
        self._record(number, added, {})
        return number

    def live_files(self, table: str) -> list[str]:
        """The table's files that commits name, oldest first, as paths below OUT."""
        self._refresh()
        return list(self._files[table])

    def all_live_files(self) -> dict[str, list[TableFile]]:
        """The live files of every table, as of one moment."""
        self._refresh()
        return {table: list(files) for table, files in self._files.items()}

    def mirror(self, files: Sequence[TableFile]) -> list[Path]:
        """Files on this machine. Those of a bucket are copied once: they never change."""
        return [self._local(file) for file in files]

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table's log; columns that older files lack are null."""
        schema = self.schema(table)
        files = self.mirror(self.live_files(table))
        parts = [_fit(pq.ParquetFile(file).read(), schema) for file in files]
        whole = pa.concat_tables(parts) if parts else schema.empty_table()
        return whole if columns is None else whole.select(list(columns))

    def compact(self) -> None:
        """Fold every table's files into few, and remove files that no commit names.

        No row is dropped and no result changes: `commit` numbers stay with their rows. Nor is a
        column or table that the schemas do not know, which another version's stages own. Where two
        versions gave a column types that have none in common, files of each are folded apart.
        """
        self._refresh()
        added: dict[str, list[str]] = {}
        removed: dict[str, list[str]] = {}
        number = max(self._seen, default=0) + 1
        for table, files in self._files.items():
            for group in self._foldable(table, files):
                whole = self._read_all(group, table)
                added.setdefault(table, []).extend(
                    self._write_parquet(table, number, whole.slice(first, _ROWS_PER_FOLDED_FILE))
                    for first in range(0, len(whole), _ROWS_PER_FOLDED_FILE)
                )
                removed.setdefault(table, []).extend(group)
        if added:
            self._record(number, added, removed)
        live = {file for files in self._files.values() for file in files}
        for table in self._files:
            for entry in self.storage.list(f"{FOLDER}/{table}"):
                if entry.path not in live:
                    self.storage.delete(entry.path)

    def _foldable(self, table: str, files: Sequence[TableFile]) -> list[list[TableFile]]:
        """The files that go into one, in their order; a file that stays alone is in no group."""
        by_schema: dict[pa.Schema, list[TableFile]] = {}
        for file, path in zip(files, self.mirror(files), strict=True):
            by_schema.setdefault(pq.read_schema(path), []).append(file)
        try:
            self._schema_of_all(table, by_schema)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            groups = list(by_schema.values())
        else:
            groups = [list(files)]
        return [group for group in groups if len(group) > 1]

    def _schema_of_all(self, table: str, schemas: Iterable[pa.Schema]) -> pa.Schema:
        """One for tables of all these schemas: what is declared first, then what is beyond it."""
        known = [self.schema(table)] if table in self._schemas else []
        return pa.unify_schemas([*known, *schemas], promote_options="permissive")

    def _read_all(self, files: Sequence[TableFile], table: str) -> pa.Table:
        """As `read`, with what the files hold beyond the schema."""
        parts = [pq.ParquetFile(path).read() for path in self.mirror(files)]
        schemas = [part.schema for part in parts]
        try:
            schema = self._schema_of_all(table, schemas)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            schema = schemas[0]  # the files agree with each other, and not with what is declared
        return pa.concat_tables([_fit(part, schema) for part in parts])

    def _arrow(self, table: str, rows: Sequence[Any] | pa.Table) -> pa.Table:
        schema = self._schemas[table]
        if isinstance(rows, pa.Table):
            return _fit(rows, schema)
        plain = [to_mapping(row) if dataclasses.is_dataclass(row) else row for row in rows]
        maps = [field.name for field in schema if pa.types.is_map(field.type)]
        if maps:
            plain = [
                {**row, **{name: list(dict(row[name]).items()) for name in maps}} for row in plain
            ]
        return pa.Table.from_pylist(plain, schema=schema)

    def _write_parquet(self, table: str, number: int, content: pa.Table) -> str:
        buffer = io.BytesIO()
        pq.write_table(content, buffer, compression="zstd")
        path = f"{FOLDER}/{table}/{number:010d}-{secrets.token_hex(4)}.parquet"
        self.storage.write(path, buffer.getvalue())
        return path

    def _record(
        self, number: int, added: Mapping[str, list[str]], removed: Mapping[str, list[str]]
    ) -> None:
        record = {"number": number, "added": added, "removed": removed}
        text = json.dumps(record, sort_keys=True, indent=1).encode()
        if not self.storage.create(f"{_COMMITS}/{number:010d}.json", text):
            raise StorageError(
                "commit_conflict",
                "Another writer has committed in between.",
                subject=self.storage.root,
                remedy="Run one job at a time on one OUT, then run this one again.",
                retryable=True,
            )
        self._apply(record)

    def _refresh(self) -> None:
        for entry in self.storage.list(_COMMITS):
            name = entry.path.rsplit("/", 1)[-1]
            if name.endswith(".json") and int(name.removesuffix(".json")) not in self._seen:
                self._apply(json.loads(self.storage.read(entry.path)))

    def _apply(self, record: Mapping[str, Any]) -> None:
        self._seen.add(record["number"])
        for table, files in record["removed"].items():
            kept = self._files.setdefault(table, [])
            self._files[table] = [file for file in kept if file not in set(files)]
        for table, files in record["added"].items():
            self._files.setdefault(table, []).extend(files)

    def _local(self, file: str) -> Path:
        path = self.storage.local_path(file)
        if path is not None:
            return path
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        copy = cache / "twinreel" / "manifests" / fingerprint(self.storage.root) / file
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.with_suffix(f".{secrets.token_hex(4)}.partial")
            partial.write_bytes(self.storage.read(file))
            partial.replace(copy)
        return copy


def _fit(content: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table in a schema's columns, order and types; what it lacks is null."""
    columns = [
        _fit_column(content.column(field.name).combine_chunks(), field.type)
        if field.name in content.column_names
        else pa.nulls(len(content), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _fit_column(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """An array in a type; a struct may lack fields that the type has gained since."""
    if column.type == kind:
        return column
    if pa.types.is_struct(kind) and pa.types.is_struct(column.type):
        present = {field.name for field in column.type}
        children = [
            _fit_column(column.field(field.name), field.type)
            if field.name in present
            else pa.nulls(len(column), field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(
            children, fields=list(kind), mask=column.is_null(), memory_pool=None
        )
    return column.cast(kind)
