"""Gates as queries: every clip of `dataset` is kept, rejected or pending, in one pass of SQL.

A gate is one scalar expression over the columns of `dataset`, true for clips to keep. The first row
that fits decides:

| the expression says | and the structs it reads | then the clip |
|---|---|---|
| true | | passes |
| false | | is rejected by `<gate>` |
| null | one has failed for good | is rejected by `<gate>:failed` |
| null | one is missing | is pending on that struct; passes with `unmeasured: pass` |
| null | one is not applicable | passes |
| null | all are there, or it reads none | is rejected by `<gate>:no_value` |

The structs are those of stages, `caption` (missing before the phase `caption`) and `mix` (missing
until the clip competes for a place; if no mix is asked for it is a plain column). What
`caption.verified` says of the transcript or of the tagger is missing while these are. A failure
that the next run tries again counts as missing.

The last row is what was measured and has no value (the bandwidth of silence), and a plain column
that is null (the licence of a source that came without one, the width of a sound): no later
measurement gives it. An expression that deals with null itself (IS NULL, coalesce) is never null.

What ANDs join is decided part by part, as if each were a gate: what one part rejects is rejected,
and only what none rejects can be pending. So a further condition never brings a clip back.

A gate that names the backends its threshold speaks of takes what another backend measured for
missing, whatever the expression says of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.gates import VIEW, Gate, Rule, first_line, policy_fingerprint, rules_of
from manifests.records import DecisionRow, arrow_schema
from manifests.view import query_table, quote_name, quote_text

FAILED_SUFFIX = ":failed"
"""Ends the name of a gate that rejects because what it reads could not be measured."""
NO_VALUE_SUFFIX = ":no_value"
"""Ends the name of a gate that rejects because what it reads is there and has no value."""


def decide(connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate]) -> pa.Table:
    """A row of `decisions` for every clip of `dataset`, by clip_id.

    `rejected_by` and `pending_on` are sorted; a rejected clip lists what it waits for as well.

    Raises:
        UsageError: as `validate`; `gate_failed` if an expression fails on some clip's values.
    """
    sql = _decision_sql(rules_of(connection, gates), policy_fingerprint(gates))
    try:
        table = query_table(connection, sql)
    except duckdb.Error as error:
        raise UsageError(
            "gate_failed",
            f"A gate cannot be worked out for some clip ({first_line(error)}).",
            subject="gates",
            remedy="Guard the expression, for example with TRY_CAST or CASE.",
        ) from error
    return table.cast(arrow_schema(DecisionRow))


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


def _decision_sql(rules: Sequence[Rule], policy: str) -> str:
    inner = ["clip_id"]
    for index, rule in enumerate(rules):
        inner += [
            f"({condition.expression}\n)::BOOLEAN AS {_verdict(index, part)}"
            for part, condition in enumerate(rule.conditions)
        ]
    for struct in sorted({struct for rule in rules for struct in rule.structs}):
        inner.append(f"{_status_sql(struct)} AS {_status(struct)}")
    for stage in sorted({stage for rule in rules for stage in rule.gate.backends or {}}):
        inner.append(f"{quote_name(stage)}.backend AS {_backend(stage)}")
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
            FROM (SELECT {", ".join(inner)} FROM {VIEW})
        ) ORDER BY clip_id"""


def _status_sql(struct: str) -> str:
    """A struct's status; null while it is missing."""
    name = quote_name(struct)
    if struct == "mix":
        return f"CASE WHEN {name} IS NOT NULL THEN 'ok' END"
    # What a later run tries again is missing, as if it had not been tried.
    return f"CASE WHEN NOT coalesce({name}.error.retryable, false) THEN {name}.status END"


def _verdict(index: int, part: int) -> str:
    return f"verdict_{index}_{part}"


def _status(struct: str) -> str:
    return quote_name("status_" + struct)


def _backend(stage: str) -> str:
    return quote_name("backend_" + stage)


def _sorted_names(candidates: Sequence[str]) -> str:
    """The names that are not null, each once, sorted."""
    if not candidates:
        return "[]::VARCHAR[]"
    return f"list_sort(list_distinct([{', '.join(candidates)}]))"


def _rejection(index: int, rule: Rule) -> str:
    """The name under which the gate rejects a clip, or null."""
    verdicts = [_verdict(index, part) for part in range(len(rule.conditions))]
    nulls = [
        (f"{verdict} IS NULL", condition.structs)
        for verdict, condition in zip(verdicts, rule.conditions, strict=True)
    ]
    refused = _any(f"NOT {verdict}" for verdict in verdicts)
    failed = _any(f"({null} AND {_any_failed(structs)})" for null, structs in nulls)
    no_value = _any(
        f"({null} AND NOT {_any(f'{_status(name)} IS NULL' for name in structs)}"
        f" AND NOT {_any(_is(name, 'not_applicable') for name in structs)})"
        for null, structs in nulls
    )
    name = rule.gate.name
    return (
        f"CASE WHEN {_any(_foreign(rule, stage) for stage in rule.gate.backends or {})} THEN NULL"
        f" WHEN {refused} THEN {quote_text(name)}"
        f" WHEN {failed} THEN {quote_text(name + FAILED_SUFFIX)}"
        f" WHEN {no_value} THEN {quote_text(name + NO_VALUE_SUFFIX)} END"
    )


def _waits(index: int, rule: Rule) -> list[str]:
    """What the gate makes a clip wait for: one name or null per struct."""
    if rule.gate.unmeasured == "pass":
        return []
    rejected = f"({_rejection(index, rule)}) IS NOT NULL"
    waits = []
    for struct in rule.structs:
        missing = _any(
            f"({_verdict(index, part)} IS NULL AND {_status(struct)} IS NULL)"
            for part, condition in enumerate(rule.conditions)
            if struct in condition.structs
        )
        waits.append(
            f"CASE WHEN {rejected} THEN NULL"
            f" WHEN {missing} OR {_foreign(rule, struct)} THEN {quote_text(struct)} END"
        )
    return waits


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


def _is(struct: str, status: str) -> str:
    return f"coalesce({_status(struct)} = {quote_text(status)}, false)"


def _any_failed(structs: Iterable[str]) -> str:
    return _any(_is(struct, "failed") for struct in structs)


def _foreign(rule: Rule, stage: str) -> str:
    """Whether the clip's struct was measured by a backend that the gate does not speak of."""
    backends = (rule.gate.backends or {}).get(stage)
    if backends is None:
        return "false"
    listed = ", ".join(quote_text(name) for name in backends) or "NULL"
    return f"({_is(stage, 'ok')} AND coalesce({_backend(stage)} NOT IN ({listed}), true))"
