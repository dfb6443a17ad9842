"""The second look: clip stages on clips that the gates have not already rejected.

Stages come one after another, so that what one finds spares the next its work: before each, the
gates are asked again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from curation.job import Batch, Job, error_record
from curation.measured import MeasuredUnit, StoredRows, measured_units, source_format, unit_key
from curation.progress import Progress
from curation.resolve import stage_calls
from curation.tasks import Outcome, Task
from manifests.decide import decide
from manifests.records import to_mapping
from stages.clip import ClipMeasurement, ClipResult
from stages.contract import ClipStage, ClipTask, ModelStage, StageCall
from stages.segment import first_look, struct_of

_CLIP_COLUMNS = (
    "clip_id", "source_id", "unit_index", "segmentation", "start_s", "end_s",
    "first_shot", "last_shot", "window", "damaged_s",
)  # fmt: skip
_UNITS_AT_ONCE = 64


def look_again(job: Job) -> None:
    """Run every clip stage where its struct is missing and its precondition holds.

    A failure that an earlier run recorded as retryable counts as missing.
    """
    for name, stage in job.resolved.clip_stages.items():
        with job.connect() as connection:
            candidates = _candidates(job, connection, name, stage)
            batch = Batch(job)
            for row in StoredRows(connection, f"FROM {candidates} WHERE NOT applies"):
                struct = _struct(job, name, stage, "not_applicable")
                batch.add({"clips": [_clip_columns(row) | {name: struct}]})
            chosen = StoredRows(
                connection, f"FROM {candidates} WHERE applies ORDER BY uri, start_s"
            )
            _run(job, connection, name, stage, chosen, batch)
            batch.flush()


def _run(
    job: Job,
    connection: duckdb.DuckDBPyConnection,
    name: str,
    stage: ClipStage[Any],
    chosen: StoredRows,
    batch: Batch,
) -> None:
    """Measure the chosen clips and add their rows to the batch."""
    call = stage_calls(job.configuration, job.resolved)[name]
    under_way: dict[str, dict[str, Any]] = {}
    tasks = _tasks(job, connection, stage, call, chosen, under_way)
    progress = Progress(name, len(chosen), "clips")
    for outcome in _outcomes(job, stage, call, tasks):
        progress.advance(failed=outcome.error is not None)
        job.decoded_clips += 1
        row = under_way.pop(outcome.task.argument.clip.clip_id)
        if outcome.error is not None:
            earlier = (row[name] or {}).get("error")
            error = to_mapping(error_record(outcome.error, earlier))
            struct = _struct(job, name, stage, "failed", error)
            batch.add({"clips": [row | {name: struct}]})
            continue
        result: ClipResult = outcome.result
        sides = {
            table: [{"clip_id": row["clip_id"], **side} for side in rows]
            for table, rows in result.side_rows.items()
        }
        batch.add({"clips": [row | {name: result.struct}], **sides})
    if len(chosen):
        progress.close()


def _outcomes(
    job: Job, stage: ClipStage[Any], call: StageCall, tasks: Iterator[Task]
) -> Iterator[Outcome]:
    if isinstance(stage, ModelStage) and stage.needs_model:
        return job.engine.run_model(tasks, call)
    return job.engine.run(tasks)


def _candidates(
    job: Job, connection: duckdb.DuckDBPyConnection, name: str, stage: ClipStage[Any]
) -> str:
    """The table of clips that lack the stage's struct and that no gate rejects.

    Its column `applies` is the precondition.

    Where what the precondition reads is itself not applicable (no sound, no picture), so is this;
    where it has failed or is missing, nothing can be said yet.
    """
    reads = [read for read in stage.reads if read in job.resolved.fingerprints]
    absent = " OR ".join(f"{read}.status = 'not_applicable'" for read in reads) or "false"
    connection.register("verdicts", decide(connection, job.configuration.gate_list()))
    connection.execute(
        f"""CREATE TEMP TABLE candidates AS
        SELECT d.*, coalesce(({stage.precondition}), CASE WHEN {absent} THEN false END) AS applies
        FROM dataset d JOIN verdicts v USING (clip_id)
        WHERE v.state <> 'reject' AND (d."{name}" IS NULL OR d."{name}".error.retryable)"""
    )
    connection.unregister("verdicts")
    return "candidates"


def _tasks(
    job: Job,
    connection: duckdb.DuckDBPyConnection,
    stage: ClipStage[Any],
    call: StageCall,
    chosen: StoredRows,
    under_way: dict[str, dict[str, Any]],
) -> Iterator[Task]:
    """The tasks in the clips' order; what is known of their units is read a few units at a time.

    Args:
        job: the job.
        connection: to its tables.
        stage: the stage.
        call: the same, for the workers.
        chosen: the clips.
        under_way: gets the columns of every clip whose task is given out, and its struct of an
            earlier run.
    """
    units = itertools.groupby(chosen, key=unit_key)
    while some := [(key, list(rows)) for key, rows in itertools.islice(units, _UNITS_AT_ONCE)]:
        clips_of: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for key, rows in some:
            clips_of.setdefault(key, []).extend(rows)
        wanted = [{"source_id": source_id, "unit_index": index} for source_id, index in clips_of]
        for unit in measured_units(connection, wanted):
            for row in clips_of[unit_key(unit.unit)]:
                clip = _clip_task(job, stage, call.name, row, unit)
                under_way[clip.clip_id] = _clip_columns(row) | {call.name: row[call.name]}
                yield Task("stages.clip:measure_clip", ClipMeasurement(call, clip), row["uri"])


def _clip_task(
    job: Job, stage: ClipStage[Any], name: str, row: Mapping[str, Any], unit: MeasuredUnit
) -> ClipTask:
    seen = None
    if name in job.resolved.signal_stages:
        signal_stage = job.resolved.signal_stages[name]
        seen = first_look(signal_stage, row["start_s"], row["end_s"], unit.signals, unit.side_rows)
    return ClipTask(
        clip_id=row["clip_id"],
        uri=row["uri"],
        source=source_format(row, job.configuration.decode.media),
        start_s=row["start_s"],
        end_s=row["end_s"],
        side_rows=unit.side_rows,
        structs={read: row[read] for read in stage.reads if row.get(read) is not None},
        first_look=seen,
    )


def _struct(
    job: Job,
    name: str,
    stage: ClipStage[Any],
    status: str,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A struct without measurements."""
    fingerprint = job.resolved.fingerprints[name]
    return struct_of(stage.Record, None, status, error, stage.backend.name, fingerprint)


def _clip_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _CLIP_COLUMNS}
