"""Shards: fragments of tar files, one a sample, one after another."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from manifests.fingerprint import fingerprint

TAR_BLOCK_BYTES = 512
_TAR_RECORD_BYTES = 10240
_END_OF_ARCHIVE = bytes(2 * TAR_BLOCK_BYTES)


def plan_shards(
    sample_ids: Sequence[str], bytes_per_sample: int, shard_bytes: int
) -> list[list[str]]:
    """Which samples share a shard: a function of the set of ids alone, whoever packed them when.

    Ids are hashes, so that sorting them also spreads a source's clips over the shards. All shards
    but the last are full: if some of them are already there, planning the rest gives the same ones.

    Args:
        sample_ids: in any order.
        bytes_per_sample: what a sample is expected to take.
        shard_bytes: what a shard should not exceed by much.

    Returns:
        The ids of each shard, sorted.
    """
    if bytes_per_sample < 1 or shard_bytes < 1:
        raise ValueError("sizes must be positive")
    ordered = sorted(set(sample_ids))
    most = max(1, shard_bytes // bytes_per_sample)
    return [ordered[first : first + most] for first in range(0, len(ordered), most)]


def shard_name(sample_ids: Sequence[str]) -> str:
    """`shard-<16 hex>.tar`, from the set of the members' ids."""
    return f"shard-{fingerprint(sorted(sample_ids))}.tar"


def assemble_shard(fragments: Iterable[bytes | Path], destination: Path) -> list[int]:
    """Write fragments one after another as a tar file, which appears under its name when whole.

    Args:
        fragments: as `write_sample` makes them: bytes, or the files that hold them.
        destination: the file to write; overwritten.

    Returns:
        The offset in bytes of each fragment.

    Raises:
        ValueError: a fragment is not made of whole tar blocks.
    """
    offsets = []
    unfinished = destination.with_name(f"{destination.name}.part")
    try:
        with unfinished.open("wb") as shard:
            for fragment in fragments:
                offsets.append(shard.tell())
                if isinstance(fragment, bytes):
                    shard.write(fragment)
                else:
                    with fragment.open("rb") as file:
                        shutil.copyfileobj(file, shard, 1 << 20)
                if shard.tell() % TAR_BLOCK_BYTES:
                    raise ValueError("a fragment must be made of whole tar blocks")
            shard.write(_END_OF_ARCHIVE)
            shard.write(bytes(-shard.tell() % _TAR_RECORD_BYTES))
        unfinished.replace(destination)
    finally:
        unfinished.unlink(missing_ok=True)
    return offsets
