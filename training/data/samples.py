"""Kept samples: their manifest rows, and their bytes out of the shards, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile

import duckdb

from manifests.errors import StorageError
from manifests.store.storage import Storage


@dataclasses.dataclass(frozen=True)
class KeptSample:
    """A sample whose clip the current policy keeps: its row in `samples`, and its words now."""

    sample_id: str
    clip_id: str
    shard: str
    offset_bytes: int
    bytes: int
    sha256: str
    frames: int
    fps: float
    width: int
    height: int
    audio_rate_hz: int | None
    audio_samples: int | None
    split: str
    caption: str | None


def kept_samples_sql() -> str:
    """The query for samples of kept clips, its columns those of `KeptSample`.

    Membership and words come from the manifests: a clip that a stricter policy rejects is not here,
    though its bytes are still in the tar.
    """
    columns = (
        "sample.sample_id, clip_id, sample.shard, sample.offset_bytes, sample.bytes, sample.sha256,"
        " sample.frames, sample.fps, sample.width, sample.height, sample.audio_rate_hz,"
        " sample.audio_samples, split, caption.text AS caption"
    )
    return f"SELECT {columns} FROM dataset WHERE state = 'keep' AND sample.status = 'ok'"


def kept_samples(connection: duckdb.DuckDBPyConnection) -> list[KeptSample]:
    """Samples of kept clips, in the order in which they lie in the shards."""
    sql = f"FROM ({kept_samples_sql()}) ORDER BY shard, offset_bytes"
    rows = connection.sql(sql).to_arrow_table()
    return [KeptSample(**row) for row in rows.to_pylist()]


def read_members(storage: Storage, sample: KeptSample) -> dict[str, bytes]:
    """A sample's files by extension (`mp4`, `flac`, `json`, ...), its checksum compared.

    Raises:
        StorageError: `shard_missing`, or `sample_corrupt` when the bytes are not those packed.
    """
    data = storage.read_range(sample.shard, sample.offset_bytes, sample.bytes)
    if hashlib.sha256(data).hexdigest() != sample.sha256:
        raise StorageError(
            "sample_corrupt",
            f"Sample {sample.sample_id} does not hold the bytes that were packed.",
            subject=sample.shard,
            remedy="Restore the shard from a copy, or delete it and pack again.",
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {}
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                members[member.name.partition(".")[2]] = content.read()
    return members
