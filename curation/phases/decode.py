"""The step `decode`: every decode unit that lacks signals is decoded once, for all stages.

What is missing under the job's fingerprints is asked of the tables, and only that is done.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import duckdb

from curation.config import DecodeSettings
from curation.engine.progress import Progress
from curation.engine.tasks import Task
from curation.job import Job, error_record
from curation.phases.measured import rows_of, source_format, unit_key
from curation.resolve import Resolved
from manifests.store.output import Batch, Output
from manifests.store.records import SourceRow
from stages.run.unit import UnitResult, UnitTask, failed_unit, measure_unit

_MOST_UNITS = 10_000
"""How many units a span is planned as (14 days at the default length)."""


@dataclasses.dataclass(frozen=True)
class PlannedUnit:
    """A decode unit: a segment of a source; an open end reaches as far as there is anything.

    It never reaches beyond `span_end_s`, where another span may begin.
    """

    source_id: str
    unit_index: int
    start_s: float
    end_s: float
    open_start: bool
    open_end: bool
    span_end_s: float


def plan_units(source: Mapping[str, Any], unit_s: float) -> list[PlannedUnit]:
    """A source's units: equal parts of at most `unit_s` of every span that is used.

    The duration is what a header claims. It decides where the parts lie, never how far they reach
    together: the last one of a span ends where the span or the file does.
    """
    duration_s = float(source["duration_s"] or 0.0)
    if not math.isfinite(duration_s):
        duration_s = 0.0
    spans = source["spans"] or [{"start_s": 0.0, "end_s": math.inf}]
    units: list[PlannedUnit] = []
    for span in spans:
        start_s, span_end_s = float(span["start_s"]), float(span["end_s"])
        to_the_end = span_end_s >= duration_s
        end_s = max(duration_s, start_s) if to_the_end else span_end_s
        count = max(1, math.ceil((end_s - start_s) / unit_s - 1e-6))
        if count > _MOST_UNITS:
            # No recording is that long: its last unit is open, in case this one is.
            count, to_the_end = _MOST_UNITS, True
            end_s = start_s + count * unit_s
        edges = [start_s + (end_s - start_s) * part / count for part in range(count + 1)]
        for part in range(count):
            units.append(
                PlannedUnit(
                    source["source_id"],
                    len(units),
                    edges[part],
                    edges[part + 1],
                    open_start=part == 0 and start_s == 0.0,
                    open_end=part == count - 1 and to_the_end,
                    span_end_s=span_end_s,
                )
            )
    return units


def unit_tasks(
    connection: duckdb.DuckDBPyConnection, resolved: Resolved, decode: DecodeSettings
) -> list[UnitTask]:
    """The units that lack results, each with the stages that they lack."""
    signal_stages = resolved.signal_stages
    sources = rows_of(
        connection,
        "SELECT * FROM sources WHERE status = 'ok' AND modality IN ('video', 'audio') ORDER BY uri",
    )
    retryable = "status = 'ok' OR NOT error.retryable"
    unit_state = {
        (row["source_id"], row["unit_index"]): row["status"]
        for row in rows_of(
            connection, f"SELECT source_id, unit_index, status FROM units WHERE {retryable}"
        )
    }
    measured = {
        (row["source_id"], row["unit_index"]): set(row["stages"])
        for row in rows_of(
            connection,
            "SELECT source_id, unit_index, list(stage) AS stages FROM signals"
            f" WHERE {retryable} OR status = 'not_applicable' GROUP BY ALL",
        )
    }
    tasks = []
    for source in sources:
        for unit in plan_units(source, decode.unit_s):
            key = (unit.source_id, unit.unit_index)
            state = unit_state.get(key)
            lacking = set(signal_stages) - measured.get(key, set())
            if state == "failed" or (state == "ok" and not lacking):
                continue
            names = lacking if state == "ok" else set(signal_stages)
            tasks.append(
                UnitTask(
                    source_id=unit.source_id,
                    uri=source["uri"],
                    source=source_format(source, decode.media),
                    unit_index=unit.unit_index,
                    start_s=unit.start_s,
                    end_s=unit.end_s,
                    open_start=unit.open_start,
                    open_end=unit.open_end,
                    span_end_s=unit.span_end_s,
                    stages={name: resolved.calls[name] for name in signal_stages if name in names},
                    fingerprint=resolved.unit,
                    thread_count=decode.threads,
                    max_damaged_share=decode.max_damaged_share,
                )
            )
    return tasks


def decode_units(job: Job) -> None:
    """Decode every unit that lacks signals, once; a source none of whose units decodes fails."""
    with job.output.connect() as connection:
        tasks = unit_tasks(connection, job.resolved, job.configuration.decode)
        earlier = {
            unit_key(row): row["error"]
            for row in rows_of(
                connection,
                "SELECT source_id, unit_index, error FROM units WHERE error IS NOT NULL",
            )
        }
    # The longest first: the last worker to finish then has the least left to do.
    tasks.sort(key=lambda task: (task.start_s - task.end_s, task.uri, task.unit_index))
    with Progress("decode", len(tasks), "units") as progress:
        batch = Batch(job.output)
        for outcome in job.engine.run(Task(measure_unit, task, task.uri) for task in tasks):
            progress.advance(failed=outcome.error is not None)
            job.decoded_units += 1
            if outcome.error is not None:
                task = outcome.task.argument
                before = earlier.get((task.source_id, task.unit_index))
                failure = failed_unit(task, error_record(outcome.error, before))
                batch.add({"units": [failure]})
            else:
                result: UnitResult = outcome.result
                batch.add({"units": [result.unit], **result.rows})
        batch.flush()
    _fail_undecodable_sources(job.output)


def _fail_undecodable_sources(output: Output) -> None:
    """A source that probed well but none of whose units decodes is a failed source.

    Its error is the first unit's; if any unit may still decode, the first such unit's, so that the
    next run tries the source again.
    """
    columns = ", ".join(f"s.{field.name}" for field in dataclasses.fields(SourceRow))
    with output.connect() as connection:
        rows = rows_of(
            connection,
            f"""SELECT {columns}, u.first_error FROM sources s JOIN (
                SELECT source_id, arg_min(
                    error, {{'final': NOT coalesce(error.retryable, false), 'index': unit_index}}
                ) AS first_error FROM units
                GROUP BY source_id HAVING bool_and(status = 'failed')
            ) u USING (source_id) WHERE s.status = 'ok' ORDER BY s.uri""",
        )
    failed = []
    for row in rows:
        first_error = row.pop("first_error")
        failed.append({**row, "status": "failed", "error": first_error})
    output.commit({"sources": failed})
