"""A job on one OUT: what it resolves to, where it writes, and what its phases have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from curation.config import JobConfiguration
from curation.engine.engine import Engine
from curation.resolve import Remembered, Resolved, remember
from manifests.errors import StorageError, TwinreelError, UsageError
from manifests.policy.gate_settings import split_gates
from manifests.settings import validate
from manifests.store.output import Output
from manifests.store.records import ErrorRecord
from manifests.store.storage import Storage, open_storage
from manifests.store.store import Store
from stages.base.contract import Backend
from stages.registry import clips_schema
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


def open_store(out: str) -> tuple[Storage, Store]:
    """OUT's storage and tables."""
    schemas = {"signals": signals_schema(), "clips": clips_schema()}
    return open_storage(out), Store(out, schemas=schemas)


def write_job_file(job: Job, inputs: Sequence[str]) -> None:
    """Keep a job's configuration beside its results, and which backends it came to.

    Nothing is written if nothing has changed.
    """
    storage = job.output.storage
    remembered = remember(job.resolved)
    content = {
        "inputs": list(inputs),
        "configuration": job.configuration.model_dump(mode="json"),
        "removed_gates": _removed_gates(storage, job.configuration),
        "resolved": {
            "backends": {
                name: dataclasses.asdict(backend) for name, backend in remembered.backends.items()
            },
            "caption": remembered.caption,
        },
    }
    text = yaml.safe_dump(content, sort_keys=True).encode()
    if not storage.exists(JOB_FILE) or storage.read(JOB_FILE) != text:
        storage.write(JOB_FILE, text)


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

    `removed_gates` are names of gates that OUT's jobs had once.
    """

    configuration: JobConfiguration
    inputs: list[str]
    remembered: Remembered | None
    removed_gates: list[str] = dataclasses.field(default_factory=list)


def read_job_file(out: str) -> JobFile:
    """The last job on OUT.

    Raises:
        UsageError: `not_an_output`: no job has run there; `job_of_another_version`.
        StorageError: it cannot be read.
    """
    try:
        content = yaml.safe_load(open_storage(out, create=False).read(JOB_FILE))
        return JobFile(
            validate(JobConfiguration, _of_this_version(content["configuration"])),
            content["inputs"],
            _remembered(content["resolved"]) if "resolved" in content else None,
            content.get("removed_gates", []),
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
        raise UsageError(
            "not_an_output",
            "No curation job has written here.",
            subject=out,
            remedy="Give the folder that was --out of `twinreel curate`.",
        ) from error


def _of_this_version(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A job's configuration with its gates under the names that presets now give them."""
    return {**configuration, "gates": split_gates(configuration.get("gates", {}))}


def _remembered(resolved: Mapping[str, Any]) -> Remembered:
    backends = {name: Backend(**backend) for name, backend in resolved["backends"].items()}
    return Remembered(backends, resolved["caption"])
