"""Finding the raw files: folders, globs, buckets and tables of URIs, in a stable order."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import errno
import functools
import glob
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from manifests.address import ObjectAddress, is_address, key_problem, local_uri, parse_address
from manifests.errors import MediaError, StorageError, TwinreelError, UsageError
from manifests.fingerprint import fingerprint
from manifests.records import Span
from manifests.storage import Storage, open_storage, unsupported_key

_TABLE_SUFFIXES = (".txt", ".csv", ".parquet")
_SPAN_COLUMNS = ("start_s", "end_s")
_GLOB_CHARACTERS = frozenset("*?[")
_REQUESTS_AT_ONCE = 32
_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One raw file as the listing found it.

    `spans` are the stretches to use (empty: all of it); `carried` the table's other columns.
    `error` says why nothing could be learnt of the file: then `bytes` is -1 and `etag` empty. If it
    is retryable, that tells nothing about the file either: it may be the one that was there before.
    """

    uri: str
    bytes: int
    etag: str
    spans: tuple[Span, ...] = ()
    carried: Mapping[str, str] = dataclasses.field(default_factory=dict)
    error: MediaError | None = dataclasses.field(default=None, compare=False)

    @property
    def source_id(self) -> str:
        """Hash of uri, size, etag and spans: a file that changes becomes another source."""
        spans = [[span.start_s, span.end_s] for span in self.spans]
        return fingerprint([self.uri, self.bytes, self.etag, *([spans] if spans else [])])


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files found, by uri, and how many were passed over as sidecars."""

    files: list[InputFile]
    skipped: int


def list_inputs(inputs: Sequence[str], skip_suffixes: Sequence[str]) -> Listing:
    """All files of the inputs, sorted by uri, each once.

    Args:
        inputs: folders, files, globs, object-store prefixes, or tables (`.txt`, `.csv`, `.parquet`)
            of URIs with the column `uri`, optionally `start_s` and `end_s`; other columns are
            carried over. What is wrong with one row or sub-folder is the `error` of its file.
        skip_suffixes: files of a folder or prefix that are not media.

    Raises:
        UsageError: `input_missing`, `input_empty`, `input_unreadable`, `input_table_unreadable`.
    """
    found: dict[str, InputFile] = {}
    skipped = 0
    for text in inputs:
        suffixes = tuple(suffix.lower() for suffix in skip_suffixes)
        count = 0
        for file in _files_of(text):
            count += 1
            if isinstance(file, _Candidate) and file.file.uri.lower().endswith(suffixes):
                skipped += 1
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
            f"None of its {skipped} files could be media, by their suffixes.",
            subject=", ".join(inputs),
            remedy="Set inputs.skip_suffixes=[] to look at them all the same.",
        )
    return Listing([found[uri] for uri in sorted(found)], skipped)


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A file met in a folder: its suffix may rule it out. A file that was named is not asked."""

    file: InputFile


def _files_of(text: str) -> Iterator[_Candidate | InputFile]:
    address = parse_address(text)
    is_table = text.lower().endswith(_TABLE_SUFFIXES)
    if isinstance(address, ObjectAddress):
        yield from _read_table(address) if is_table else _list_bucket(address)
        return
    path = address.expanduser()
    # Of `os.path`, since a path that is too long or has a null byte is just not there for it.
    if os.path.isdir(path):  # noqa: PTH112
        yield from _walk(path)
    elif os.path.exists(path):  # noqa: PTH110
        if is_table:
            yield from _read_table(path)
        else:
            yield _local_file(path)
    elif _GLOB_CHARACTERS & set(str(path)):
        for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - absolute globs
            if os.path.isfile(match):  # noqa: PTH113
                yield _Candidate(_local_file(Path(match)))
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
                yield _Candidate(_local_file(Path(parent) / name))
    yield from unreadable


def _unreadable_folder(folder: Path, error: OSError) -> InputFile:
    told = MediaError(
        "unreadable_folder",
        f"The folder cannot be listed ({error.strerror}), and none of its files is known.",
        # Not retryable: every run lists all folders anew, whatever this row says.
        remedy="Give the job read access; the next run looks again.",
    )
    return _failed(local_uri(folder.absolute()), told)


def _local_file(path: Path) -> InputFile:
    absolute = path.absolute()
    try:
        if ".." in absolute.parts:
            # One file must have one uri, by whatever way it was named.
            absolute = absolute.parent.resolve() / absolute.name
        status = absolute.stat()
    except (OSError, ValueError) as error:
        uri = local_uri(absolute)
        return InputFile(uri, -1, "", error=_local_error(uri, error))
    uri = local_uri(absolute)
    return InputFile(uri, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _local_error(uri: str, error: OSError | ValueError) -> MediaError:
    """Why a file cannot be looked at. It may be there again the next time, unless its name is bad.

    A null byte in a name is a ValueError.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _missing(uri)
    never = isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.EILSEQ)
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return MediaError(
        "unreadable_file",
        f"The file cannot be looked at ({reason}).",
        subject=uri,
        remedy="Check its name." if never else "Give the job read access, then run it again.",
        retryable=not never,
    )


def _missing(uri: str) -> MediaError:
    return MediaError(
        "missing_file",
        "The file is not there.",
        subject=uri,
        remedy="Put it there or name another; the next run looks again.",
        retryable=True,
    )


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
            yield _Candidate(_unaddressable(uri, path))


def _is_folder_marker(storage: Storage, path: str) -> bool:
    """Whether an empty object only marks a folder: the listing drops the slash it ends with."""
    try:
        return not storage.exists(path)
    except StorageError:
        return False  # an empty file then, which costs a row


def _unaddressable(uri: str, key: str) -> InputFile:
    problem = key_problem(key)
    return _failed(uri, unsupported_key(uri, problem or "the store's client refuses it"))


def _unlistable_folder(uri: str) -> InputFile:
    error = MediaError(
        "unsupported_key",
        "An object in this folder has '//', '.' or '..' in its key or begins with '/', so that none"
        " of the objects directly in it can be listed.",
        remedy="Rename that object, install boto3, or name the folder's objects in a table.",
    )
    return _failed(uri, error)


def _failed(uri: str, error: TwinreelError, *, retryable: bool = False) -> InputFile:
    """A file of which the listing knows only that it cannot be had."""
    told = MediaError(
        error.code, error.message, subject=uri, remedy=error.remedy, retryable=retryable
    )
    return InputFile(uri, -1, "", error=told)


def _read_table(where: Path | ObjectAddress) -> Iterator[InputFile]:
    """The files that a table names, in its order; a row that cannot be used costs itself."""
    rows = iter([row for row in _table_rows(where) if isinstance(row, InputFile) or row["uri"]])
    name = functools.partial(_row_file, table=where, buckets=_Buckets())
    # An object's size is a request: one after another, a long table would take hours.
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            yield from pool.map(name, some)


_Row = dict[str, Any]


class _Buckets:
    """The buckets that a table names, each opened once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[str, Storage] = {}

    def open(self, root: str) -> Storage:
        """The storage at a bucket's root, for any thread.

        Raises:
            StorageError: it cannot be opened.
        """
        with self._lock:
            if root not in self._opened:
                self._opened[root] = open_storage(root)
            return self._opened[root]


def _row_file(
    row: _Row | InputFile,
    table: Path | ObjectAddress,
    buckets: _Buckets,
) -> InputFile:
    if isinstance(row, InputFile):
        return row
    file = _named_file(str(row["uri"]), table, buckets)
    carried = {
        name: _as_text(str(value))
        for name, value in row.items()
        if name not in ("uri", *_SPAN_COLUMNS) and value is not None
    }
    try:
        spans = _span_of(row)
    except MediaError as error:
        # Under a name of its own (a media fragment): other rows may name other spans of the file.
        start, end = ("" if row.get(name) is None else row[name] for name in _SPAN_COLUMNS)
        file, spans = _failed(_as_text(f"{file.uri}#t={start},{end}"), error), ()
    return dataclasses.replace(file, spans=spans, carried=carried)


def _table_rows(where: Path | ObjectAddress) -> Sequence[_Row | InputFile]:
    suffix = str(where).lower()
    try:
        data = _table_bytes(where)
        if suffix.endswith(".txt"):
            # Not `splitlines`: a name may hold what else Unicode takes for the end of a line.
            lines = (line.strip() for line in _text_of(data).split("\n"))
            return [{"uri": line} for line in lines if line and not line.startswith("#")]
        if suffix.endswith(".csv"):
            names, rows = _read_csv(_text_of(data), where)
        else:
            table = pyarrow.parquet.read_table(pa.BufferReader(data))
            names, rows = table.column_names, table.to_pylist()
    except (StorageError, ValueError, csv.Error, pa.ArrowException, OSError) as error:
        raise UsageError(
            "input_table_unreadable",
            f"The table of inputs cannot be read ({str(error).splitlines()[0]}).",
            subject=str(where),
            remedy="It should be text, CSV or Parquet with a column 'uri'.",
        ) from error
    if "uri" not in names:
        raise UsageError(
            "input_table_unreadable",
            f"It has no column 'uri' (it has {', '.join(names)}).",
            subject=str(where),
            remedy="Name the column that holds paths or URIs 'uri'.",
        )
    return rows


def _text_of(data: bytes) -> str:
    """A table's text; bytes that are no UTF-8 stay what they are, as in names of files."""
    if b"\0" in data:
        raise ValueError("it is no text in UTF-8")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _as_text(text: str) -> str:
    """A text that a table can keep: with escapes in the place of bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _table_bytes(where: Path | ObjectAddress) -> bytes:
    if isinstance(where, Path):
        return where.read_bytes()
    return open_storage(where.root).read(where.key)


def _read_csv(
    text: str, where: Path | ObjectAddress
) -> tuple[list[str], Sequence[_Row | InputFile]]:
    """Names of columns, and rows: every cell as the text that it is (an id may begin with zeros).

    Empty cells are None. Every line is read on its own, so that a quote that is not closed, or a
    comma too many, costs its line and not those after it.
    """
    lines = [
        (number, line) for number, line in enumerate(re.split("\r\n|\r|\n", text), start=1) if line
    ]
    if not lines:
        raise ValueError("it is empty")
    names = [_as_text(name) for name in _cells(lines[0][1])]
    rows: list[_Row | InputFile] = []
    for number, line in lines[1:]:
        try:
            cells = [cell or None for cell in _cells(line)]
            rows.append(dict(zip(names, cells, strict=True)))
        except (csv.Error, ValueError) as error:
            told = MediaError(
                "bad_row",
                f"The line is no row of {len(names)} columns ({error}): '{_as_text(line)[:200]}'.",
                remedy="Put quotes around what has commas in it; a value cannot go over two lines.",
            )
            rows.append(_failed(f"{_table_uri(where)}#row={number}", told))
    return names, rows


def _cells(line: str) -> list[str]:
    return next(csv.reader([line], strict=True))


def _table_uri(where: Path | ObjectAddress) -> str:
    return local_uri(where.absolute()) if isinstance(where, Path) else str(where)


def _named_file(text: str, table: Path | ObjectAddress, buckets: _Buckets) -> InputFile:
    """The file that a row of a table names; what is relative lies beside the table."""
    try:
        address = _row_address(text, table)
    except TwinreelError as error:
        return _failed(_as_text(error.subject or text), error)
    if isinstance(address, Path):
        return _local_file(address)
    uri = _as_text(str(address))
    if key_problem(address.key) is not None:
        return _unaddressable(uri, address.key)
    try:
        entry = buckets.open(address.root).head(address.key)
    except StorageError as error:
        missing = error.code == "storage_missing"
        return _failed(uri, _missing(uri) if missing else error, retryable=True)
    return InputFile(uri, entry.size, entry.etag or "")


def _row_address(text: str, table: Path | ObjectAddress) -> Path | ObjectAddress:
    if isinstance(table, Path):
        address = parse_address(text)
        return address if isinstance(address, ObjectAddress) else table.parent / address
    if is_address(text) and isinstance(address := parse_address(text), ObjectAddress):
        return address
    folder, slash, _ = table.key.rpartition("/")
    if is_address(text) or text.startswith("/"):
        # Who can write to a bucket must not choose files of the machines that read it, nor take the
        # place of their rows: hence the subject.
        raise MediaError(
            "local_file_refused",
            f"A table in a bucket may name objects, and no files of this machine ('{text}').",
            subject=f"{table.root}/{folder}{slash}{text}",
            remedy="Name it in a table that lies on this machine.",
        )
    return dataclasses.replace(table, key=f"{folder}{slash}{text.removeprefix('./')}")


def _span_of(row: Mapping[str, Any]) -> tuple[Span, ...]:
    """The span that a row names, if it names one.

    Raises:
        MediaError: `bad_span`.
    """
    start, end = (row.get(name) for name in _SPAN_COLUMNS)
    if start is None and end is None:
        return ()
    try:
        span = Span(float(start or 0.0), float(end if end is not None else "inf"))
    except (TypeError, ValueError, OverflowError) as error:
        raise MediaError(
            "bad_span",
            _as_text(f"start_s and end_s must be numbers (start_s {start}, end_s {end})."),
            remedy="Give seconds, or leave both empty to use all of the file.",
        ) from error
    if not 0 <= span.start_s < span.end_s:
        raise MediaError(
            "bad_span",
            f"A span must not be empty (start_s {span.start_s:g}, end_s {span.end_s:g}).",
            remedy="Let it begin at 0 or later, and end after that.",
        )
    return (span,)


def _joined(first: InputFile | None, second: InputFile) -> InputFile:
    """One file named twice: its spans come together, overlapping ones melt."""
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
