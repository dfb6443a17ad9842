"""Tables of URIs: text, CSV or Parquet, here or in a bucket. A row costs at most itself."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import functools
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from curation.inputs.file import InputFile, failed_file, local_file, missing_file, unaddressable
from manifests.errors import MediaError, StorageError, TwinreelError, UsageError
from manifests.store.address import ObjectAddress, is_address, key_problem, local_uri, parse_address
from manifests.store.records import Span
from manifests.store.storage import Storage, open_storage

_SPAN_COLUMNS = ("start_s", "end_s")
_REQUESTS_AT_ONCE = 32
_ROWS_AT_ONCE = 4096


def read_table(where: Path | ObjectAddress) -> Iterator[InputFile]:
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
        file, spans = failed_file(_as_text(f"{file.uri}#t={start},{end}"), error), ()
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
            rows.append(failed_file(f"{_table_uri(where)}#row={number}", told))
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
        return failed_file(_as_text(error.subject or text), error)
    if isinstance(address, Path):
        return local_file(address)
    uri = _as_text(str(address))
    if key_problem(address.key) is not None:
        return unaddressable(uri, address.key)
    try:
        entry = buckets.open(address.root).head(address.key)
    except StorageError as error:
        missing = error.code == "storage_missing"
        return failed_file(uri, missing_file(uri) if missing else error, retryable=True)
    return InputFile(uri, entry.size, entry.etag or "")


def _row_address(text: str, table: Path | ObjectAddress) -> Path | ObjectAddress:
    if isinstance(table, Path):
        address = parse_address(text)
        return address if isinstance(address, ObjectAddress) else table.parent / address
    if is_address(text) and isinstance(address := parse_address(text), ObjectAddress):
        return address
    folder, slash, _ = table.key.rpartition("/")
    if is_address(text) or text.startswith("/"):
        # Whoever can write to a bucket must not choose local files of the machines that read it,
        # nor replace the rows of such files: hence this subject.
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
