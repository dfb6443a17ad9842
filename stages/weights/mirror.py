"""A mirror: a bucket or folder of weights, laid out as a weights folder is, with all hashes.

A folder that is a mirror can be named in TWINREEL_WEIGHTS as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Literal

from manifests.errors import StorageError, UsageError
from manifests.store.address import parse_address
from manifests.store.storage import Storage, open_storage
from stages.weights.catalogue import WeightSet
from stages.weights.download import OnBytes, PartFile
from stages.weights.find import fullest_folder
from stages.weights.lock import LOCK_NAME, Lock, LockedFile, dump_lock, parse_lock, read_lock
from stages.weights.verify import verify_file

_CHUNK_BYTES = 8 << 20


class Mirror:
    """Weights in a folder or bucket, to fetch from. Nothing is touched until something is asked.

    Args:
        url: a folder, `s3://`, `gs://` or `az://`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def is_local(self) -> bool:
        """Whether it is read without a network.

        Raises:
            UsageError: `unknown_storage`.
        """
        return isinstance(parse_address(self.url), Path)

    def find(self, path: str) -> LockedFile | None:
        """What the mirror has under a path; its hash is empty if the mirror does not know it.

        Raises:
            UsageError: `no_mirror`, if there is nothing at the address at all; `unknown_storage`.
            StorageError: `bad_weights_lock`, and those of `manifests.store.storage`.
        """
        known = self._lock.get(path)
        try:
            size_bytes = self._storage.head(path).size
        except StorageError as error:
            if error.code == "storage_missing":
                return None
            raise
        source = known.source if known else self.address(path)
        return LockedFile(known.sha256 if known else "", size_bytes, source)

    def address(self, path: str) -> str:
        """Where a file lies, for people."""
        return self._storage.url(path)

    def download(self, path: str, part: Path, *, resume: bool, on_bytes: OnBytes) -> None:
        """Copy a file into a partial file; see `stages.weights.download.download`.

        Raises:
            StorageError: also `weights_no_space` or `weights_unwritable`.
        """
        total = self._storage.head(path).size
        start = part.stat().st_size if resume and part.is_file() else 0
        if start > total:
            start = 0
        with PartFile(part, start=start, total=total) as file:
            on_bytes(start, total)
            while file.written < total:
                length = min(_CHUNK_BYTES, total - file.written)
                file.write(self._storage.read_range(path, file.written, length))
                on_bytes(file.written, total)

    @functools.cached_property
    def _storage(self) -> Storage:
        return open_storage(self.url, create=False)

    @functools.cached_property
    def _lock(self) -> Lock:
        lock = _read_lock(self._storage)
        if not lock and next(self._storage.list(), None) is None:
            raise UsageError(
                "no_mirror",
                "There is nothing there to fetch from.",
                subject=self.url,
                remedy="Check the address, or fill it with `twinreel weights mirror`.",
            )
        return lock


@dataclasses.dataclass(frozen=True)
class MirroredFile:
    """One file of a mirror, and whether it was already there."""

    path: str
    url: str
    state: Literal["there", "copied"]
    size_bytes: int
    sha256: str


def copy_to_mirror(target: str, weights: WeightSet) -> list[MirroredFile]:
    """Copy a set's files, all of which must be on this machine, to a mirror.

    What is there with equal bytes is left alone. The list of hashes is written after each file, so
    that an interrupted copy goes on where it was.

    Args:
        target: the mirror's address.
        weights: the set.

    Raises:
        UsageError: `unknown_storage`.
        StorageError: `weights_hash_mismatch` for bytes that are not what was published, and those
            of `manifests.store.storage`.
    """
    storage = open_storage(target)
    lock = _read_lock(storage)
    folder, _ = fullest_folder(weights)
    here = read_lock(folder)
    mirrored = []
    for file in weights.files:
        path = weights.path(file)
        checked = verify_file(weights, file, folder, here.get(path))
        if checked.verdict in ("bad", "missing"):
            raise StorageError(
                "weights_hash_mismatch",
                f"It is not what was published ({checked.detail or 'it is not there'}).",
                subject=str(checked.path),
                remedy=f"Fetch it again with `twinreel weights fetch {weights.name}`.",
            )
        locked = LockedFile(checked.sha256, checked.size_bytes, file.source)
        is_there = _has(storage, path, locked, lock.get(path))
        if not is_there:
            storage.put_file(path, checked.path)
        if lock.get(path) != locked:
            lock[path] = locked
            storage.write(LOCK_NAME, dump_lock(lock))
        mirrored.append(
            MirroredFile(
                path,
                storage.url(path),
                "there" if is_there else "copied",
                locked.size_bytes,
                locked.sha256,
            )
        )
    return mirrored


def _has(storage: Storage, path: str, wanted: LockedFile, known: LockedFile | None) -> bool:
    """Whether an object has the wanted bytes: by the mirror's list, or else by reading it."""
    try:
        size_bytes = storage.head(path).size
    except StorageError as error:
        if error.code == "storage_missing":
            return False
        raise
    if size_bytes != wanted.size_bytes:
        return False
    if known is not None:
        return known.sha256 == wanted.sha256
    with storage.reader(path, buffer_bytes=_CHUNK_BYTES) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256


def _read_lock(storage: Storage) -> Lock:
    try:
        return parse_lock(storage.read(LOCK_NAME), storage.url(LOCK_NAME))
    except StorageError as error:
        if error.code == "storage_missing":
            return {}
        raise
