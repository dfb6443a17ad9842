"""Finding the raw files: folders, globs, buckets and tables of URIs, in a stable order."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from manifests.errors import StorageError, UsageError
from manifests.fingerprint import fingerprint
from manifests.records import Span
from manifests.storage import open_storage

_TABLE_SUFFIXES = (".txt", ".csv", ".parquet")
_SPAN_COLUMNS = ("start_s", "end_s")
_GLOB_CHARACTERS = frozenset("*?[")


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One raw file as the listing found it; `bytes` is -1 where a table names a file that is gone.

    `spans` are the stretches to use (empty: all of it); `carried` the table's other columns.
    """

    uri: str
    bytes: int
    etag: str
    spans: tuple[Span, ...] = ()
    carried: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
            carried over.
        skip_suffixes: files of a folder or prefix that are not media.

    Raises:
        UsageError: `input_missing`, `input_empty`, `input_table_unreadable`.
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
    scheme = urlsplit(text).scheme
    path = Path(urlsplit(text).path if scheme == "file" else text).expanduser()
    is_table = text.lower().endswith(_TABLE_SUFFIXES)
    if scheme not in ("", "file"):
        if is_table:
            yield from _read_table(text)
        else:
            yield from _list_bucket(text)
    elif path.is_dir():
        yield from (_Candidate(_local_file(file)) for file in _walk(path))
    elif path.exists():
        if is_table:
            yield from _read_table(str(path))
        else:
            yield _local_file(path)
    elif _GLOB_CHARACTERS & set(text):
        for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - absolute globs
            if Path(match).is_file():
                yield _Candidate(_local_file(Path(match)))
    else:
        raise UsageError(
            "input_missing",
            "There is no such file or folder.",
            subject=text,
            remedy="Check the path.",
        )


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(
            "input_unreadable",
            f"The folder cannot be listed ({error.strerror}).",
            subject=error.filename,
            remedy="Give the job read access.",
        ) from error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _local_file(path: Path) -> InputFile:
    absolute = path.absolute()
    if ".." in absolute.parts:
        # One file must have one uri, by whatever way it was named.
        absolute = absolute.parent.resolve() / absolute.name
    try:
        status = absolute.stat()
    except OSError:
        # A dangling link: it gets its row, and the probe says what is wrong.
        return InputFile(str(absolute), -1, "")
    return InputFile(str(absolute), status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _list_bucket(url: str) -> Iterator[_Candidate | InputFile]:
    parts = urlsplit(url)
    root = f"{parts.scheme}://{parts.netloc}"
    prefix = parts.path.strip("/")
    storage = open_storage(root)
    try:
        for entry in storage.list(prefix):
            name = entry.path.rsplit("/", 1)[-1]
            if entry.size == 0 and not storage.exists(entry.path):
                continue  # the marker of a folder: the listing drops the slash that it ends with
            if not name.startswith("."):
                file = InputFile(f"{root}/{entry.path}", entry.size, entry.etag or "")
                yield file if entry.path == prefix else _Candidate(file)
    except StorageError as error:
        raise UsageError(error.code, error.message, subject=url, remedy=error.remedy) from error


def _read_table(where: str) -> Iterator[InputFile]:
    rows = _table_rows(where)
    base = where.rsplit("/", 1)[0] if "/" in where else "."
    for row in rows:
        if not row["uri"]:
            continue
        file = _named_file(str(row["uri"]), base)
        carried = {
            name: str(value)
            for name, value in row.items()
            if name not in ("uri", *_SPAN_COLUMNS) and value is not None
        }
        yield dataclasses.replace(file, spans=_span_of(row, where), carried=carried)


def _table_rows(where: str) -> list[dict[str, Any]]:
    try:
        folder, _, name = where.rpartition("/")
        data = open_storage(folder or ".").read(name)
        if where.lower().endswith(".txt"):
            lines = (line.strip() for line in data.decode().splitlines())
            return [{"uri": line} for line in lines if line and not line.startswith("#")]
        read = _read_csv if where.lower().endswith(".csv") else pyarrow.parquet.read_table
        table: pa.Table = read(pa.BufferReader(data))
    except (StorageError, UnicodeDecodeError, pa.ArrowException, OSError) as error:
        raise UsageError(
            "input_table_unreadable",
            f"The table of inputs cannot be read ({str(error).splitlines()[0]}).",
            subject=where,
            remedy="It should be text, CSV or Parquet with a column 'uri'.",
        ) from error
    if "uri" not in table.column_names:
        raise UsageError(
            "input_table_unreadable",
            f"It has no column 'uri' (it has {', '.join(table.column_names)}).",
            subject=where,
            remedy="Name the column that holds paths or URIs 'uri'.",
        )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _read_csv(data: pa.BufferReader) -> pa.Table:
    """Every cell as the text that it is (an id may begin with zeros); empty cells are null."""
    names = pyarrow.csv.open_csv(data).schema.names
    data.seek(0)
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    return pyarrow.csv.read_csv(data, convert_options=options)


def _named_file(uri: str, base: str) -> InputFile:
    if "://" in base and not urlsplit(uri).scheme and not uri.startswith("/"):
        uri = f"{base}/{uri}"
    if urlsplit(uri).scheme not in ("", "file"):
        folder, _, name = uri.rpartition("/")
        try:
            entry = open_storage(folder).head(name)
        except StorageError:
            return InputFile(uri, -1, "")
        return InputFile(uri, entry.size, entry.etag or "")
    path = Path(urlsplit(uri).path if uri.startswith("file:") else uri)
    return _local_file(path if path.is_absolute() else Path(base) / path)


def _span_of(row: Mapping[str, Any], where: str) -> tuple[Span, ...]:
    start, end = (row.get(name) for name in _SPAN_COLUMNS)
    if start is None and end is None:
        return ()
    try:
        span = Span(float(start or 0.0), float(end if end is not None else "inf"))
    except (TypeError, ValueError) as error:
        raise UsageError(
            "input_table_unreadable", "start_s and end_s must be numbers.", subject=where
        ) from error
    if not 0 <= span.start_s < span.end_s:
        raise UsageError(
            "input_table_unreadable",
            f"A span must not be empty (start_s {span.start_s:g}, end_s {span.end_s:g}).",
            subject=f"{where}: {row['uri']}",
        )
    return (span,)


def _joined(first: InputFile | None, second: InputFile) -> InputFile:
    """One file named twice: its spans come together, overlapping ones melt."""
    if first is None:
        return second
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
