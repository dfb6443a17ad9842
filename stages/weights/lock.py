"""What came for files whose publishers give no whole hash, so that later copies can be compared.

A weights folder writes it down in `weights.lock.json`; a mirror does so for all its files.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pydantic

from manifests.errors import StorageError
from stages.weights.catalogue import WeightFile

LOCK_NAME = "weights.lock.json"


@dataclasses.dataclass(frozen=True)
class LockedFile:
    """The bytes of one file, and where they came from."""

    sha256: str
    size_bytes: int
    source: str


Lock = dict[str, LockedFile]
"""By path in the weights folder or mirror."""
_LOCK = pydantic.TypeAdapter(Lock)


def parse_lock(data: bytes, where: str) -> Lock:
    """The lock in a file's bytes.

    Args:
        data: JSON.
        where: the file's address, for the message.

    Raises:
        StorageError: `bad_weights_lock`.
    """
    try:
        return _LOCK.validate_json(data)
    except pydantic.ValidationError as error:
        raise StorageError(
            "bad_weights_lock",
            f"It is not a list of weights and their hashes ({error.error_count()} faults).",
            subject=where,
            remedy="Delete it, fetch or mirror again, and it is written anew.",
        ) from error


def dump_lock(lock: Lock) -> bytes:
    """The lock as JSON for people, sorted by path."""
    return _LOCK.dump_json(dict(sorted(lock.items())), indent=2) + b"\n"


def read_lock(folder: Path) -> Lock:
    """The lock of a weights folder; empty if there is none.

    Raises:
        StorageError: `bad_weights_lock`.
    """
    file = folder / LOCK_NAME
    return parse_lock(file.read_bytes(), str(file)) if file.is_file() else {}


def add_to_lock(folder: Path, path: str, locked: LockedFile) -> None:
    """Write down one file of a weights folder. Not safe against others doing so."""
    file = folder / LOCK_NAME
    fresh = file.with_suffix(".json.part")
    fresh.write_bytes(dump_lock({**read_lock(folder), path: locked}))
    os.replace(fresh, file)  # noqa: PTH105 - Path.replace says less


def difference(
    file: WeightFile, locked: LockedFile | None, *, size_bytes: int, sha256: str
) -> str | None:
    """How bytes differ from those that were published or came before; None if they do not.

    Args:
        file: what the catalogue knows.
        locked: what came before, if anything has.
        size_bytes: of the bytes in question.
        sha256: theirs.
    """
    if file.is_pinned and size_bytes != file.size_bytes:
        return f"it has {size_bytes:,} bytes, not {file.size_bytes:,}"
    if not sha256.startswith(file.sha256):
        return f"its SHA-256 begins {sha256[:12]}, not {file.sha256[:12]}"
    if file.is_pinned or locked is None:
        return None
    if sha256 != locked.sha256:
        return f"its SHA-256 begins {sha256[:12]}, not {locked.sha256[:12]} as it did before"
    return None


def is_attested(file: WeightFile, locked: LockedFile | None) -> bool:
    """Whether there is anything that bytes can be compared with."""
    return bool(file.sha256) or locked is not None
