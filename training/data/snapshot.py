"""The data set as it stood when a run began: which samples, in which split, with which words."""

from __future__ import annotations

import dataclasses
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
_OUT, _TRAIN, _IDENTITY = b"out", b"train", b"identity"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Kept samples of one OUT.

    Those held in memory are sorted by id; a mapped file has them as the tables gave them.

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
        snapshot = dataclasses.replace(
            snapshot, train=snapshot.train.by_id(), held_out=snapshot.held_out.by_id()
        )
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
    rows = train = first = second = 0
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch, first_sum, second_sum in _batches(connection):
            rows, first, second = rows + len(batch), first + first_sum, second + second_sum
            train += pc.sum(pc.equal(batch["split"], "train")).as_py() or 0
            writer.write_batch(batch)
        # Sums, so that it does not matter in which order rows come: sorting takes far longer.
        identity = fingerprint([rows, first % 2**64, second % 2**64])
        # What is known only now goes with a last batch without rows.
        known = {_OUT: out, _TRAIN: str(train), _IDENTITY: identity}
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
        known[_IDENTITY].decode(),
    )


def _batches(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[pa.RecordBatch, int, int]]:
    """Rows to train on, then the others, in any order; with each part its two sums of hashes."""
    # The caption comes last, since what is before it holds no separator.
    identity = (
        "sha256(concat_ws(chr(31), sample_id, sha256, split,"
        " CASE WHEN caption IS NULL THEN '-' ELSE '+' || caption END))"
    )
    hashes = [f"('0x' || {identity}[{first}:{first + 15}])::UBIGINT" for first in (1, 17)]
    order = f"('0x' || left(sha256(sample_id), 16))::UBIGINT AS {ORDER_KEY}"
    for condition in ("split = 'train'", "split IS DISTINCT FROM 'train'"):
        reader = connection.sql(
            f"SELECT *, {order}, {hashes[0]} AS first_hash, {hashes[1]} AS second_hash"
            f" FROM ({kept_samples_sql()}) WHERE {condition}"
        ).to_arrow_reader(_ROWS_AT_ONCE)
        for batch in reader:
            columns = [batch[field.name].cast(field.type) for field in SCHEMA]
            sums = [
                int(np.from_dlpack(batch[name]).sum(dtype=np.uint64))
                for name in ("first_hash", "second_hash")
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA), sums[0], sums[1]
