"""Gates as queries: every clip of `dataset` is kept, rejected or pending, in one pass of SQL.

A gate is one scalar expression over the columns of `dataset`, true for clips to keep.

| the expression says | and the structs it reads | then the clip |
|---|---|---|
| true | | passes |
| false | | is rejected by `<gate>` |
| null | one has failed for good | is rejected by `<gate>:failed` |
| null | one is missing | is pending on that stage; passes with `unmeasured: pass` |
| null | one is not applicable | passes |
| null | all are measured | is pending on `<gate>`: the value itself is missing |

A failure that the next run tries again counts as missing.

A gate that names the backends its threshold speaks of takes what another backend measured for
missing, whatever the expression says of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from manifests.errors import UsageError
from manifests.gates import VIEW, Gate, Rule, first_line, policy_fingerprint, rules_of
from manifests.records import DecisionRow, arrow_schema
from manifests.view import query_table, quote_name, quote_text

FAILED_SUFFIX = ":failed"
"""Ends the name of a gate that rejects because what it reads could not be measured."""


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
    stages = sorted({stage for rule in rules for stage in rule.stages})
    inner = ["clip_id"]
    inner += [f"({rule.expression}\n) AS verdict_{index}" for index, rule in enumerate(rules)]
    for stage in stages:
        name = quote_name(stage)
        # What a later run tries again is missing, as if it had not been tried.
        inner.append(
            f"CASE WHEN NOT coalesce({name}.error.retryable, false) THEN {name}.status END"
            f" AS {quote_name('status_' + stage)}"
        )
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
            FROM (SELECT {", ".join(inner)} FROM {VIEW})
        ) ORDER BY clip_id"""


def _sorted_names(candidates: Sequence[str]) -> str:
    """The names that are not null, each once, sorted."""
    if not candidates:
        return "[]::VARCHAR[]"
    return f"list_sort(list_distinct([{', '.join(candidates)}]))"


def _rejection(index: int, rule: Rule) -> str:
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


def _waits(index: int, rule: Rule) -> list[str]:
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


def _foreign(rule: Rule, stage: str) -> str:
    """Whether the clip's struct was measured by a backend that the gate does not speak of."""
    backends = (rule.gate.backends or {}).get(stage)
    if backends is None:
        return "false"
    listed = ", ".join(quote_text(name) for name in backends) or "NULL"
    return (
        f"coalesce({quote_name('status_' + stage)} = 'ok'"
        f" AND coalesce({quote_name('backend_' + stage)} NOT IN ({listed}), true), false)"
    )
