"""Gates, read and checked before anything runs: what each says, which columns it reads.

A gate is one scalar expression over the columns of `dataset`, true for clips to keep. DuckDB parses
it; what is not scalar, or would say something else every time, is refused by its syntax tree.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.policy.expressions import (
    VIEW,
    column_paths,
    comparisons,
    first_line,
    joined_by_and,
    nearest_names,
    sql_of,
    syntax_nodes,
)
from manifests.store.sql import quote_name
from manifests.store.view import filled_later, query_table, stage_names

_POLICY_VERSION = 2
_COLUMNS_TABLE = "dataset_columns"
"""An empty table with the columns of the view, which takes ten times as long to bind to."""
_OUTCOME_COLUMNS = ("state", "rejected_by", "pending_on")
_VERIFIED_AGAINST = {
    "word_error_rate": "transcript",
    "spoken_words": "transcript",
    "invented_words": "transcript",
    "missed_words": "transcript",
    "audio_agrees": "audio_class",
}
"""The stage that a field of `caption.verified` comes from, and comes with if that is late."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """One rule of a policy.

    Args:
        name: what the funnel and the decisions call it.
        sql: a scalar boolean expression over `dataset`.
        backends: per stage the backends that the threshold speaks of; None for all.
        unmeasured: what happens to clips without the measurement.
    """

    name: str
    sql: str
    backends: Mapping[str, Sequence[str]] | None = None
    unmeasured: Literal["pending", "pass"] = "pending"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A comparison of a gate that can be drawn: `column` (dotted) `operator` `value`."""

    gate: str
    column: str
    operator: str
    value: float


@dataclasses.dataclass(frozen=True)
class Condition:
    """A part of a gate that ANDs join, or all of it, with the structs that it waits for.

    `structs` are those of stages, and `caption` and `mix`, which later phases fill in.
    """

    expression: str
    structs: list[str]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A gate that was found good, ready to run: its conditions, all of which a clip has to meet."""

    gate: Gate
    conditions: list[Condition]

    @property
    def structs(self) -> list[str]:
        """The structs that it waits for, sorted."""
        return sorted({struct for condition in self.conditions for struct in condition.structs})


def policy_fingerprint(gates: Sequence[Gate]) -> str:
    """Hash of the gates, whatever their order."""
    rules = sorted(
        [
            gate.name,
            gate.sql,
            {stage: sorted(names) for stage, names in (gate.backends or {}).items()},
            gate.unmeasured,
        ]
        for gate in gates
    )
    return fingerprint({"version": _POLICY_VERSION, "gates": rules})


def validate(gates: Sequence[Gate], connection: duckdb.DuckDBPyConnection) -> None:
    """Make sure that every gate is one scalar boolean expression over columns that exist.

    Raises:
        UsageError: `gate_syntax`, `gate_unknown_column` (names the nearest right one) or
            `gate_not_scalar`.
    """
    columns = _dataset_columns(connection)
    for gate in gates:
        _analyse(gate, connection, columns)


def gates_without(
    connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate], columns: Sequence[str]
) -> list[Gate]:
    """The gates that read none of the columns: what can be decided before those are known.

    Raises:
        UsageError: as `validate`.
    """
    known = _dataset_columns(connection)
    return [
        gate
        for gate in gates
        if not any(
            path[0].lower() in columns for path in column_paths(_parse(gate, connection, known))
        )
    ]


def thresholds(connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate]) -> list[Threshold]:
    """The plain comparisons of a column with a number that can be read off the gates.

    Those under NOT, OR or CASE are left out: there the number alone does not decide.

    Raises:
        UsageError: as `validate`.
    """
    columns = _dataset_columns(connection)
    found = []
    for gate in gates:
        if _analyse(gate, connection, columns) is not None:
            tree = _parse(gate, connection, columns)
            found += [Threshold(gate.name, *part) for part in comparisons(tree["child"])]
    return found


def rules_of(connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate]) -> list[Rule]:
    """The gates that can reject something here, ready to run.

    Raises:
        UsageError: as `validate`.
    """
    columns = _dataset_columns(connection)
    analysed = [_analyse(gate, connection, columns) for gate in gates]
    return [rule for rule in analysed if rule is not None]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The columns of `dataset`: their types, their names by lower-case name, and which are what.

    `stages` are stages' structs, `later` those that later phases fill in.
    """

    types: dict[str, pa.DataType]
    names: dict[str, str]
    stages: list[str]
    later: list[str]

    def dotted(self) -> list[str]:
        """Every name that a gate may say."""
        names = []
        for name, kind in self.types.items():
            names.append(name)
            if pa.types.is_struct(kind):
                names += [f"{name}.{field.name}" for field in kind]
        return names


def _dataset_columns(connection: duckdb.DuckDBPyConnection) -> _Columns:
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {_COLUMNS_TABLE} AS FROM {VIEW} LIMIT 0")
    schema = query_table(connection, f"FROM {_COLUMNS_TABLE}").schema
    return _Columns(
        {field.name: field.type for field in schema},
        {field.name.lower(): field.name for field in schema},
        stage_names(connection),
        filled_later(connection),
    )


def _analyse(gate: Gate, connection: duckdb.DuckDBPyConnection, columns: _Columns) -> Rule | None:
    """The gate ready to run; None if it passes everything, since its stage is not measured here."""
    tree = _parse(gate, connection, columns)
    _refuse_what_is_not_scalar(gate, tree)
    for path in column_paths(tree):
        if _resolve(gate, path, columns) is None:
            return None
    for stage in gate.backends or {}:
        if stage not in columns.stages:
            if gate.unmeasured == "pass":
                return None
            raise _unknown_column(gate, stage, columns.stages)
    _check_type(gate, _quoted(gate.sql, columns), connection)
    conditions = [
        Condition(
            sql_of(part, connection) if part is not tree["child"] else _quoted(gate.sql, columns),
            _structs_read(part, columns),
        )
        for part in joined_by_and(tree["child"])
    ]
    return Rule(gate, conditions)


def _structs_read(part: Mapping[str, Any], columns: _Columns) -> list[str]:
    """The structs that an expression waits for, sorted."""
    found = set()
    for path in column_paths(part):
        name = columns.names[path[0].lower()]
        if name in columns.stages or name in columns.later:
            found.add(name)
        if name == "caption" and len(path) > 2 and path[1].lower() == "verified":
            found |= {_VERIFIED_AGAINST.get(path[2].lower(), "")} & set(columns.stages)
    return sorted(found)


def _parse(gate: Gate, connection: duckdb.DuckDBPyConnection, columns: _Columns) -> dict[str, Any]:
    """The expression's syntax tree, under the cast that was put around it."""
    # The line break ends a comment that the expression may end with.
    statement = f"SELECT ({_quoted(gate.sql, columns)}\n)::BOOLEAN FROM {VIEW}"
    rows = connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()
    parsed = json.loads(rows[0][0])
    if parsed["error"]:
        raise _gate_error(
            "gate_syntax",
            gate,
            f"The expression cannot be read ({parsed['error_message']}).",
            "Write one SQL expression, for example: motion.static_share < 0.9",
        )
    selected = parsed["statements"][0]["node"]["select_list"]
    tree: dict[str, Any] = selected[0]
    if len(selected) != 1 or tree["class"] != "CAST" or not _covers_whole(tree, statement):
        raise _gate_error(
            "gate_not_scalar",
            gate,
            "It is not one expression.",
            "Join several conditions with AND, or make several gates of them.",
        )
    return tree


def _covers_whole(tree: Mapping[str, Any], statement: str) -> bool:
    """Whether the outermost cast is ours: `a) , (b` and `a)::INT + (b` close our parenthesis."""
    return bool(
        tree["query_location"] + tree["query_location_length"]
        == len(statement.encode()) - len(f" FROM {VIEW}")
        and tree["query_location_length"] == len("::BOOLEAN")
    )


def _refuse_what_is_not_scalar(gate: Gate, tree: Mapping[str, Any]) -> None:
    refused = {
        "SUBQUERY": "a subquery",
        "WINDOW": "a window function",
        "STAR": "a star",
        "PARAMETER": "a parameter",
    }
    for node in syntax_nodes(tree):
        what = refused.get(str(node.get("class")))
        if node.get("class") == "FUNCTION":
            what = _refused_function(str(node["function_name"]))
        if what is not None:
            raise _gate_error(
                "gate_not_scalar",
                gate,
                f"It holds {what}: a gate looks at one clip alone.",
                "Use the clip's own columns and scalar functions.",
            )


def _refused_function(name: str) -> str | None:
    if name.lower() == "unnest":
        return "unnest"
    found = _functions().get(name.lower(), [])
    kinds = {kind for kind, _ in found}
    if kinds and not kinds & {"scalar", "macro"}:
        return f"{name}, which is no scalar function"
    if any(stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY") for _, stability in found):
        return f"{name}, which says something else every time"
    return None


@functools.cache
def _functions() -> dict[str, list[tuple[str, str | None]]]:
    """Type and stability of DuckDB's own functions by name; nobody else's are in our databases."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT function_name, function_type, stability FROM duckdb_functions()"
        ).fetchall()
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name, kind, stability in rows:
        found.setdefault(name, []).append((kind, stability))
    return found


def _resolve(gate: Gate, path: Sequence[str], columns: _Columns) -> str | None:
    """The column that a reference means; None if it is of a stage that may be absent."""
    name = columns.names.get(path[0].lower())
    if name is None:
        if len(path) > 1 and gate.unmeasured == "pass":
            return None
        raise _unknown_column(gate, ".".join(path), columns.dotted())
    if name in _OUTCOME_COLUMNS:
        raise _gate_error(
            "gate_not_scalar",
            gate,
            f"It reads '{name}', which is what the gates decide.",
            "Use what was measured.",
        )
    kind = columns.types[name]
    for depth, part in enumerate(path[1:], start=1):
        fields = {field.name.lower(): field.type for field in kind} if _is_struct(kind) else {}
        if part.lower() not in fields:
            raise _unknown_column(gate, ".".join(path[: depth + 1]), columns.dotted())
        kind = fields[part.lower()]
    return name


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))


def _check_type(gate: Gate, expression: str, connection: duckdb.DuckDBPyConnection) -> None:
    try:
        rows = connection.execute(
            f"DESCRIBE SELECT ({expression}\n) AS verdict FROM {_COLUMNS_TABLE} AS {VIEW}"
        ).fetchall()
    except duckdb.Error as error:
        raise _gate_error(
            "gate_syntax",
            gate,
            f"The expression cannot be worked out ({first_line(error)}).",
            "Check the functions and the types of the columns it compares.",
        ) from error
    kind = rows[0][1]
    if kind not in ("BOOLEAN", '"NULL"'):
        raise _gate_error(
            "gate_not_scalar",
            gate,
            f"It gives {kind}, not true or false.",
            "Compare it with something.",
        )


def _quoted(sql: str, columns: _Columns) -> str:
    """The expression with columns quoted whose names SQL keeps for itself, such as `window`."""
    data = sql.encode()
    tokens = duckdb.tokenize(sql)
    if not tokens:
        return sql
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    parts = [data[: tokens[0][0]]]
    for (start, kind), end in zip(tokens, ends, strict=True):
        text = data[start:end]
        word = text.rstrip().decode(errors="replace")
        name = columns.names.get(word.lower())
        if kind == duckdb.token_type.keyword and name is not None:
            text = quote_name(name).encode() + text[len(text.rstrip()) :]
        parts.append(text)
    return b"".join(parts).decode()


def _unknown_column(gate: Gate, name: str, names: Sequence[str]) -> UsageError:
    near = nearest_names(name, names)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "See the columns of `dataset`."
    return _gate_error("gate_unknown_column", gate, f"There is no column '{name}'.", remedy)


def _gate_error(code: str, gate: Gate, message: str, remedy: str) -> UsageError:
    return UsageError(code, message, subject=f"gate '{gate.name}'", remedy=remedy)
