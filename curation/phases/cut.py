"""The step `cut`: decode units become clips, and signals are summed up into their structs."""

from __future__ import annotations

from typing import Any

import duckdb

from curation.engine.progress import Progress
from curation.job import Job
from curation.phases.measured import MeasuredUnit, measured_units, rows_of
from curation.resolve import Resolved
from stages.run.segment import ClipSettings, Shot, cut_unit, summarise_clip
from stages.run.unit import signals_from_row

_UNITS_AT_ONCE = 256


def cut_clips(job: Job) -> None:
    """Cut clips and sum up signals wherever clips of this segmentation lack a struct.

    A struct that says that its signals failed for now is lacking once they are there; where those
    failed that say where to cut, nothing is cut yet.
    """
    clip, resolved = job.configuration.clip, job.resolved
    cutting = "loudness" if clip.cut == "silences" else "shots"
    with job.output.connect() as connection:
        waiting = rows_of(
            connection,
            f"SELECT error FROM signals WHERE stage = '{cutting}' AND error.retryable ORDER BY ALL",
        )
        if waiting:
            job.notes.append(
                f"{len(waiting)} units are not cut into clips yet, because {cutting} failed for now"
                f" ({waiting[0]['error']['message']}). Run the same command again."
            )
        uncut = _uncut_units(connection, cutting, list(resolved.summed_stages))
        if not uncut:
            return
        with Progress("cut", len(uncut), "units") as progress:
            for first in range(0, len(uncut), _UNITS_AT_ONCE):
                keys = uncut[first : first + _UNITS_AT_ONCE]
                units = measured_units(connection, keys)
                job.output.commit(
                    {"clips": [row for unit in units for row in _cut(unit, clip, resolved)]}
                )
                progress.advance(count=len(keys))


def _uncut_units(
    connection: duckdb.DuckDBPyConnection, cutting: str, stages: list[str]
) -> list[dict[str, Any]]:
    """Keys of units that have no clip, or a clip that lacks the struct of a stage."""
    lacking = " OR ".join(
        f"""c.{name} IS NULL OR (c.{name}.error.retryable
            AND NOT list_contains(coalesce(f.stages, []), '{name}'))"""
        for name in stages
    )
    return rows_of(
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


def _cut(measured: MeasuredUnit, clip: ClipSettings, resolved: Resolved) -> list[dict[str, Any]]:
    shots = [
        Shot(row["shot_index"], row["start_s"], row["end_s"])
        for row in sorted(measured.side_rows["shots"], key=lambda row: row["shot_index"])
    ]
    loudness = measured.signals.get("loudness")
    clips = cut_unit(
        measured.unit["source_id"],
        measured.unit,
        shots,
        clip,
        resolved.segmentation,
        audio=signals_from_row(loudness) if loudness and loudness["status"] == "ok" else None,
    )
    return [
        summarise_clip(
            one,
            resolved.summed_stages,
            resolved.fingerprints,
            measured.signals,
            measured.side_rows,
        )
        for one in clips
    ]
