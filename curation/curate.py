"""A curation job from its inputs to its report: the phases in their order."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from curation.config import JobConfiguration, load_configuration
from curation.engine.engine import Engine
from curation.inputs import list_inputs
from curation.job import (
    Job,
    JobFile,
    begin_results,
    earlier_results,
    finish_results,
    open_store,
    read_job_file,
    selection_of_job_file,
    write_decided,
)
from curation.phases.balance import annotate
from curation.phases.caption import caption, decides
from curation.phases.clip_stages import run_clip_stages
from curation.phases.closing_notes import (
    bucket_notes,
    gate_notes,
    left_for_the_next_run,
    pending_notes,
)
from curation.phases.cut import cut_clips
from curation.phases.decide import select
from curation.phases.decode import decode_units
from curation.phases.missing import missing_parts
from curation.phases.pack import pack
from curation.phases.plan import work_done_anew
from curation.phases.probe import probe_sources
from curation.phases.report import write_job_report
from curation.resolve import (
    Resolved,
    decided_otherwise,
    resolve,
)
from manifests.errors import UsageError
from manifests.explore.anew import DoneAnew
from manifests.explore.funnel import Funnel, funnel
from manifests.policy.gates import validate
from manifests.store.address import is_address
from manifests.store.lease import Lease
from manifests.store.output import Output
from manifests.store.selection_file import SavedSelection, read_selection
from manifests.store.storage import open_storage
from manifests.store.view import LiveViews

logger = logging.getLogger(__name__)

PHASES = ("measure", "annotate", "select", "caption", "pack")
_DONE_BY = {"captions": "caption", "samples": "pack", "gates": "select"}
"""The phase that does it, by what is done anew; all else is measured."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a job did, and how things stand on its OUT."""

    decoded_units: int
    decoded_clips: int
    rows_written: int
    skipped_files: int
    notes: list[str]
    funnel: Funnel

    @property
    def did_nothing(self) -> bool:
        """Whether everything was already there."""
        return self.decoded_units == self.decoded_clips == self.rows_written == 0


def run_curation(
    inputs: Sequence[str],
    out: str,
    configuration: JobConfiguration,
    *,
    phases: Sequence[str] = (),
    limit: int | None = None,
    address: str | None = None,
) -> Summary:
    """Run the phases of a curation job; what OUT already holds is not done again.

    Args:
        inputs: folders, files, globs, prefixes or tables, see `curation.inputs`.
        out: folder or object-store prefix of the results.
        configuration: what to do.
        phases: only these (all if empty).
        limit: only the first so many files, by uri.
        address: a Ray cluster's address.

    Raises:
        UsageError: inputs, configuration or gates are wrong; `not_measured`: the phases need what
            would have to be measured anew first. Nothing was done.
        StorageError: OUT cannot be written (`storage_unwritable`) or another job has it
            (`out_busy`).
    """
    chosen = _checked_phases(phases)
    listing = list_inputs(
        inputs,
        configuration.inputs.skip_suffixes,
        captions=configuration.caption.backend == "carried",
    )
    files = listing.files[:limit] if limit is not None else listing.files
    with _job(out, configuration, address, resolve(configuration)) as job:
        job.notes += _say_what_is_missing(configuration, job.resolved)
        _say_what_is_done_anew(job, earlier_results(out), chosen)
        given = [_absolute(text) for text in inputs]
        begin_results(job, given)
        if "measure" in chosen:
            probe_sources(job, files)
            decode_units(job)
            cut_clips(job)
            run_clip_stages(job)
        if "annotate" in chosen:
            annotate(job)
        if "select" in chosen:
            select(job)
        if "caption" in chosen:
            caption(job)
            if "select" in chosen and _captions_decide(job):
                select(job)
        if "pack" in chosen:
            pack(job)
        finish_results(job, given)
        return _close(job, listing.skipped, render_previews=True)


def run_select(out: str, configuration: JobConfiguration) -> Summary:
    """Decide again with the configuration's gates; measures nothing, decodes nothing.

    What is decided are the results as they are: of the stages, settings and weights that made them.

    Args:
        out: folder or object-store prefix of the results.
        configuration: the last job's with other gates, as `other_gates` gives it.

    Raises:
        UsageError: a gate is wrong, or no job has run on OUT; `not_a_gate`: something else than
            gates is another than it was.
        StorageError: OUT cannot be written, or another job has it.
    """
    while True:
        found = _to_decide(out, configuration)
        with _job(out, configuration, None, found.resolved, found.decided.schemas) as job:
            if not _to_decide(out, configuration).same_as(found):
                continue  # another job has come to its end before this one had OUT
            annotate(job)
            select(job)
            write_decided(job, found.before, found.decided)
            return _close(job, 0, render_previews=False)


@dataclasses.dataclass(frozen=True)
class _ToDecide:
    """What `select` finds on OUT: `decided` are its results by the new gates."""

    before: JobFile
    decided: SavedSelection
    resolved: Resolved

    def same_as(self, other: _ToDecide) -> bool:
        """Whether OUT held the same for both."""
        return (self.before, self.decided) == (other.before, other.decided)


def _to_decide(out: str, configuration: JobConfiguration) -> _ToDecide:
    saved = read_selection(open_storage(out, create=False))
    before = read_job_file(out, saved)
    _check_only_gates(before.configuration, configuration)
    decided = decided_otherwise(saved or selection_of_job_file(out), configuration)
    # The stages of this version only tell what a next `curate` measures; none is asked to here.
    resolved = resolve(configuration, before.remembered)
    return _ToDecide(
        before,
        decided,
        dataclasses.replace(resolved, selection=decided.selection),
    )


def other_gates(
    out: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
) -> JobConfiguration:
    """The configuration of the last job on OUT with other gates, for `run_select`.

    Args:
        out: folder or object-store prefix of the results.
        preset: whose gates to start from; the job's own if not given.
        file: YAML over them, same keys as the configuration.
        assignments: `gates.name=SQL` over both.

    Raises:
        UsageError: as `read_job_file` and `load_configuration`.
    """
    before = read_job_file(out, read_selection(open_storage(out, create=False)))
    base = before.configuration.model_dump(mode="json")
    if preset is not None:
        base["gates"] = load_configuration(preset, None, []).model_dump(mode="json")["gates"]
    return load_configuration(
        None, file, assignments, base=base, removed_gates=before.removed_gates
    )


def _check_only_gates(before: JobConfiguration, now: JobConfiguration) -> None:
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    changed = sorted(
        name for name in new if name not in ("gates", "preset") and new[name] != old[name]
    )
    if changed:
        raise UsageError(
            "not_a_gate",
            "`select` only changes gates.",
            subject=", ".join(changed),
            remedy="Give other settings to `twinreel curate`.",
        )


@contextlib.contextmanager
def _job(
    out: str,
    configuration: JobConfiguration,
    address: str | None,
    resolved: Resolved,
    schemas: Mapping[str, pa.Schema] | None = None,
) -> Iterator[Job]:
    storage, store = open_store(out, schemas)
    storage.check_writable()
    engine = Engine(configuration.engine, configuration.decode, address)
    with contextlib.closing(LiveViews(store, resolved.selection)) as views:
        # A gate that is wrong must leave nothing behind, not even a lease.
        validate(configuration.expressions(), views.connection)
        with Lease(storage) as lease, engine:
            output = Output(out, storage, store, lease, resolved.selection, views)
            with contextlib.closing(output):
                yield Job(configuration, resolved, output, engine)


def _captions_decide(job: Job) -> bool:
    with job.output.connect() as connection:
        return decides(connection, job.configuration.gate_list())


def _say_what_is_missing(configuration: JobConfiguration, resolved: Resolved) -> Iterator[str]:
    """Before the first hour of work, and again as a note at its end: what will not be measured."""
    unavailable = resolved.unavailable
    if not unavailable:
        return
    logger.warning("%s", missing_parts(configuration, unavailable).message)
    yield (
        f"Not measured, since weights or settings are missing: {', '.join(sorted(unavailable))}."
        " `twinreel plan curate` says how to get them."
    )


def _say_what_is_done_anew(job: Job, earlier: SavedSelection | None, phases: Sequence[str]) -> None:
    """Before the first hour of work: what OUT has already and this job does once more, and why."""
    with job.output.connect() as connection:
        parts = work_done_anew(connection, job.configuration, job.resolved, earlier)
    phase_of = {part.what: _DONE_BY.get(part.what, "measure") for part in parts}
    if "measure" not in phases:
        _check_measured([part for part in parts if phase_of[part.what] == "measure"], phases)
    lines = [f"  {part}" for part in parts if phase_of[part.what] in phases]
    if lines:
        logger.warning("%s", "\n".join(["These results are there and are made anew:", *lines]))


def _check_measured(lacking: Sequence[DoneAnew], phases: Sequence[str]) -> None:
    """Without its measurements a job would show readers rows whose structs are null."""
    if lacking:
        raise UsageError(
            "not_measured",
            "With this version and these settings, measurements that are there are made anew, and"
            f" these phases do not measure ({'; '.join(map(str, lacking))}).",
            subject=" ".join(f"--phase {phase}" for phase in phases),
            remedy="Run it without --phase. To decide what is there by other gates, run"
            " `twinreel select`.",
        )


def _close(job: Job, skipped: int, *, render_previews: bool) -> Summary:
    with job.output.connect() as connection:
        state = funnel(connection)
    write_job_report(job, state, render_previews=render_previews)
    with job.output.connect() as connection:
        notes = [
            *job.notes,
            *job.engine.notes,
            *gate_notes(job.configuration.gates, job.resolved),
            *bucket_notes(connection),
            *pending_notes(connection, job.resolved),
            *left_for_the_next_run(connection, job.resolved),
        ]
    rows_written = job.output.rows_written
    return Summary(job.decoded_units, job.decoded_clips, rows_written, skipped, notes, state)


def _checked_phases(phases: Sequence[str]) -> Sequence[str]:
    for phase in phases:
        if phase not in PHASES:
            raise UsageError(
                "unknown_phase",
                f"There is no phase '{phase}'.",
                subject="--phase",
                remedy=f"Phases are {', '.join(PHASES)}.",
            )
    return phases or PHASES


def _absolute(text: str) -> str:
    return text if is_address(text) else os.path.abspath(text)  # noqa: PTH100 - may be a glob
