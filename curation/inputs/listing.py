"""Finding the raw files: folders, globs, buckets and tables of URIs, in a stable order."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from curation.inputs.file import InputFile, failed_file, local_file, unaddressable
from curation.inputs.sidecar import with_captions
from curation.inputs.table import read_table
from manifests.errors import MediaError, StorageError, UsageError
from manifests.store.address import ObjectAddress, local_uri, parse_address
from manifests.store.records import Span
from manifests.store.storage import Storage, open_storage

_TABLE_SUFFIXES = (".txt", ".csv", ".parquet")
_GLOB_CHARACTERS = frozenset("*?[")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files found, by uri, and how many were passed over as sidecars."""

    files: list[InputFile]
    skipped: int


def list_inputs(
    inputs: Sequence[str], skip_suffixes: Sequence[str], *, captions: bool = False
) -> Listing:
    """All files of the inputs, sorted by uri, each once.

    Args:
        inputs: folders, files, globs, object-store prefixes, or tables (`.txt`, `.csv`, `.parquet`)
            of URIs with the column `uri`, optionally `start_s` and `end_s`; other columns are
            carried over. What is wrong with one row or sub-folder is the `error` of its file.
        skip_suffixes: files of a folder or prefix that are not media.
        captions: whether those of them are read that lie beside a file and may hold its caption.

    Raises:
        UsageError: `input_missing`, `input_empty`, `input_unreadable`, `input_table_unreadable`.
    """
    found: dict[str, InputFile] = {}
    sidecars: list[InputFile] = []
    for text in inputs:
        suffixes = tuple(suffix.lower() for suffix in skip_suffixes)
        count = 0
        for file in _files_of(text):
            count += 1
            if isinstance(file, _Candidate) and file.file.uri.lower().endswith(suffixes):
                sidecars.append(file.file)
                continue
            entry = file.file if isinstance(file, _Candidate) else file
            found[entry.uri] = _joined(found.get(entry.uri), entry)
        if count == 0:
            raise UsageError(
                "input_empty", "There are no files in it.", subject=text, remedy="Check the path."
            )
    if not found:
        raise UsageError(
            "input_empty",
            f"None of its {len(sidecars)} files could be media, by their suffixes.",
            subject=", ".join(inputs),
            remedy="Set inputs.skip_suffixes=[] to look at them all the same.",
        )
    if captions:
        found = {file.uri: file for file in with_captions(found.values(), sidecars)}
    return Listing([found[uri] for uri in sorted(found)], len(sidecars))


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A file, and whether its suffix may rule it out: not where somebody named it outright."""

    file: InputFile


def _files_of(text: str) -> Iterator[_Candidate | InputFile]:
    address = parse_address(text)
    is_table = text.lower().endswith(_TABLE_SUFFIXES)
    if isinstance(address, ObjectAddress):
        yield from read_table(address) if is_table else _list_bucket(address)
        return
    path = address.expanduser()
    # To `os.path` a path that is too long or has a null byte simply does not exist.
    if os.path.isdir(path):  # noqa: PTH112
        yield from _walk(path)
    elif os.path.exists(path):  # noqa: PTH110
        if is_table:
            yield from read_table(path)
        else:
            yield local_file(path)
    elif _GLOB_CHARACTERS & set(str(path)):
        for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - absolute globs
            if os.path.isfile(match):  # noqa: PTH113
                yield _Candidate(local_file(Path(match)))
    else:
        raise UsageError(
            "input_missing",
            "There is no such file or folder.",
            subject=text,
            remedy="Check the path.",
        )


def _walk(folder: Path) -> Iterator[_Candidate | InputFile]:
    unreadable: list[InputFile] = []

    def refuse(error: OSError) -> None:
        if error.filename != os.fspath(folder):
            unreadable.append(_unreadable_folder(Path(error.filename), error))
            return
        raise UsageError(
            "input_unreadable",
            f"The folder cannot be listed ({error.strerror}).",
            subject=error.filename,
            remedy="Give the job read access.",
        ) from error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield _Candidate(local_file(Path(parent) / name))
    yield from unreadable


def _unreadable_folder(folder: Path, error: OSError) -> InputFile:
    told = MediaError(
        "unreadable_folder",
        f"The folder cannot be listed ({error.strerror}), and none of its files is known.",
        # Not retryable: every run lists all folders anew, whatever this row says.
        remedy="Give the job read access; the next run looks again.",
    )
    return failed_file(local_uri(folder.absolute()), told)


def _list_bucket(address: ObjectAddress) -> Iterator[_Candidate | InputFile]:
    prefix = address.folder
    refused: list[str] = []
    try:
        # At the bucket's root, since a prefix may also be the whole name of an object.
        storage = open_storage(address.root)
        for entry in storage.list(prefix, on_unsupported=refused.append):
            name = entry.path.rsplit("/", 1)[-1]
            if entry.size == 0 and _is_folder_marker(storage, entry.path):
                continue
            if not name.startswith("."):
                file = InputFile(f"{address.root}/{entry.path}", entry.size, entry.etag or "")
                yield file if entry.path == prefix else _Candidate(file)
    except StorageError as error:
        raise UsageError(
            error.code, error.message, subject=str(address), remedy=error.remedy
        ) from error
    for path in refused:
        uri = f"{address.root}/{path}"
        if not path or path.endswith("/"):
            yield _unlistable_folder(uri)
        elif not path.rsplit("/", 1)[-1].startswith("."):
            yield _Candidate(unaddressable(uri, path))


def _is_folder_marker(storage: Storage, path: str) -> bool:
    """Whether an empty object only marks a folder: the listing drops the slash it ends with."""
    try:
        return not storage.exists(path)
    except StorageError:
        return False  # an empty file then, which costs a row


def _unlistable_folder(uri: str) -> InputFile:
    error = MediaError(
        "unsupported_key",
        "An object in this folder has '//', '.' or '..' in its key or begins with '/', so that none"
        " of the objects directly in it can be listed.",
        remedy="Rename that object, install boto3, or name the folder's objects in a table.",
    )
    return failed_file(uri, error)


def _joined(first: InputFile | None, second: InputFile) -> InputFile:
    """One file named twice: its spans come together, overlapping ones are merged."""
    if first is None:
        return second
    if second.error is not None and first.error is None:
        first, second = second, first
    if not first.spans or not second.spans:
        spans: tuple[Span, ...] = ()
    else:
        spans = tuple(_melted([*first.spans, *second.spans]))
    return dataclasses.replace(second, spans=spans, carried={**first.carried, **second.carried})


def _melted(spans: Iterable[Span]) -> Iterator[Span]:
    current: Span | None = None
    for span in sorted(spans, key=lambda span: (span.start_s, span.end_s)):
        if current is None or span.start_s > current.end_s:
            if current is not None:
                yield current
            current = span
        else:
            current = Span(current.start_s, max(current.end_s, span.end_s))
    if current is not None:
        yield current
