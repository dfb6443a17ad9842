"""The data set as it stood when a run began: which samples, in which split, with which words."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import StorageError, UsageError
from manifests.fingerprint import fingerprint
from manifests.store.storage import open_storage
from training.data.sample_table import ORDER_KEY, SCHEMA, SampleTable
from training.data.samples import kept_samples_sql

_ROWS_AT_ONCE = 1 << 16
_IDENTIFYING = ("sample_id", "sha256", "split", "caption")
"""What two snapshots of the same data set agree in."""
_OUT, _TRAIN, _IDENTITY_KEY = b"out", b"train", b"identity"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Kept samples of one OUT, those of each split sorted by id.

    Attributes:
        out: where the shards lie: a folder or `s3://` prefix.
        train: samples to train on.
        held_out: samples of held-out sources, never trained on.
        identity: 16 hex digits: equal for equal samples, words and splits, wherever the shards lie.
        file: where it is mapped from, if it is; other processes are sent its name alone.
    """

    out: str
    train: SampleTable
    held_out: SampleTable
    identity: str
    file: Path | None = None

    def fingerprint(self) -> str:
        """The identity."""
        return self.identity

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is not None:
            return _open_sent, (self.file,)
        return Snapshot, (self.out, self.train, self.held_out, self.identity)


def take_snapshot(
    connection: duckdb.DuckDBPyConnection,
    out: str,
    *,
    to_train: bool = True,
    file: Path | None = None,
) -> Snapshot:
    """What the current policy keeps, with its words as they are now.

    Args:
        connection: to the tables of `out`.
        out: where the shards lie: a folder or `s3://` prefix.
        to_train: whether there must be samples to train on.
        file: is written, and mapped; without it the samples are held in memory.

    Raises:
        UsageError: `empty_selection`: no kept sample may be trained on.
        OSError: the file cannot be written.
    """
    absolute = out if "://" in out else str(Path(out).expanduser().absolute())
    if file is None:
        sink = pa.BufferOutputStream()
        _write(connection, absolute, sink)
        snapshot = _read(pa.BufferReader(sink.getvalue()))
    else:
        partial = file.with_name(file.name + ".partial")
        with pa.OSFile(str(partial), "wb") as written:
            _write(connection, absolute, written)
        partial.replace(file)
        snapshot = open_snapshot(file)
    if to_train and not len(snapshot.train):
        held_out = len(snapshot.held_out)
        raise UsageError(
            "empty_selection",
            "The current policy keeps no packed sample to train on"
            + (f" ({held_out} are held out)." if held_out else "."),
            subject=out,
            remedy=f"See what rejects them with `twinreel inspect {out}`, or change the gates with"
            " `twinreel select`, then run `twinreel curate` again to pack what is newly kept.",
        )
    return snapshot


def open_snapshot(file: Path) -> Snapshot:
    """A snapshot that `take_snapshot` wrote, mapped: it takes no memory but what is read of it.

    Raises:
        OSError: it cannot be read.
    """
    return dataclasses.replace(_read(pa.memory_map(str(file))), file=file)


def _open_sent(file: Path) -> Snapshot:
    """What another process has written, on this machine or one that shares the folder."""
    try:
        return open_snapshot(file)
    except FileNotFoundError as error:
        raise StorageError(
            "run_not_shared",
            "This rank's machine does not see the file that the first rank wrote.",
            subject=str(file),
            remedy="Put the run into a folder that all machines share.",
        ) from error


def check_shards(snapshot: Snapshot) -> None:
    """See that every shard is there, before the first step.

    Raises:
        StorageError: `shard_missing` or `shard_truncated`.
    """
    storage = open_storage(snapshot.out, create=False)
    needed: dict[str, int] = {}
    for samples in (snapshot.train, snapshot.held_out):
        ends = pc.add(samples.table["offset_bytes"], samples.table["bytes"])
        shards = pa.table({"shard": samples.table["shard"], "end": ends})
        for row in shards.group_by("shard").aggregate([("end", "max")]).to_pylist():
            needed[row["shard"]] = max(needed.get(row["shard"], 0), row["end_max"])
    # Listed and not asked for one by one: a store answers a thousand at a time.
    folders = sorted({shard.rpartition("/")[0] for shard in needed})
    sizes = {entry.path: entry.size for folder in folders for entry in storage.list(folder)}
    for shard, size in sorted(needed.items()):
        found = sizes.get(shard)
        if found is None or found < size:
            raise StorageError(
                "shard_missing" if found is None else "shard_truncated",
                "The manifests name this shard, and it is not there."
                if found is None
                else f"It ends after {found} bytes, and its samples reach to {size}.",
                subject=storage.url(shard),
                remedy="Restore it from a copy, or run the same `twinreel curate` again to pack it"
                " anew.",
            )


def _write(connection: duckdb.DuckDBPyConnection, out: str, sink: pa.NativeFile) -> None:
    """Samples to train on come first; a part at a time is in memory, however many there are."""
    identity, train = _Identity(), 0
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in _batches(connection):
            identity.add(batch)
            train += pc.sum(pc.equal(batch["split"], "train")).as_py() or 0
            writer.write_batch(batch)
        # What is known only now goes with a last batch without rows.
        known = {_OUT: out, _TRAIN: str(train), _IDENTITY_KEY: identity.digest()}
        empty = pa.RecordBatch.from_pylist([], schema=SCHEMA)
        writer.write_batch(empty, custom_metadata=known)


def _read(source: pa.NativeFile) -> Snapshot:
    reader = pa.ipc.open_file(source)
    _, known = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
    table, train = reader.read_all(), int(known[_TRAIN])
    return Snapshot(
        known[_OUT].decode(),
        SampleTable(table.slice(0, train)),
        SampleTable(table.slice(train)),
        known[_IDENTITY_KEY].decode(),
    )


def _batches(connection: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    hashed = f"('0x' || left(sha256(sample_id), 16))::UBIGINT AS {ORDER_KEY}"
    reader = connection.sql(
        f"SELECT *, {hashed} FROM ({kept_samples_sql()}) ORDER BY split <> 'train', sample_id"
    ).to_arrow_reader(_ROWS_AT_ONCE)
    for batch in reader:
        yield pa.RecordBatch.from_arrays(
            [batch[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA
        )


class _Identity:
    """Hashes rows as they come; it does not matter in how many parts."""

    def __init__(self) -> None:
        self._rows = 0
        self._lengths = {name: hashlib.sha256() for name in _IDENTIFYING}
        self._texts = {name: hashlib.sha256() for name in _IDENTIFYING}

    def add(self, batch: pa.RecordBatch) -> None:
        """The next rows."""
        self._rows += batch.num_rows
        for name in _IDENTIFYING:
            # Lengths tell where texts end; a text that is not there has the length -1.
            column = batch[name]
            lengths = np.from_dlpack(pc.fill_null(pc.binary_length(column), -1))
            self._lengths[name].update(lengths.astype("<i4").tobytes())
            texts = pc.fill_null(column, "")
            offsets = np.frombuffer(texts.buffers()[1], np.int32)
            first, last = offsets[texts.offset], offsets[texts.offset + len(texts)]
            content = texts.buffers()[2]
            if content is not None:
                self._texts[name].update(memoryview(content)[first:last])

    def digest(self) -> str:
        """16 hex digits."""
        columns = [
            [self._lengths[name].hexdigest(), self._texts[name].hexdigest()]
            for name in _IDENTIFYING
        ]
        return fingerprint([self._rows, columns])
