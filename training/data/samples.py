"""Reading kept samples out of shards by their manifest rows: the bytes, checked, then decoded."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from typing import Any

import duckdb
import numpy as np
import soundfile

from manifests.errors import StorageError
from manifests.store.storage import Storage, open_storage
from stages.media.open import open_container


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


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify_samples` found."""

    samples: int
    shards: int
    frames: int
    audio_s: float
    bad: list[str]


def kept_samples(connection: duckdb.DuckDBPyConnection) -> list[KeptSample]:
    """Samples of kept clips, in the order in which they lie in the shards.

    Membership and words come from the manifests: a clip that a stricter policy rejects is not here,
    though its bytes are still in the tar.
    """
    columns = (
        "sample.sample_id, clip_id, sample.shard, sample.offset_bytes, sample.bytes, sample.sha256,"
        " sample.frames, sample.fps, sample.width, sample.height, sample.audio_rate_hz,"
        " sample.audio_samples, split, caption.text AS caption"
    )
    rows = connection.sql(
        f"SELECT {columns} FROM dataset WHERE state = 'keep' AND sample.status = 'ok'"
        " ORDER BY sample.shard, sample.offset_bytes"
    ).to_arrow_table()
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


def verify_samples(out: str, connection: duckdb.DuckDBPyConnection) -> Verification:
    """Read every kept sample back and count its frames and sound.

    Args:
        out: OUT of the curation job.
        connection: its view.
    """
    storage = open_storage(out)
    samples = kept_samples(connection)
    frames, audio_s, bad = 0, 0.0, []
    for sample in samples:
        try:
            members = read_members(storage, sample)
        except StorageError as error:
            bad.append(str(error))
            continue
        found = _count_frames(members, sample.shard)
        frames += found
        if found != (sample.frames or 0):
            bad.append(f"{sample.shard}: {sample.sample_id} has {found} frames")
        for audio in (members.get("flac"), members.get("wav")):
            if audio is not None:
                info = soundfile.info(io.BytesIO(audio))
                audio_s += info.frames / info.samplerate
                if info.frames != sample.audio_samples:
                    bad.append(
                        f"{sample.shard}: {sample.sample_id} has {info.frames} audio samples"
                    )
    return Verification(
        len(samples), len({sample.shard for sample in samples}), frames, audio_s, bad
    )


def _count_frames(members: dict[str, Any], subject: str) -> int:
    if "video.npy" in members:
        return int(np.load(io.BytesIO(members["video.npy"]), mmap_mode=None).shape[0])
    if "mp4" not in members:
        return 0
    with open_container(io.BytesIO(members["mp4"]), subject) as container:
        return sum(1 for _ in container.decode(video=0))
