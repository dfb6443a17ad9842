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
`caption.verified` says of the transcript or of the tagger is missing while these are. A struct
whose failure the next run tries again is null to the expression, its status too, and so missing.

The last row is what was measured and has no value (the bandwidth of silence), and a plain column
that is null (the licence of a source that came without one, the width of a sound): no later
measurement gives it. An expression that deals with null itself (IS NOT NULL, coalesce) is never
null: it decides by itself on what is missing, and what it rejects is not measured.

What ANDs join is decided part by part, as if each were a gate: what one part rejects is rejected,
and only what none rejects can be pending. So a further condition never brings a clip back.

A gate that names the backends its threshold speaks of takes what another backend measured for
missing: a part that reads it is null, whatever it says of it, and the other parts decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.policy.expressions import VIEW, first_line
from manifests.policy.gates import Condition, Gate, Rule, policy_fingerprint, rules_of
from manifests.store.records import DecisionRow, arrow_schema
from manifests.store.sql import quote_name, quote_text
from manifests.store.view import query_table

FAILED_SUFFIX = ":failed"
"""Ends the name of a gate that rejects because what it reads could not be measured."""
NO_VALUE_SUFFIX = ":no_value"
"""Ends the name of a gate that rejects because what it reads is there and has no value."""


def decide(
    connection: duckdb.DuckDBPyConnection,
    gates: Sequence[Gate],
    decided_under: str | None = None,
) -> pa.Table:
    """A row of `decisions` for every clip of `dataset`, by clip_id.

    `rejected_by` and `pending_on` are sorted; a rejected clip lists what it waits for as well.

    Args:
        connection: from `manifests.store.view.connect`.
        gates: all of them.
        decided_under: of the connection's selection, if the rows are to be written.

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
    under = pa.array([decided_under] * len(table), pa.string())
    return table.append_column("decided_under", under).cast(arrow_schema(DecisionRow))


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
            f"{_verdict_sql(rule, condition)} AS {_verdict(index, part)}"
            for part, condition in enumerate(rule.conditions)
        ]
        inner += [
            f"{_status_sql(rule, struct)} AS {_status(index, struct)}" for struct in rule.structs
        ]
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
            FROM (SELECT {", ".join(inner)} FROM {_settled(rules)} AS {VIEW})
        ) ORDER BY clip_id"""


def _settled(rules: Sequence[Rule]) -> str:
    """The view with what a later run tries again as null, as if it had not been tried."""
    structs = sorted({struct for rule in rules for struct in rule.structs} - {"mix"})
    settled = [
        f"CASE WHEN NOT coalesce({name}.error.retryable, false) THEN {name} END AS {name}"
        for name in map(quote_name, structs)
    ]
    return f"(SELECT * REPLACE ({', '.join(settled)}) FROM {VIEW})" if settled else VIEW


def _verdict_sql(rule: Rule, condition: Condition) -> str:
    """What a part says of a clip; null where it reads what another backend measured."""
    foreign = _any(_foreign(rule, struct) for struct in condition.structs)
    return f"CASE WHEN NOT {foreign} THEN ({condition.expression}\n)::BOOLEAN END"


def _status_sql(rule: Rule, struct: str) -> str:
    """A struct's status for a gate; null while it is missing."""
    name = quote_name(struct)
    if struct == "mix":
        return f"CASE WHEN {name} IS NOT NULL THEN 'ok' END"
    return f"CASE WHEN NOT {_foreign(rule, struct)} THEN {name}.status END"


def _foreign(rule: Rule, struct: str) -> str:
    """Whether the struct was measured by a backend that the gate does not speak of."""
    backends = (rule.gate.backends or {}).get(struct)
    if backends is None:
        return "false"
    name = quote_name(struct)
    listed = ", ".join(quote_text(backend) for backend in backends) or "NULL"
    ours = f"coalesce({name}.backend IN ({listed}), false)"
    return f"(coalesce({name}.status = 'ok', false) AND NOT {ours})"


def _verdict(index: int, part: int) -> str:
    return f"verdict_{index}_{part}"


def _status(index: int, struct: str) -> str:
    return quote_name(f"status_{index}_{struct}")


def _sorted_names(candidates: Sequence[str]) -> str:
    """The names that are not null, each once, sorted."""
    if not candidates:
        return "[]::VARCHAR[]"
    return f"list_sort(list_distinct([{', '.join(candidates)}]))"


def _rejection(index: int, rule: Rule) -> str:
    """The name under which the gate rejects a clip, or null."""
    verdicts = [_verdict(index, part) for part in range(len(rule.conditions))]
    nulls = [
        (f"{verdict} IS NULL", [_status(index, struct) for struct in condition.structs])
        for verdict, condition in zip(verdicts, rule.conditions, strict=True)
    ]
    refused = _any(f"NOT {verdict}" for verdict in verdicts)
    failed = _any(
        f"({null} AND {_any(_is(status, 'failed') for status in statuses)})"
        for null, statuses in nulls
    )
    no_value = _any(
        f"({null} AND NOT {_any(f'{status} IS NULL' for status in statuses)}"
        f" AND NOT {_any(_is(status, 'not_applicable') for status in statuses)})"
        for null, statuses in nulls
    )
    name = rule.gate.name
    return (
        f"CASE WHEN {refused} THEN {quote_text(name)}"
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
            f"({_verdict(index, part)} IS NULL AND {_status(index, struct)} IS NULL)"
            for part, condition in enumerate(rule.conditions)
            if struct in condition.structs
        )
        waits.append(f"CASE WHEN {rejected} THEN NULL WHEN {missing} THEN {quote_text(struct)} END")
    return waits


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


def _is(status: str, expected: str) -> str:
    return f"coalesce({status} = {quote_text(expected)}, false)"
