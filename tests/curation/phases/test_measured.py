"""Rows out of the database, a part at a time."""

from __future__ import annotations

import duckdb
import pytest

from curation.phases.measured import StoredRows


@pytest.mark.parametrize("count", [0, 1, 6, 7, 20])
def test_all_rows_come_in_order_whatever_is_asked_in_between(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("curation.phases.measured._ROWS_AT_ONCE", 7)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE numbers AS SELECT range AS n FROM range({count})")
        rows = StoredRows(connection, "SELECT n, {'a': n} AS s FROM numbers ORDER BY n DESC")
        again = StoredRows(connection, "SELECT n FROM numbers")
        connection.execute("DELETE FROM numbers")
        assert len(rows) == count
        found = []
        for row in rows:
            connection.execute("SELECT 1").fetchall()
            found.append(row)
        assert found == [{"n": n, "s": {"a": n}} for n in reversed(range(count))]
        assert list(rows) == found
        assert sorted(row["n"] for row in again) == list(range(count))
