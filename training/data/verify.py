"""Every kept sample read back: its bytes, its frames and its audio are what its row says."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import duckdb
import numpy as np
import soundfile

from manifests.errors import StorageError
from manifests.store.storage import open_storage
from stages.media.open import open_container
from training.data.samples import kept_samples, read_members


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify_samples` found."""

    samples: int
    shards: int
    frames: int
    audio_s: float
    bad: list[str]


def verify_samples(out: str, connection: duckdb.DuckDBPyConnection) -> Verification:
    """Read every kept sample back and count its frames and audio samples.

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
