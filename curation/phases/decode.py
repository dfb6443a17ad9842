"""The phase `measure`: probe what is new, decode what lacks signals, cut clips.

Every step asks the tables what is missing under the job's fingerprints and does only that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import duckdb

from curation.engine.progress import Progress
from curation.engine.tasks import Task
from curation.inputs import InputFile
from curation.job import Batch, Job, error_record
from curation.phases.clip_stages import look_again
from curation.phases.measured import (
    FORMAT_FIELDS,
    MeasuredUnit,
    measured_units,
    rows_of,
    source_format,
    unit_key,
)
from curation.resolve import stage_calls
from manifests.store.records import ErrorRecord, SourceRow, Span
from stages.media.blocks import SourceFormat
from stages.media.probe import probe
from stages.run.segment import Shot, cut_unit, summarise_clip
from stages.run.unit import UnitResult, UnitTask, failed_unit, measure_unit, signals_from_row

_CUT_BATCH_UNITS = 256


def measure(job: Job, files: Iterable[InputFile]) -> None:
    """Run all steps of the phase."""
    probe_sources(job, list(files))
    decode_units(job)
    cut_clips(job)
    look_again(job)


def probe_sources(job: Job, files: list[InputFile]) -> None:
    """Give every file its row in `sources`."""
    with job.connect() as connection:
        known = known_sources(connection)
    files = with_known_identity(files, known.values())
    batch = Batch(job)
    tasks = []
    by_uri = {file.uri: file for file in files}
    for file in files:
        row = known.get(file.source_id)
        carried, licence, split = _carried(job, file)
        described = row and (dict(row["carried"]), row["licence"], row["split"])
        if file.error is not None and (row is None or row["error"] is not None):
            told = error_record(file.error)
            as_row = dataclasses.asdict(told)
            if row is None or (row["error"], described) != (as_row, (carried, licence, split)):
                batch.add({"sources": [_source_row(job, file, None, told)]})
            continue
        if row is None or (row["error"] is not None and row["error"]["retryable"]):
            tasks.append(Task(probe, file.uri, file.uri))
            continue
        if described != (carried, licence, split):
            # Words and rights beside a file may change without the file: no need to open it.
            fresh = {**row, "carried": carried, "licence": licence, "split": split}
            batch.add({"sources": [fresh]})
    progress = Progress("probe", len(tasks), "files")
    for outcome in job.engine.run(tasks):
        file = by_uri[outcome.task.subject]
        earlier = (known.get(file.source_id) or {}).get("error")
        error = error_record(outcome.error, earlier) if outcome.error is not None else None
        batch.add({"sources": [_source_row(job, file, outcome.result, error)]})
        progress.advance(failed=outcome.error is not None)
    batch.flush()
    if tasks:
        progress.close()


_MOST_UNITS = 10_000
"""How many units a span is planned as (14 days at the default length)."""


@dataclasses.dataclass(frozen=True)
class PlannedUnit:
    """A stretch of a source to decode; an open end reaches as far as there is anything.

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


def unit_tasks(job: Job, connection: duckdb.DuckDBPyConnection) -> list[UnitTask]:
    """The units that lack results, each with the stages that they lack."""
    signal_stages = job.resolved.signal_stages
    calls = stage_calls(job.configuration, job.resolved)
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
        for unit in plan_units(source, job.configuration.decode.unit_s):
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
                    source=source_format(source, job.configuration.decode.media),
                    unit_index=unit.unit_index,
                    start_s=unit.start_s,
                    end_s=unit.end_s,
                    open_start=unit.open_start,
                    open_end=unit.open_end,
                    span_end_s=unit.span_end_s,
                    stages={name: calls[name] for name in signal_stages if name in names},
                    fingerprint=job.resolved.unit,
                    thread_count=job.configuration.decode.threads,
                    max_damaged_share=job.configuration.decode.max_damaged_share,
                )
            )
    return tasks


def decode_units(job: Job) -> None:
    """Decode every unit that lacks signals, once; a source none of whose units decodes fails."""
    with job.connect() as connection:
        tasks = unit_tasks(job, connection)
        earlier = {
            unit_key(row): row["error"]
            for row in rows_of(
                connection,
                "SELECT source_id, unit_index, error FROM units WHERE error IS NOT NULL",
            )
        }
    # The longest first: the last worker to finish then has the least left to do.
    tasks.sort(key=lambda task: (task.start_s - task.end_s, task.uri, task.unit_index))
    progress = Progress("decode", len(tasks), "units")
    batch = Batch(job)
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
    if tasks:
        progress.close()
    _fail_undecodable_sources(job)


def cut_clips(job: Job) -> None:
    """Cut clips and sum up signals wherever clips of this segmentation lack a struct.

    A struct that says that its signals failed for now is lacking once they are there; where those
    failed that say where to cut, nothing is cut yet.
    """
    stages = job.resolved.summed_stages
    lacking = " OR ".join(
        f"""c.{name} IS NULL OR (c.{name}.error.retryable
            AND NOT list_contains(coalesce(f.stages, []), '{name}'))"""
        for name in stages
    )
    cutting = "loudness" if job.configuration.clip.cut == "silences" else "shots"
    with job.connect() as connection:
        waiting = rows_of(
            connection,
            f"SELECT error FROM signals WHERE stage = '{cutting}' AND error.retryable ORDER BY ALL",
        )
        if waiting:
            job.notes.append(
                f"{len(waiting)} units are not cut into clips yet, because {cutting} failed for now"
                f" ({waiting[0]['error']['message']}). Run the same command again."
            )
        missing = rows_of(
            connection,
            f"""WITH failed_for_now AS (
                SELECT source_id, unit_index, list(stage) AS stages FROM signals
                WHERE error.retryable GROUP BY ALL
            ), whole AS (
                SELECT DISTINCT source_id, unit_index FROM clips c
                LEFT JOIN failed_for_now f USING (source_id, unit_index)
                WHERE NOT coalesce({lacking or "false"}, false)
            )
            SELECT u.source_id, u.unit_index FROM units u
            LEFT JOIN failed_for_now f USING (source_id, unit_index)
            WHERE u.status = 'ok' AND NOT list_contains(coalesce(f.stages, []), '{cutting}')
                AND NOT EXISTS (SELECT 1 FROM whole w
                    WHERE w.source_id = u.source_id AND w.unit_index = u.unit_index)
            ORDER BY ALL""",
        )
        if not missing:
            return
        progress = Progress("cut", len(missing), "units")
        for first in range(0, len(missing), _CUT_BATCH_UNITS):
            keys = missing[first : first + _CUT_BATCH_UNITS]
            rows = [row for unit in measured_units(connection, keys) for row in _cut(job, unit)]
            job.commit({"clips": rows})
            progress.advance(count=len(keys))
        progress.close()


def known_sources(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """The rows of `sources` by `source_id`."""
    columns = ", ".join(field.name for field in dataclasses.fields(SourceRow))
    rows = rows_of(connection, f"SELECT {columns} FROM sources")
    return {row["source_id"]: row for row in rows}


def with_known_identity(
    files: Iterable[InputFile], known: Iterable[Mapping[str, Any]]
) -> list[InputFile]:
    """Files, where one that cannot be looked at for now is taken for the one that the tables know.

    A failed request is no new version of a file: nothing is to be measured again for it.
    """
    files = list(files)
    unseen = {file.uri for file in files if file.error is not None and file.error.retryable}
    seen_before = {
        row["uri"]: (row["bytes"], row["etag"])
        for row in known
        if row["uri"] in unseen and row["source_id"] == _identity(row)
    }
    return [
        dataclasses.replace(file, bytes=size, etag=etag, error=None)
        if file.uri in unseen and (size, etag) != (-1, "")
        else file
        for file in files
        for size, etag in [seen_before.get(file.uri, (-1, ""))]
    ]


def _identity(row: Mapping[str, Any]) -> str:
    """The `source_id` of a file as a row describes it; a file that was never seen has another."""
    spans = tuple(Span(span["start_s"], span["end_s"]) for span in row["spans"] or [])
    return InputFile(row["uri"], row["bytes"], row["etag"] or "", spans).source_id


def _carried(
    job: Job, file: InputFile
) -> tuple[dict[str, str], str | None, Literal["train", "held_out"]]:
    carried = dict(file.carried)
    licence = carried.get("licence", carried.get("license"))
    split = job.configuration.split
    # By the file's name alone: a file that is uploaded again stays on its side.
    digest = hashlib.sha256(f"{split.seed}:{file.uri}".encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") / 2**64 < split.held_out_share
    return carried, licence, "held_out" if held_out else "train"


def _source_row(
    job: Job, file: InputFile, found: SourceFormat | None, error: ErrorRecord | None
) -> SourceRow:
    carried, licence, split = _carried(job, file)
    fields = dict.fromkeys(FORMAT_FIELDS) if found is None else dataclasses.asdict(found)
    return SourceRow(
        source_id=file.source_id,
        uri=file.uri,
        bytes=max(file.bytes, 0),
        etag=file.etag,
        sha256=None,
        spans=list(file.spans),
        split=split,
        licence=licence,
        carried=carried,
        status="ok" if error is None else "failed",
        error=error,
        fingerprint=job.resolved.selection.probe or "",
        **fields,
    )


def _fail_undecodable_sources(job: Job) -> None:
    """A source that probed well but none of whose units decodes is a failed source.

    Its error is the first unit's; if any unit may still decode, the first such unit's, so that the
    next run tries the source again.
    """
    columns = ", ".join(f"s.{field.name}" for field in dataclasses.fields(SourceRow))
    with job.connect() as connection:
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
    job.commit({"sources": failed})


def _cut(job: Job, measured: MeasuredUnit) -> list[dict[str, Any]]:
    shots = [
        Shot(row["shot_index"], row["start_s"], row["end_s"])
        for row in sorted(measured.side_rows["shots"], key=lambda row: row["shot_index"])
    ]
    loudness = measured.signals.get("loudness")
    clips = cut_unit(
        measured.unit["source_id"],
        measured.unit,
        shots,
        job.configuration.clip,
        job.resolved.segmentation,
        audio=signals_from_row(loudness) if loudness and loudness["status"] == "ok" else None,
    )
    return [
        summarise_clip(
            clip,
            job.resolved.summed_stages,
            job.resolved.fingerprints,
            measured.signals,
            measured.side_rows,
        )
        for clip in clips
    ]
