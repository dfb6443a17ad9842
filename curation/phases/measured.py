"""What has been measured of units and clips, out of the tables."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import duckdb
import pyarrow as pa

from stages.media.blocks import SourceFormat
from stages.registry import UNIT_SIDE_TABLES

FORMAT_FIELDS = tuple(field.name for field in dataclasses.fields(SourceFormat))
"""The columns of `sources` that hold what the probe found."""


Media = Literal["all", "sound"]
"""What of a source is used."""

_ROWS_AT_ONCE = 2048


class StoredRows:
    """A query's rows, kept in the database and given out a part at a time: one is some kilobytes.

    Other queries may run on the connection in between.

    Args:
        connection: as `connect` gives it; its memory goes to disk where it is not enough.
        sql: the query, with its order.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql: str) -> None:
        self._connection = connection
        self._table = f"stored_rows_{next(_TABLE_NUMBERS)}"
        connection.execute(
            f"CREATE TEMP TABLE {self._table} AS SELECT *, row_number() OVER () AS stored_row"
            f" FROM ({sql})"
        )
        [(self._count,)] = connection.execute(f"SELECT count(*) FROM {self._table}").fetchall()

    def __len__(self) -> int:
        return int(self._count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(1, len(self) + 1, _ROWS_AT_ONCE):
            yield from rows_of(
                self._connection,
                f"SELECT * EXCLUDE (stored_row) FROM {self._table} WHERE stored_row"
                f" BETWEEN {first} AND {first + _ROWS_AT_ONCE - 1} ORDER BY stored_row",
            )


_TABLE_NUMBERS = itertools.count()


def rows_of(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """A query's rows as dicts."""
    table: pa.Table = connection.sql(sql).to_arrow_table()
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def source_format(source: Mapping[str, Any], media: Media = "all") -> SourceFormat:
    """The probe's result out of a row of `sources` or `dataset`.

    Args:
        source: the row.
        media: `sound` gives a video as what is heard of it.
    """
    found = SourceFormat(**{name: source[name] for name in FORMAT_FIELDS})
    if media == "sound":
        return dataclasses.replace(found, modality="audio", video_index=None)
    return found


def unit_key(row: Mapping[str, Any]) -> tuple[str, int]:
    """The unit that a row belongs to."""
    return row["source_id"], row["unit_index"]


@dataclasses.dataclass(frozen=True)
class MeasuredUnit:
    """A unit: its row, its signals by stage, its rows of side tables by table."""

    unit: dict[str, Any]
    signals: dict[str, dict[str, Any]]
    side_rows: dict[str, list[dict[str, Any]]]


def measured_units(
    connection: duckdb.DuckDBPyConnection, keys: list[dict[str, Any]]
) -> Iterator[MeasuredUnit]:
    """The units of the keys (`source_id`, `unit_index`) with all that was measured of them."""
    connection.register("wanted_units", pa.Table.from_pylist(keys))
    units: dict[tuple[str, int], MeasuredUnit] = {}
    for row in rows_of(connection, _wanted("units")):
        units[unit_key(row)] = MeasuredUnit(row, {}, {table: [] for table in UNIT_SIDE_TABLES})
    for row in rows_of(connection, _wanted("signals")):
        units[unit_key(row)].signals[row["stage"]] = row
    for table in UNIT_SIDE_TABLES:
        for row in rows_of(connection, _wanted(table)):
            units[unit_key(row)].side_rows[table].append(row)
    connection.unregister("wanted_units")
    yield from units.values()


def _wanted(table: str) -> str:
    return (
        f"SELECT t.* FROM {table} t JOIN wanted_units w"
        " ON t.source_id = w.source_id AND t.unit_index = w.unit_index ORDER BY ALL"
    )
