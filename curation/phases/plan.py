"""What a job would do, before it is paid for: reads the listing and the tables, writes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import duckdb

from curation.config import JobConfiguration
from curation.inputs import list_inputs
from curation.job import earlier_results, open_store, read_job_file
from curation.phases.decode import unit_tasks
from curation.phases.pack import plan_samples
from curation.phases.probe import known_sources, with_known_identity
from curation.resolve import Resolved, resolve, selection_to_save
from manifests.errors import UsageError
from manifests.explore.anew import DoneAnew, done_anew
from manifests.store.lease import Lease
from manifests.store.output import Output
from manifests.store.selection_file import SavedSelection


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job would do: how much there is, and how much of it is already done."""

    files: int
    skipped_files: int
    new_files: int
    sources: int
    known_seconds: float
    units_to_decode: int
    seconds_to_decode: float
    stages: dict[str, str]
    clips_kept: int
    samples_to_pack: int
    done_anew: list[DoneAnew] = dataclasses.field(default_factory=list)


def plan_curation(inputs: Sequence[str], out: str | None, configuration: JobConfiguration) -> Plan:
    """What `curation.curate.run_curation` would find to do.

    Raises:
        UsageError: as `curation.curate.run_curation`.
    """
    listing = list_inputs(inputs, configuration.inputs.skip_suffixes)
    resolved = resolve(configuration)
    stages = {**resolved.signal_stages, **resolved.clip_stages}
    backends = {name: stage.backend.name for name, stage in stages.items()}
    backends |= dict.fromkeys(resolved.unavailable, "missing")
    if out is None or not _has_job(out):
        return Plan(
            len(listing.files), listing.skipped, len(listing.files), 0, 0.0, 0, 0.0, backends, 0, 0
        )
    storage, store = open_store(out)
    output = Output(out, storage, store, Lease(storage), resolved.selection)
    with contextlib.closing(output), output.connect() as connection:
        known = known_sources(connection)
        seconds = connection.execute(
            "SELECT coalesce(sum(duration_s), 0) FROM sources WHERE status = 'ok'"
        ).fetchall()[0]
        kept = connection.execute("SELECT count(*) FROM dataset WHERE state = 'keep'").fetchall()[0]
        tasks = unit_tasks(connection, resolved, configuration.decode)
        samples = plan_samples(output, resolved.profile, configuration)
        anew = work_done_anew(connection, configuration, resolved, earlier_results(out))
    files = with_known_identity(listing.files, known.values())
    new = [file for file in files if file.source_id not in known]
    return Plan(
        files=len(listing.files),
        skipped_files=listing.skipped,
        new_files=len(new),
        sources=len(known),
        known_seconds=float(seconds[0]),
        units_to_decode=len(tasks),
        seconds_to_decode=sum(task.end_s - task.start_s for task in tasks),
        stages=backends,
        clips_kept=int(kept[0]),
        samples_to_pack=len(samples),
        done_anew=anew,
    )


def work_done_anew(
    connection: duckdb.DuckDBPyConnection,
    configuration: JobConfiguration,
    resolved: Resolved,
    earlier: SavedSelection | None,
) -> list[DoneAnew]:
    """What OUT has already and a job does once more, and why.

    Args:
        connection: OUT's views under the selection of that job.
        configuration: what the job is told.
        resolved: what it comes to.
        earlier: what the job resolved to whose results are there, if any.
    """
    if earlier is None:
        return []
    now = selection_to_save(configuration, resolved, {}, finished=False)
    return done_anew(connection, earlier, now)


def _has_job(out: str) -> bool:
    try:
        read_job_file(out)
    except UsageError as error:
        return error.code != "not_an_output"
    return True
