"""Somebody's own SELECT over the tables, in a database that can reach nothing else.

Two walls stand one behind the other. The statement's syntax tree may hold only reading nodes and
known table functions. And the engine itself is shut before the statement is bound: no file but the
tables' own, no network, no extension, no setting.
"""

from __future__ import annotations

import json
import re

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.policy.expressions import nearest_names, syntax_nodes
from manifests.store.sql import quote_text
from manifests.store.view import query_table, readable_files

_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
_REFUSED_FUNCTIONS = frozenset(
    {"write_log", "nextval", "setval", "sleep_ms", "current_setting", "getvariable"}
)
_SUBJECT = "--sql"


def run_query(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The result of a single SELECT over the views and tables.

    The connection stays shut afterwards: it reads the tables and nothing else, for good.

    Args:
        connection: from `manifests.store.view.connect`.
        sql: the SELECT.

    Raises:
        UsageError: `sql_refused`: it is something else than a SELECT over the tables; `sql_error`:
            it is wrong (names the nearest right columns).
    """
    _shut(connection)
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise _refused("It is not one single SELECT.")
        _check_tree(connection, sql)
        return query_table(connection, sql)
    except duckdb.PermissionException as error:
        raise _refused("It reaches for something outside the tables.") from error
    except duckdb.Error as error:
        raise _sql_error(connection, error) from error


def _shut(connection: duckdb.DuckDBPyConnection) -> None:
    """Close the engine to everything but the tables' own files."""
    rows = connection.execute("SELECT current_setting('lock_configuration')").fetchall()
    if rows[0][0]:
        return
    paths = ", ".join(quote_text(path) for path in readable_files(connection))
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _check_tree(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    rows = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    parsed = json.loads(rows[0][0])
    if parsed["error"]:
        raise _refused(f"It cannot be checked ({parsed['error_message']}).")
    for node in syntax_nodes(parsed["statements"]):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in _READING_NODES:
            raise _refused("It writes.")
        if kind == "BASE_TABLE" and re.search(r"[./]", str(node["table_name"])):
            raise _refused("It names a file where a table should be.")
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in _TABLE_FUNCTIONS:
                raise _refused(f"It calls {name}().")
        elif node.get("class") == "FUNCTION":
            name = str(node["function_name"]).lower()
            if name in _REFUSED_FUNCTIONS:
                raise _refused(f"It calls {name}().")


def _refused(reason: str) -> UsageError:
    return UsageError(
        "sql_refused",
        reason,
        subject=_SUBJECT,
        remedy="Give one SELECT over the tables and views, such as"
        " SELECT state, count(*) FROM dataset GROUP BY ALL; it can neither write nor read"
        " anything else.",
    )


def _sql_error(connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> UsageError:
    line = str(error).strip().splitlines()[0]
    message = line.split(": ", 1)[-1].rstrip("!.")
    quoted = re.search(r'"([^"]+)"', message) or re.search(r"with name (\S+)", message)
    remedy = "Tables and columns: SELECT * FROM dataset LIMIT 1, or DESCRIBE dataset."
    if quoted:
        word = quoted[1]
        names = _known_names(connection)
        near = nearest_names(word, names)
        if "syntax error" in message and word.lower() in names:
            remedy = f'To name the column, put it in double quotes: "{word}".'
        elif near and "syntax error" not in message:
            remedy = f"Did you mean {' or '.join(near)}?"
    return UsageError("sql_error", f"{message}.", subject=_SUBJECT, remedy=remedy)


def _known_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Tables, columns and fields of structs, each once."""
    connection.abort()
    rows = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns()"
        " WHERE NOT internal AND schema_name = 'main' ORDER BY ALL"
    ).fetchall()
    names = {name for row in rows for name in row}
    for field in query_table(connection, "SELECT * FROM dataset LIMIT 0").schema:
        if pa.types.is_struct(field.type):
            names |= {inner.name for inner in field.type}
    return sorted(names)
