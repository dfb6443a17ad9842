"""The step `clip stages`: stages that look at a clip itself, where the gates do not reject it yet.

Stages come one after another, so that what one finds spares the next its work: before each, the
gates are asked again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb

from curation.engine.engine import Engine
from curation.engine.progress import Progress
from curation.engine.tasks import Outcome, Task
from curation.job import Job, error_record
from curation.phases.measured import (
    MeasuredUnit,
    Media,
    StoredRows,
    measured_units,
    source_format,
    unit_key,
)
from curation.resolve import Resolved
from manifests.errors import MediaError
from manifests.policy.decide import decide
from manifests.policy.gates import Gate, gates_without
from manifests.store.output import Batch
from manifests.store.records import to_mapping
from manifests.store.sql import quote_name, quote_text
from stages.base.clip import ClipTask
from stages.base.contract import ClipStage, ModelStage, SignalStage, StageCall
from stages.run.clip import ClipMeasurement, ClipResult, measure_clip
from stages.run.segment import signals_record, struct_of

_CLIP_COLUMNS = (
    "clip_id", "source_id", "unit_index", "segmentation", "start_s", "end_s",
    "first_shot", "last_shot", "window", "damaged_s",
)  # fmt: skip
_UNITS_AT_ONCE = 64
_READS_FAILED = "reads_failed"


@dataclasses.dataclass(frozen=True)
class _Turn:
    """A clip stage whose turn it is.

    `signal_stage` is the one of the same name whose summary of the clip's signals it completes, if
    it does; `reads` are the enabled stages whose structs it reads.
    """

    name: str
    stage: ClipStage[Any]
    call: StageCall
    signal_stage: SignalStage[Any] | None
    reads: tuple[str, ...]

    def struct(self, status: str, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A struct without measurements."""
        stage, fingerprint = self.stage, self.call.fingerprint
        return struct_of(stage.Record, None, status, error, stage.backend.name, fingerprint)


def run_clip_stages(job: Job) -> None:
    """Run every clip stage where its struct is missing and its precondition holds.

    A failure that an earlier run recorded as retryable counts as missing.
    """
    gates = job.configuration.gate_list()
    for name in job.resolved.clip_stages:
        turn = _turn(name, job.resolved)
        with job.output.connect() as connection:
            candidates = _candidates(connection, turn, gates)
            batch = Batch(job.output)
            for row in StoredRows(connection, f"FROM {candidates} WHERE turn <> 'measure'"):
                batch.add({"clips": [_clip_columns(row) | {name: _unmeasured(turn, row)}]})
            chosen = StoredRows(
                connection, f"FROM {candidates} WHERE turn = 'measure' ORDER BY uri, start_s"
            )
            _run(job, connection, turn, chosen, batch)
            batch.flush()


def _turn(name: str, resolved: Resolved) -> _Turn:
    stage = resolved.clip_stages[name]
    reads = tuple(read for read in stage.reads if read in resolved.fingerprints)
    return _Turn(name, stage, resolved.calls[name], resolved.signal_stages.get(name), reads)


def _unmeasured(turn: _Turn, row: Mapping[str, Any]) -> dict[str, Any]:
    """The struct of a candidate that is not looked at."""
    if row["turn"] == "not_applicable":
        return turn.struct("not_applicable")
    error = MediaError(
        _READS_FAILED, f"What it reads could not be measured: {', '.join(row['reads_failed'])}."
    )
    return turn.struct("failed", to_mapping(error_record(error)))


def _run(
    job: Job,
    connection: duckdb.DuckDBPyConnection,
    turn: _Turn,
    chosen: StoredRows,
    batch: Batch,
) -> None:
    """Measure the chosen clips and add their rows to the batch."""
    name = turn.name
    under_way: dict[str, dict[str, Any]] = {}
    tasks = _tasks(connection, turn, job.configuration.decode.media, chosen, under_way)
    with Progress(name, len(chosen), "clips") as progress:
        for outcome in _outcomes(job.engine, turn, tasks):
            progress.advance(failed=outcome.error is not None)
            job.decoded_clips += 1
            row = under_way.pop(outcome.task.argument.clip.clip_id)
            if outcome.error is not None:
                earlier = (row[name] or {}).get("error")
                error = to_mapping(error_record(outcome.error, earlier))
                batch.add({"clips": [row | {name: turn.struct("failed", error)}]})
                continue
            result: ClipResult = outcome.result
            sides = {
                table: [{"clip_id": row["clip_id"], **side} for side in rows]
                for table, rows in result.side_rows.items()
            }
            batch.add({"clips": [row | {name: result.struct}], **sides})


def _outcomes(engine: Engine, turn: _Turn, tasks: Iterator[Task[Any]]) -> Iterator[Outcome]:
    if isinstance(turn.stage, ModelStage) and turn.stage.needs_model:
        return engine.run_model(tasks, turn.call)
    return engine.run(tasks)


def _candidates(connection: duckdb.DuckDBPyConnection, turn: _Turn, gates: Sequence[Gate]) -> str:
    """The table of clips that lack the stage's struct, that no gate rejects, and that do not wait.

    Its column `turn` says what is to be done: `measure`, or else what the struct becomes. To the
    precondition a struct that is missing or has failed is null. Where that leaves it false,
    whatever the struct would say, or where another struct that it reads does not apply (no sound,
    no picture), the stage is `not_applicable`. Otherwise a clip waits for what is missing or failed
    for now, and the stage is `failed` where what it reads failed for good (`reads_failed`).
    """
    name, stage, reads = turn.name, turn.stage, turn.reads
    statuses = {read: f"d.{quote_name(read)}" for read in reads}
    signals = ""
    if turn.signal_stage is not None:
        statuses[name] = "own_signals"
        signals = (
            "LEFT JOIN signals AS own_signals ON own_signals.source_id = d.source_id"
            f" AND own_signals.unit_index = d.unit_index AND own_signals.stage = {quote_text(name)}"
        )
    awaits = _any(
        f"{read}.status IS NULL OR coalesce({read}.error.retryable, false)"
        for read in statuses.values()
    )
    failed = ", ".join(
        f"CASE WHEN {struct}.status = 'failed' THEN {quote_text(read)} END"
        for read, struct in sorted(statuses.items())
    )
    known = ", ".join(
        f"CASE WHEN {struct}.status <> 'failed' THEN {struct} END AS {quote_name(read)}"
        for read, struct in statuses.items()
        if read != name
    )
    absent = _any(f"{quote_name(read)}.status = 'not_applicable'" for read in reads)
    _decide_for(connection, turn, gates)
    connection.execute(
        f"""CREATE TEMP TABLE candidates AS
        WITH lacking AS (
            SELECT d.* {f"REPLACE ({known})" if known else ""}, {awaits} AS reads_awaited,
                list_filter([{failed}]::VARCHAR[], lambda read: read IS NOT NULL) AS reads_failed
            FROM dataset AS d JOIN verdicts AS v ON v.clip_id = d.clip_id {signals}
            WHERE {_lacks(_once_wrong(turn), f"d.{quote_name(name)}")}
        ), asked AS (SELECT *, ({stage.precondition})::BOOLEAN AS holds FROM lacking),
        turns AS (
            SELECT *, CASE
                WHEN NOT holds OR (holds IS NULL AND {absent}) THEN 'not_applicable'
                WHEN reads_awaited THEN NULL
                WHEN len(reads_failed) > 0 THEN 'failed'
                WHEN holds THEN 'measure' END AS turn
            FROM asked
        )
        FROM turns WHERE turn IS NOT NULL AND (turn <> coalesce({quote_name(name)}.status, '')
            OR coalesce({quote_name(name)}.error.retryable, false))"""
    )
    return "candidates"


def _decide_for(connection: duckdb.DuckDBPyConnection, turn: _Turn, gates: Sequence[Gate]) -> None:
    """The table `verdicts`: per clip, whether the gates and those of other stages reject it."""
    connection.register("by_all", decide(connection, gates))
    connection.execute(
        "CREATE TEMP TABLE verdicts AS SELECT clip_id, state = 'reject' AS rejected,"
        " state = 'reject' AS rejected_elsewhere FROM by_all"
    )
    connection.unregister("by_all")
    if _once_wrong(turn) is None:
        return
    others = gates_without(connection, gates, [turn.name])
    connection.register("by_others", decide(connection, others))
    connection.execute(
        "UPDATE verdicts SET rejected_elsewhere = other.state = 'reject' FROM by_others AS other"
        " WHERE other.clip_id = verdicts.clip_id"
    )
    connection.unregister("by_others")


def _once_wrong(turn: _Turn) -> str | None:
    """What earlier versions said for good over reads that had failed for now, as SQL on a struct.

    A precondition that asks for a status is false of a failed struct, not null.
    """
    if turn.signal_stage is not None:
        return "error.code = 'no_first_look'"
    stage = turn.stage
    if any(f"{read}.status" in stage.precondition for read in stage.reads):
        return "status = 'not_applicable'"
    return None


def _lacks(once_wrong: str | None, struct: str) -> str:
    """Whether a clip that no gate rejects lacks the struct, or may have a wrong one.

    The gates that read a wrong one do not count.
    """
    lacks = f"(NOT v.rejected AND ({struct} IS NULL OR {struct}.error.retryable))"
    if once_wrong is None:
        return lacks
    return f"({lacks} OR (NOT v.rejected_elsewhere AND {struct}.{once_wrong}))"


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


def _tasks(
    connection: duckdb.DuckDBPyConnection,
    turn: _Turn,
    media: Media,
    chosen: StoredRows,
    under_way: dict[str, dict[str, Any]],
) -> Iterator[Task[Any]]:
    """The tasks in the clips' order; what is known of their units is read a few units at a time.

    Args:
        connection: to the job's tables.
        turn: the stage.
        media: what of a source is used.
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
                clip = _clip_task(turn, media, row, unit)
                under_way[clip.clip_id] = _clip_columns(row) | {turn.name: row[turn.name]}
                yield Task(measure_clip, ClipMeasurement(turn.call, clip), row["uri"])


def _clip_task(turn: _Turn, media: Media, row: Mapping[str, Any], unit: MeasuredUnit) -> ClipTask:
    seen = None
    if turn.signal_stage is not None:
        seen = signals_record(
            turn.signal_stage, row["start_s"], row["end_s"], unit.signals, unit.side_rows
        )
    return ClipTask(
        clip_id=row["clip_id"],
        uri=row["uri"],
        source=source_format(row, media),
        start_s=row["start_s"],
        end_s=row["end_s"],
        side_rows=unit.side_rows,
        structs={read: row[read] for read in turn.stage.reads if row.get(read) is not None},
        signals_record=seen,
    )


def _clip_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _CLIP_COLUMNS}
