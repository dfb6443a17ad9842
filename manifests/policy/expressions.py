"""SQL expressions as DuckDB's syntax trees: nodes, the columns they name, their comparisons."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

VIEW = "dataset"
"""The view that gates read."""

_OPERATORS = {
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def syntax_nodes(tree: object) -> Iterator[Mapping[str, Any]]:
    """Every node of a tree of DuckDB's `json_serialize_sql`, those above first."""
    if isinstance(tree, Mapping):
        yield tree
        for part in tree.values():
            yield from syntax_nodes(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from syntax_nodes(part)


def column_paths(tree: object, bound: frozenset[str] = frozenset()) -> Iterator[list[str]]:
    """The columns and fields that a tree names, part by part (`sync.offset` is two parts).

    Args:
        tree: of DuckDB's `json_serialize_sql`, or a part of one.
        bound: parameters of lambdas around it, which are no columns.
    """
    if isinstance(tree, list):
        for part in tree:
            yield from column_paths(part, bound)
    elif isinstance(tree, Mapping):
        if tree.get("class") == "COLUMN_REF":
            path = [str(part) for part in tree["column_names"]]
            if path[0].lower() == VIEW and len(path) > 1:
                path = path[1:]
            if path[0].lower() not in bound:
                yield path
            return
        if tree.get("class") == "LAMBDA":
            parameters = {
                str(node["column_names"][-1]).lower()
                for node in syntax_nodes(tree["lhs"])
                if node.get("class") == "COLUMN_REF"
            }
            yield from column_paths(tree["expr"], bound | parameters)
            return
        for part in tree.values():
            yield from column_paths(part, bound)


def joined_by_and(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a conjunction, or the expression itself if it is none."""
    if tree["type"] == "CONJUNCTION_AND":
        for child in tree["children"]:
            yield from joined_by_and(child)
    else:
        yield tree


def sql_of(part: Mapping[str, Any], connection: duckdb.DuckDBPyConnection) -> str:
    """A part of a syntax tree as SQL again."""
    rows = connection.execute("SELECT json_serialize_sql('SELECT 0')").fetchall()
    statement = json.loads(rows[0][0])
    statement["statements"][0]["node"]["select_list"] = [part]
    rows = connection.execute(
        "SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)]
    ).fetchall()
    return str(rows[0][0]).removeprefix("SELECT ")


def comparisons(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """The comparisons of a column with a number that AND joins: column (dotted), operator, number.

    `abs(x) <= 3` is two of them; those under NOT, OR or CASE are left out.
    """
    if tree["type"] == "CONJUNCTION_AND":
        for child in tree["children"]:
            yield from comparisons(child)
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
        path = [part for part in column["column_names"] if part.lower() != VIEW]
        yield ".".join(path), operator, value
    elif column.get("function_name") == "abs" and operator in ("<", "<="):
        inner = column["arguments"][0]["expression"]
        if inner["class"] == "COLUMN_REF":
            path = [part for part in inner["column_names"] if part.lower() != VIEW]
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


def first_line(error: Exception) -> str:
    """DuckDB's message without its kind and without the query."""
    line = str(error).strip().splitlines()[0]
    return line.split(": ", 1)[-1]
