"""A job on one OUT: what it resolves to, where it writes, and what its phases have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pydantic
import yaml

from curation.config import JobConfiguration
from curation.engine.engine import Engine
from curation.resolve import Remembered, Resolved, remember, resolve, selection_to_save
from manifests.errors import StorageError, TwinreelError, UsageError
from manifests.explore.open import not_an_output
from manifests.policy.gate_settings import split_gates
from manifests.settings import validate
from manifests.store.output import Output
from manifests.store.records import ErrorRecord
from manifests.store.selection_file import SavedSelection, read_selection, write_selection
from manifests.store.storage import Storage, open_storage
from manifests.store.store import Store
from stages.base.backends import Backend
from stages.registry import STAGES, clips_schema, side_table_schemas
from stages.run.unit import signals_schema

JOB_FILE = "job.yaml"
_GIVEN_UP_AFTER_TWO_RUNS = frozenset({"decoder_hung"})
"""Storage may have been slow; a file that hangs its decoder again is itself to blame, and every try
costs `decode.stall_s`."""


@dataclasses.dataclass
class Job:
    """What every phase works with; what is less than a phase takes the parts that it uses."""

    configuration: JobConfiguration
    resolved: Resolved
    output: Output
    engine: Engine
    decoded_units: int = 0
    decoded_clips: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    """What the job's reader should know at its end."""


def error_record(error: TwinreelError, earlier: Mapping[str, Any] | None = None) -> ErrorRecord:
    """An error as the tables keep it.

    Args:
        error: what happened.
        earlier: the record that an earlier run's try at the same left behind, if any.
    """
    remedy = f" {error.remedy}" if error.remedy else ""
    twice = earlier is not None and earlier["code"] == error.code in _GIVEN_UP_AFTER_TWO_RUNS
    return ErrorRecord(error.code, f"{error.message}{remedy}", error.retryable and not twice)


def open_store(out: str, schemas: Mapping[str, pa.Schema] | None = None) -> tuple[Storage, Store]:
    """OUT's storage and tables.

    Args:
        out: folder or object-store prefix.
        schemas: of the tables that hold what stages own; those of this version's stages if not
            given.
    """
    return open_storage(out), Store(out, schemas=stage_schemas() if schemas is None else schemas)


def stage_schemas() -> dict[str, pa.Schema]:
    """Schemas of the tables that hold what this version's stages own."""
    return {"signals": signals_schema(), "clips": clips_schema(), **side_table_schemas()}


def begin_results(job: Job, inputs: Sequence[str]) -> None:
    """Let a first job be looked at while it runs.

    Results that are there stay what readers see until this job has come to its end: a job that is
    stopped half way must not take a finished data set out of anybody's sight, and what it has
    measured by then waits in the tables for the same command. Where no job has come to an end yet
    there is nothing to protect, and the rows of the running one are shown as they come.
    """
    earlier = read_selection(job.output.storage)
    if earlier is None and job.output.storage.exists(JOB_FILE):
        return  # results of a version that saved no selection: they are found by their job file
    if earlier is None or not earlier.finished:
        _write_results(job, inputs, finished=False)


def finish_results(job: Job, inputs: Sequence[str]) -> None:
    """From now on readers see what this job has resolved to.

    To be called when all phases are done that the job was asked for, were they only some: whoever
    measures alone wants to look at that before deciding.
    """
    _write_results(job, inputs, finished=True)


def _write_results(job: Job, inputs: Sequence[str], *, finished: bool) -> None:
    schemas = job.output.store.stage_schemas
    saved = selection_to_save(job.configuration, job.resolved, schemas, finished=finished)
    write_results(job, inputs, saved)


def write_results(job: Job, inputs: Sequence[str], saved: SavedSelection) -> None:
    """Keep a job's configuration, and what it resolved to, beside its results.

    Raises:
        StorageError: they cannot be written, or another job has OUT by now (`lease_lost`).
    """
    content = {
        "inputs": list(inputs),
        "configuration": job.configuration.model_dump(mode="json"),
        "removed_gates": _removed_gates(job.output.storage, job.configuration),
        "resolved": _resolved_content(job.resolved),
    }
    _write_results_as(job, content, saved)


def write_decided(job: Job, before: JobFile, saved: SavedSelection) -> None:
    """Keep other gates beside results; all else stays as the job that measured has written it.

    That may have been another version's, with settings and stages that this one does not know.

    Raises:
        StorageError: as `write_results`.
    """
    configuration = job.configuration.model_dump(mode="json", include={"preset", "gates"})
    content = {
        "resolved": _resolved_content(job.resolved),
        **before.content,
        "configuration": {**before.content["configuration"], **configuration},
        "removed_gates": _removed_gates(job.output.storage, job.configuration),
    }
    _write_results_as(job, content, saved)


def _write_results_as(job: Job, content: Mapping[str, Any], saved: SavedSelection) -> None:
    """The job file is written only if something in it has changed."""
    storage = job.output.storage
    job.output.lease.check()
    text = yaml.safe_dump(dict(content), sort_keys=True).encode()
    if not storage.exists(JOB_FILE) or storage.read(JOB_FILE) != text:
        storage.write(JOB_FILE, text)
    # Last, and in one piece: readers ask it alone.
    write_selection(storage, saved)


def _resolved_content(resolved: Resolved) -> dict[str, Any]:
    """Which backends a job came to, as its file keeps it."""
    remembered = remember(resolved)
    backends = {name: dataclasses.asdict(found) for name, found in remembered.backends.items()}
    return {"backends": backends, "caption": remembered.caption}


def selection_of_job_file(out: str) -> SavedSelection:
    """What the last job on OUT resolved to, if its version saved no selection.

    It is worked out by the stages of this version, which may be other ones.

    Raises:
        UsageError: as `read_job_file`; as `curation.resolve.resolve`.
        StorageError: it cannot be read.
    """
    job = read_job_file(out)
    resolved = resolve(job.configuration, job.remembered)
    return selection_to_save(job.configuration, resolved, stage_schemas(), finished=True)


def earlier_results(out: str) -> SavedSelection | None:
    """What the last job on OUT resolved to; None without one, or if this version cannot tell.

    Raises:
        UsageError: as `manifests.store.selection_file.read_selection`.
        StorageError: it cannot be read.
    """
    saved = read_selection(open_storage(out, create=False))
    if saved is not None:
        return saved
    try:
        return selection_of_job_file(out)
    except UsageError:
        return None


def _removed_gates(storage: Storage, configuration: JobConfiguration) -> list[str]:
    """Gates that jobs on OUT had and this one has not: they may be removed again."""
    try:
        before = yaml.safe_load(storage.read(JOB_FILE))
        names = {*before["configuration"]["gates"], *before.get("removed_gates", ())}
    except (StorageError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []  # no job has run here, or the file says nothing: then it is written anew
    return sorted(names - configuration.gates.keys())


@dataclasses.dataclass(frozen=True)
class JobFile:
    """What a job leaves beside its results; `remembered` is None of earlier versions' jobs.

    `removed_gates` are names of gates that OUT's jobs had once; `content` is the file as it is.
    """

    configuration: JobConfiguration
    inputs: list[str]
    remembered: Remembered | None
    removed_gates: list[str]
    content: Mapping[str, Any]


def read_job_file(out: str, saved: SavedSelection | None = None) -> JobFile:
    """The last job on OUT.

    Args:
        out: folder or object-store prefix.
        saved: what it resolved to, if that is kept. The gates are its then, and stages' settings
            that this version does not know are left out: they have had their effect.

    Raises:
        UsageError: `not_an_output`: no job has run there; `job_of_another_version`.
        StorageError: it cannot be read.
    """
    try:
        content = yaml.safe_load(open_storage(out, create=False).read(JOB_FILE))
        remembered = _remembered(content["resolved"]) if "resolved" in content else None
        if saved is not None:
            remembered = _remembered_by(saved) or remembered
        return JobFile(
            validate(JobConfiguration, _of_this_version(content["configuration"], saved)),
            content["inputs"],
            remembered,
            content.get("removed_gates", []),
            content,
        )
    except UsageError as error:
        raise UsageError(
            "job_of_another_version",
            f"Its settings are not those of this version ({error}).",
            subject=f"{out}/{JOB_FILE}",
            remedy="Use the version of twinreel that wrote it, or run `twinreel curate` on it"
            " again with this one: what is measured stays.",
        ) from error
    except (StorageError, yaml.YAMLError, KeyError, TypeError) as error:
        if isinstance(error, StorageError) and error.code != "storage_missing":
            raise
        raise not_an_output(out) from error


def _of_this_version(
    configuration: Mapping[str, Any], saved: SavedSelection | None
) -> dict[str, Any]:
    """A job's configuration without stages that are no more, its gates under today's names."""
    stages = configuration.get("stages", {})
    gates = configuration.get("gates", {})
    if saved is not None:
        stages = {name: _known_settings(name, settings) for name, settings in stages.items()}
        # The mix's gate comes of the mix.
        gates = {
            name: gate
            for name, gate in saved.gates.items()
            if (name, gate["sql"]) != ("mix", "mix.chosen")
        }
    return {
        **configuration,
        "stages": {name: settings for name, settings in stages.items() if name in STAGES},
        "gates": split_gates(gates),
    }


def _known_settings(stage: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage's settings; if they are another version's, only whether it is enabled."""
    if stage in STAGES:
        try:
            STAGES[stage].Parameters.model_validate(settings)
        except pydantic.ValidationError:
            return {"enabled": settings.get("enabled", True)}
    return settings


def _remembered_by(saved: SavedSelection) -> Remembered | None:
    if saved.selection.caption is None:
        return None
    backends = {
        name: Backend(origin.backend, origin.weights_sha256)
        for name, origin in saved.origins.items()
    }
    return Remembered(backends, saved.selection.caption[1])


def _remembered(resolved: Mapping[str, Any]) -> Remembered:
    backends = {name: Backend(**backend) for name, backend in resolved["backends"].items()}
    return Remembered(backends, resolved["caption"])
