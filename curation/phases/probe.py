"""The step `probe`: every file that was listed gets its row in `sources`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import duckdb

from curation.config import SplitSettings
from curation.engine.progress import Progress
from curation.engine.tasks import Task
from curation.inputs import InputFile
from curation.job import Job, error_record
from curation.phases.measured import FORMAT_FIELDS, rows_of
from manifests.store.output import Batch
from manifests.store.records import ErrorRecord, SourceRow, Span
from stages.media.blocks import SourceFormat
from stages.media.probe import probe


@dataclasses.dataclass(frozen=True)
class _Described:
    """What is said of a file beside it, and the side of the split that its name puts it on."""

    carried: dict[str, str]
    licence: str | None
    split: Literal["train", "held_out"]


def probe_sources(job: Job, files: Iterable[InputFile]) -> None:
    """Give every file its row: probe what is new, and what could not be read for now."""
    split, fingerprint = job.configuration.split, job.resolved.selection.probe or ""
    with job.output.connect() as connection:
        known = known_sources(connection)
    files = with_known_identity(files, known.values())
    batch = Batch(job.output)
    tasks = []
    by_uri = {file.uri: file for file in files}
    for file in files:
        row = known.get(file.source_id)
        described = _described(file, split)
        changed = row is None or described != _Described(
            dict(row["carried"]), row["licence"], row["split"]
        )
        if file.error is not None and (row is None or row["error"] is not None):
            error = error_record(file.error)
            if changed or row is None or row["error"] != dataclasses.asdict(error):
                batch.add({"sources": [_source_row(file, described, None, error, fingerprint)]})
            continue
        if row is None or (row["error"] is not None and row["error"]["retryable"]):
            tasks.append(Task(probe, file.uri, file.uri))
            continue
        if changed:
            # Words and rights beside a file may change without the file: no need to open it.
            batch.add({"sources": [row | dataclasses.asdict(described)]})
    with Progress("probe", len(tasks), "files") as progress:
        for outcome in job.engine.run(tasks):
            file = by_uri[outcome.task.subject]
            earlier = (known.get(file.source_id) or {}).get("error")
            failure = error_record(outcome.error, earlier) if outcome.error is not None else None
            probed = _source_row(
                file, _described(file, split), outcome.result, failure, fingerprint
            )
            batch.add({"sources": [probed]})
            progress.advance(failed=outcome.error is not None)
        batch.flush()


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


def _described(file: InputFile, split: SplitSettings) -> _Described:
    carried = dict(file.carried)
    licence = carried.get("licence", carried.get("license"))
    # By the file's name alone: a file that is uploaded again stays on its side.
    digest = hashlib.sha256(f"{split.seed}:{file.uri}".encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") / 2**64 < split.held_out_share
    return _Described(carried, licence, "held_out" if held_out else "train")


def _source_row(
    file: InputFile,
    described: _Described,
    found: SourceFormat | None,
    error: ErrorRecord | None,
    fingerprint: str,
) -> SourceRow:
    fields = dict.fromkeys(FORMAT_FIELDS) if found is None else dataclasses.asdict(found)
    return SourceRow(
        source_id=file.source_id,
        uri=file.uri,
        bytes=max(file.bytes, 0),
        etag=file.etag,
        sha256=None,
        spans=list(file.spans),
        split=described.split,
        licence=described.licence,
        carried=described.carried,
        status="ok" if error is None else "failed",
        error=error,
        fingerprint=fingerprint,
        **fields,
    )
