from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from manifests.errors import UsageError
from manifests.explore.query import run_query
from tests.support.made_up_tables import clip, look, motion, open_out


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    store = open_out(tmp_path / "out [1]")
    store.commit({"clips": [clip("a", motion=motion(0.1)), clip("b", motion=motion(0.2))]})
    (tmp_path / "secret.txt").write_text("secret")
    with look(store) as connection:
        yield connection


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) AS n FROM dataset",
        "WITH x AS (SELECT clip_id FROM clips_log) SELECT count(*) AS n FROM x",
        "SELECT count(*) AS n FROM (SELECT unnest([1, 2]))",
        "SELECT max(range) AS n FROM range(3)",
    ],
)
def test_a_select_over_the_tables_answers(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert run_query(connection, sql).to_pylist() == [{"n": 2}]
    assert run_query(connection, "DESCRIBE dataset").num_rows > 10


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{folder}/secret.txt')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('{folder}/other.parquet')",
        "SELECT * FROM parquet_metadata('{folder}/other.parquet')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM '{folder}/secret.txt'",
        "SELECT * FROM 'https://example.com/x.parquet'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('dataset')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT * FROM duckdb_secrets()",
        "SELECT current_setting('allowed_paths')",
        "WITH x AS (INSERT INTO keyed.empty_clips (clip_id) VALUES ('x') RETURNING *) FROM x",
        "COPY dataset TO '{folder}/stolen.csv'",
        "EXPORT DATABASE '{folder}/stolen'",
        "ATTACH '{folder}/other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW dataset",
        "INSERT INTO keyed.empty_clips (clip_id) VALUES ('x')",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_everything_else_is_refused(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, sql: str
) -> None:
    with pytest.raises(UsageError) as error:
        run_query(connection, sql.format(folder=tmp_path))
    assert error.value.code == "sql_refused"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out [1]", "secret.txt"]


def test_the_engine_itself_is_shut(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    run_query(connection, "SELECT 1 AS one")
    for sql in (
        f"SELECT * FROM read_text('{tmp_path}/secret.txt')",
        f"COPY dataset TO '{tmp_path}/stolen.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)


def test_the_environment_and_python_are_out_of_reach(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    a_python_variable = [1]
    for sql in ("SELECT getenv('HOME')", "SELECT * FROM a_python_variable"):
        with pytest.raises(UsageError) as error:
            run_query(connection, sql)
        assert error.value.code == "sql_error"
    assert a_python_variable


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT clip_idd FROM dataset", "clip_id"),
        ("SELECT motion.static_shar FROM dataset", "static_share"),
        ("SELECT * FROM datset", "dataset"),
        ("SELEC 1", ""),
        ("SELECT clip_id::INT FROM dataset", ""),
    ],
)
def test_a_mistake_is_one_short_message_with_the_nearest_name(
    connection: duckdb.DuckDBPyConnection, sql: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        run_query(connection, sql)
    assert error.value.code == "sql_error"
    assert "\n" not in error.value.message
    assert hint in (error.value.remedy or "")
