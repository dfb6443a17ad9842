"""Gates as queries: every clip of `dataset` is kept, rejected or pending, in one pass of SQL.

A gate is one scalar expression over the columns of `dataset`, true for clips to keep.

| the expression says | and the structs it reads | then the clip |
|---|---|---|
| true | | passes |
| false | | is rejected by `<gate>` |
| null | one has failed | is rejected by `<gate>:failed` |
| null | one is missing | is pending on that stage; passes with `unmeasured: pass` |
| null | one is not applicable | passes |
| null | all are measured | is pending on `<gate>`: the value itself is missing |

A gate that names the backends its threshold speaks of takes what another backend measured for
missing, whatever the expression says of it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.records import DecisionRow, arrow_schema
from manifests.view import query_table, quote_name, quote_text, stage_names

FAILED_SUFFIX = ":failed"
"""Ends the name of a gate that rejects because what it reads could not be measured."""

_POLICY_VERSION = 1
_VIEW = "dataset"
_OUTCOME_COLUMNS = ("state", "rejected_by", "pending_on")


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


def decide(connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate]) -> pa.Table:
    """A row of `decisions` for every clip of `dataset`, by clip_id.

    `rejected_by` and `pending_on` are sorted; a rejected clip lists what it waits for as well.

    Raises:
        UsageError: as `validate`; `gate_failed` if an expression fails on some clip's values.
    """
    columns = _dataset_columns(connection)
    analysed = [_analyse(gate, connection, columns) for gate in gates]
    rules = [rule for rule in analysed if rule is not None]
    sql = _decision_sql(rules, policy_fingerprint(gates))
    try:
        table = query_table(connection, sql)
    except duckdb.Error as error:
        raise UsageError(
            "gate_failed",
            f"A gate cannot be worked out for some clip ({_first_line(error)}).",
            subject="gates",
            remedy="Guard the expression, for example with TRY_CAST or CASE.",
        ) from error
    return table.cast(arrow_schema(DecisionRow))


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
            path[0].lower() in columns
            for path in _column_paths(_parse(gate, connection, known), frozenset())
        )
    ]


def changed(connection: duckdb.DuckDBPyConnection, decisions: pa.Table) -> pa.Table:
    """The rows of `decisions` that differ from the current ones: all that has to be written."""
    connection.register("new_decisions", decisions)
    try:
        table = query_table(
            connection,
            """SELECT new.* FROM new_decisions AS new
            LEFT JOIN decisions AS old ON old.clip_id = new.clip_id AND old.policy = new.policy
            WHERE old.clip_id IS NULL OR old.state <> new.state
                OR old.rejected_by <> new.rejected_by OR old.pending_on <> new.pending_on
            ORDER BY new.clip_id""",
        )
    finally:
        connection.unregister("new_decisions")
    return table.cast(arrow_schema(DecisionRow))


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
            found += [Threshold(gate.name, *part) for part in _comparisons(tree["child"])]
    return found


@dataclasses.dataclass(frozen=True)
class _Rule:
    """A gate that was found good: its expression, and the stages whose structs it reads."""

    gate: Gate
    expression: str
    stages: list[str]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The columns of `dataset`: by lower-case name their type, and which of them are stages."""

    types: dict[str, pa.DataType]
    names: dict[str, str]
    stages: list[str]

    def dotted(self) -> list[str]:
        """Every name that a gate may say."""
        names = []
        for name, kind in self.types.items():
            names.append(name)
            if pa.types.is_struct(kind):
                names += [f"{name}.{field.name}" for field in kind]
        return names


def _dataset_columns(connection: duckdb.DuckDBPyConnection) -> _Columns:
    schema = query_table(connection, f"SELECT * FROM {_VIEW} LIMIT 0").schema
    return _Columns(
        {field.name: field.type for field in schema},
        {field.name.lower(): field.name for field in schema},
        stage_names(connection),
    )


def _analyse(gate: Gate, connection: duckdb.DuckDBPyConnection, columns: _Columns) -> _Rule | None:
    """The gate ready to run; None if it passes everything, since its stage is not measured here."""
    tree = _parse(gate, connection, columns)
    _refuse_what_is_not_scalar(gate, tree, connection)
    stages: set[str] = set()
    for path in _column_paths(tree, frozenset()):
        column = _resolve(gate, path, columns)
        if column is None:
            return None
        if column in columns.stages:
            stages.add(column)
    for stage in gate.backends or {}:
        if stage not in columns.stages:
            if gate.unmeasured == "pass":
                return None
            raise _unknown_column(gate, stage, columns.stages)
        stages.add(stage)
    expression = _quoted(gate.sql, columns)
    _check_type(gate, expression, connection)
    return _Rule(gate, expression, sorted(stages))


def _parse(gate: Gate, connection: duckdb.DuckDBPyConnection, columns: _Columns) -> dict[str, Any]:
    """The expression's syntax tree, under the cast that was put around it."""
    # The line break ends a comment that the expression may end with.
    statement = f"SELECT ({_quoted(gate.sql, columns)}\n)::BOOLEAN FROM {_VIEW}"
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
        == len(statement.encode()) - len(f" FROM {_VIEW}")
        and tree["query_location_length"] == len("::BOOLEAN")
    )


def _refuse_what_is_not_scalar(
    gate: Gate, tree: Mapping[str, Any], connection: duckdb.DuckDBPyConnection
) -> None:
    refused = {
        "SUBQUERY": "a subquery",
        "WINDOW": "a window function",
        "STAR": "a star",
        "PARAMETER": "a parameter",
    }
    for node in _nodes(tree):
        what = refused.get(str(node.get("class")))
        if node.get("class") == "FUNCTION":
            what = _refused_function(str(node["function_name"]), connection)
        if what is not None:
            raise _gate_error(
                "gate_not_scalar",
                gate,
                f"It holds {what}: a gate looks at one clip alone.",
                "Use the clip's own columns and scalar functions.",
            )


def _refused_function(name: str, connection: duckdb.DuckDBPyConnection) -> str | None:
    if name.lower() == "unnest":
        return "unnest"
    rows = connection.execute(
        "SELECT function_type, stability FROM duckdb_functions() WHERE function_name = lower(?)",
        [name],
    ).fetchall()
    kinds = {row[0] for row in rows}
    if kinds and not kinds & {"scalar", "macro"}:
        return f"{name}, which is no scalar function"
    if any(stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY") for _, stability in rows):
        return f"{name}, which says something else every time"
    return None


def _nodes(tree: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(tree, Mapping):
        yield tree
        for part in tree.values():
            yield from _nodes(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


def _column_paths(tree: object, bound: frozenset[str]) -> Iterator[list[str]]:
    """The column references, without the parameters of lambdas."""
    if isinstance(tree, list):
        for part in tree:
            yield from _column_paths(part, bound)
    elif isinstance(tree, Mapping):
        if tree.get("class") == "COLUMN_REF":
            path = [str(part) for part in tree["column_names"]]
            if path[0].lower() == _VIEW and len(path) > 1:
                path = path[1:]
            if path[0].lower() not in bound:
                yield path
            return
        if tree.get("class") == "LAMBDA":
            parameters = {
                str(node["column_names"][-1]).lower()
                for node in _nodes(tree["lhs"])
                if node.get("class") == "COLUMN_REF"
            }
            yield from _column_paths(tree["expr"], bound | parameters)
            return
        for part in tree.values():
            yield from _column_paths(part, bound)


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
            f"DESCRIBE SELECT ({expression}\n) AS verdict FROM {_VIEW}"
        ).fetchall()
    except duckdb.Error as error:
        raise _gate_error(
            "gate_syntax",
            gate,
            f"The expression cannot be worked out ({_first_line(error)}).",
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


def _decision_sql(rules: Sequence[_Rule], policy: str) -> str:
    stages = sorted({stage for rule in rules for stage in rule.stages})
    inner = ["clip_id"]
    inner += [f"({rule.expression}\n) AS verdict_{index}" for index, rule in enumerate(rules)]
    for stage in stages:
        name = quote_name(stage)
        inner.append(f"{name}.status AS {quote_name('status_' + stage)}")
        inner.append(f"{name}.backend AS {quote_name('backend_' + stage)}")
    rejections = [_rejection(index, rule) for index, rule in enumerate(rules)]
    waits = [wait for index, rule in enumerate(rules) for wait in _waits(index, rule)]
    return f"""
        SELECT clip_id, {quote_text(policy)} AS policy,
            CASE WHEN len(rejected_by) > 0 THEN 'reject' WHEN len(pending_on) > 0 THEN 'pending'
                ELSE 'keep' END AS state,
            rejected_by, pending_on
        FROM (
            SELECT clip_id, {_sorted_names(rejections)} AS rejected_by,
                {_sorted_names(waits)} AS pending_on
            FROM (SELECT {", ".join(inner)} FROM {_VIEW})
        ) ORDER BY clip_id"""


def _sorted_names(candidates: Sequence[str]) -> str:
    """The names that are not null, each once, sorted."""
    if not candidates:
        return "[]::VARCHAR[]"
    return f"list_sort(list_distinct([{', '.join(candidates)}]))"


def _rejection(index: int, rule: _Rule) -> str:
    """The name under which the gate rejects a clip, or null."""
    verdict = f"verdict_{index}"
    name = rule.gate.name
    failed = " OR ".join(f"{quote_name('status_' + stage)} = 'failed'" for stage in rule.stages)
    foreign = " OR ".join(_foreign(rule, stage) for stage in rule.gate.backends or {})
    return (
        f"CASE WHEN {foreign or 'false'} THEN NULL"
        f" WHEN NOT {verdict} THEN {quote_text(name)}"
        f" WHEN {verdict} IS NULL AND ({failed or 'false'})"
        f" THEN {quote_text(name + FAILED_SUFFIX)} END"
    )


def _waits(index: int, rule: _Rule) -> list[str]:
    """What the gate makes a clip wait for: one name or null per cause."""
    verdict = f"verdict_{index}"
    statuses = {stage: quote_name("status_" + stage) for stage in rule.stages}
    settled = " OR ".join(
        f"coalesce({status} IN ('failed', 'not_applicable'), true)" for status in statuses.values()
    )
    foreign = " OR ".join(_foreign(rule, stage) for stage in rule.gate.backends or {}) or "false"
    waits = [
        f"CASE WHEN {verdict} IS NULL AND NOT ({settled or 'false'}) AND NOT ({foreign})"
        f" THEN {quote_text(rule.gate.name)} END"
    ]
    if rule.gate.unmeasured == "pass":
        return waits
    failed = " OR ".join(f"coalesce({status} = 'failed', false)" for status in statuses.values())
    for stage, status in statuses.items():
        missing = f"({verdict} IS NULL AND {status} IS NULL AND NOT ({failed}))"
        waits.append(f"CASE WHEN {missing} OR {_foreign(rule, stage)} THEN {quote_text(stage)} END")
    return waits


def _foreign(rule: _Rule, stage: str) -> str:
    """Whether the clip's struct was measured by a backend that the gate does not speak of."""
    backends = (rule.gate.backends or {}).get(stage)
    if backends is None:
        return "false"
    listed = ", ".join(quote_text(name) for name in backends) or "NULL"
    return (
        f"coalesce({quote_name('status_' + stage)} = 'ok'"
        f" AND coalesce({quote_name('backend_' + stage)} NOT IN ({listed}), true), false)"
    )


_OPERATORS = {
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _comparisons(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    if tree["type"] == "CONJUNCTION_AND":
        for child in tree["children"]:
            yield from _comparisons(child)
    elif tree["type"] == "COMPARE_BETWEEN":
        for side, operator in (("lower", ">="), ("upper", "<=")):
            yield from _comparison(tree["input"], operator, tree[side])
    elif tree["type"] in _OPERATORS:
        operator = _OPERATORS[tree["type"]]
        yield from _comparison(tree["left"], operator, tree["right"])
        yield from _comparison(tree["right"], _MIRRORED[operator], tree["left"])


def _comparison(
    column: Mapping[str, Any], operator: str, number: Mapping[str, Any]
) -> Iterator[tuple[str, str, float]]:
    value = _number(number)
    if value is None:
        return
    if column["class"] == "COLUMN_REF":
        path = [part for part in column["column_names"] if part.lower() != _VIEW]
        yield ".".join(path), operator, value
    elif column.get("function_name") == "abs" and operator in ("<", "<="):
        inner = column["arguments"][0]["expression"]
        if inner["class"] == "COLUMN_REF":
            path = [part for part in inner["column_names"] if part.lower() != _VIEW]
            yield ".".join(path), operator, value
            yield ".".join(path), _MIRRORED[operator], -value


def _number(tree: Mapping[str, Any]) -> float | None:
    if tree.get("function_name") == "-" and len(tree["arguments"]) == 1:
        value = _number(tree["arguments"][0]["expression"])
        return None if value is None else -value
    if tree["class"] != "CONSTANT":
        return None
    try:
        return float(tree["literal"]["text"])
    except (KeyError, TypeError, ValueError):
        return None


def nearest_names(name: str, names: Sequence[str]) -> list[str]:
    """Up to three names that someone who wrote `name` may have meant, the nearest first."""
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    return [by_lower[match] for match in close]


def _unknown_column(gate: Gate, name: str, names: Sequence[str]) -> UsageError:
    near = nearest_names(name, names)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "See the columns of `dataset`."
    return _gate_error("gate_unknown_column", gate, f"There is no column '{name}'.", remedy)


def _gate_error(code: str, gate: Gate, message: str, remedy: str) -> UsageError:
    return UsageError(code, message, subject=f"gate '{gate.name}'", remedy=remedy)


def _first_line(error: Exception) -> str:
    """DuckDB's message without its kind and without the query."""
    line = str(error).strip().splitlines()[0]
    return line.split(": ", 1)[-1]
