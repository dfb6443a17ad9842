"""The report's clips: which are shown, and their small copies."""

from __future__ import annotations

import random
from typing import Any

from curation.engine.engine import Engine
from curation.engine.tasks import Task
from curation.job import Job
from curation.phases.measured import source_format
from manifests.explore.funnel import Funnel
from manifests.explore.report import Player, write_report
from manifests.store.storage import Storage
from stages.media.preview import PreviewTask, render_preview

_SHOWN_PER_STATE = 6
_PREVIEW_FOLDER = "report"


def write_job_report(job: Job, state: Funnel, *, render_previews: bool) -> None:
    """Write `OUT/report.html`; small copies of its clips are made once and kept in `OUT/report/`.

    Args:
        job: the job.
        state: how things stand.
        render_previews: decode clips whose copy is missing; otherwise show only what is there.
    """
    with job.output.connect() as connection:
        rows = _shown(connection)
        if render_previews:
            _render_missing(rows, job.output.storage, job.engine)
        players = [
            Player(
                clip_id=row["clip_id"],
                title=f"{row['uri'].rsplit('/', 1)[-1]} {row['start_s']:.2f}–{row['end_s']:.2f} s",
                state=row["state"],
                reasons=list(row["rejected_by"] or row["pending_on"] or []),
                caption=(row["caption"] or {}).get("text"),
                mp4=job.output.storage.read(_path(row)),
            )
            for row in rows
            if job.output.storage.exists(_path(row))
        ]
        gates = job.configuration.gate_list()
        write_report(job.output.store, connection, gates, players=players, state=state)


def _shown(connection: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - DuckDB's connection
    """A fixed choice of clips per state, spread over gates and sources."""
    rows = (
        connection.sql(
            "SELECT * FROM dataset WHERE modality = 'video' AND state IS NOT NULL ORDER BY clip_id"
        )
        .to_arrow_table()
        .to_pylist()
    )
    shown = []
    for state in ("keep", "pending", "reject"):
        candidates = [row for row in rows if row["state"] == state and row["window"] != "remainder"]
        random.Random(0).shuffle(candidates)
        seen: dict[str, int] = {}
        for row in candidates:
            row["turn"] = sum(seen.get(key, 0) for key in (row["uri"], str(row["rejected_by"])))
            for key in (row["uri"], str(row["rejected_by"])):
                seen[key] = seen.get(key, 0) + 1
        shown += sorted(candidates, key=lambda row: row["turn"])[:_SHOWN_PER_STATE]
    return shown


def _render_missing(rows: list[dict[str, Any]], storage: Storage, engine: Engine) -> None:
    missing = {_path(row): row for row in rows if not storage.exists(_path(row))}
    tasks = {
        path: Task(
            render_preview,
            PreviewTask(row["uri"], source_format(row), row["start_s"], row["end_s"]),
            row["uri"],
        )
        for path, row in missing.items()
    }
    paths = {id(task): path for path, task in tasks.items()}
    for outcome in engine.run(tasks.values()):
        if outcome.error is None:
            storage.write(paths[id(outcome.task)], outcome.result)


def _path(row: dict[str, Any]) -> str:
    return f"{_PREVIEW_FOLDER}/{row['clip_id']}.mp4"
