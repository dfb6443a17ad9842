"""Bringing weights to this machine: from a mirror if it has them, else from their sources."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from manifests.errors import StorageError, TwinreelError
from stages.weights.catalogue import WeightFile, WeightSet
from stages.weights.download import OnBytes, address_of, download, unwritable
from stages.weights.find import fullest_folder, hash_file, missing_weights, weights_folders
from stages.weights.lock import LockedFile, add_to_lock, difference, read_lock
from stages.weights.mirror import Mirror
from stages.weights.verify import VerifiedFile, verify_file, verify_set

_BUSY_NAME = ".fetching"
_FAR_OFF = 2.0
"""Factor by which a file's size may differ from what the catalogue says is about right."""


@dataclasses.dataclass(frozen=True)
class FetchedFile:
    """One file, where it lies now, and whether it had to come; `source` is where from."""

    weights: str
    path: Path
    state: Literal["there", "fetched"]
    source: str
    sha256: str
    size_bytes: int


class Watcher(Protocol):
    """Is told what goes on."""

    def begin(self, file_name: str, source: str) -> OnBytes:
        """A file begins to come; what this returns is told of its bytes."""

    def wait(self, folder: Path) -> None:
        """Another process fetches into the folder; this one waits for it."""


class Silence:
    """Tells nobody."""

    def begin(self, file_name: str, source: str) -> OnBytes:
        """Ignore it."""
        return lambda done, total: None

    def wait(self, folder: Path) -> None:
        """Ignore it."""


def fetch_set(
    weights: WeightSet,
    *,
    mirror: Mirror | None = None,
    offline: bool = False,
    watcher: Watcher | None = None,
    needed_by: str | None = None,
) -> list[FetchedFile]:
    """Bring a set's files here, those that are not here already and right.

    They go into the weights folder that has part of the set, else into the first that can be
    written to. A file is whole and checked before it gets its name.

    Args:
        weights: the set.
        mirror: looked in first.
        offline: use no network: a mirror only if it is a folder.
        watcher: is told what comes.
        needed_by: which backends load it, for the message; its name if not given.

    Raises:
        UsageError: `missing_weights`, if something is missing and this is offline.
        StorageError: `weights_hash_mismatch` for other bytes than those that were published;
            `weights_unwritable`; those of `download` and of `Mirror`.
    """
    needed_by = needed_by or weights.name
    mirror = None if mirror is not None and offline and not mirror.is_local else mirror
    verified = verify_set(weights)
    if all(file.verdict in ("ok", "unpinned") for file in verified):
        return [_there(file) for file in verified]
    if offline and mirror is None:
        raise _missing(weights, verified, needed_by)
    folder = _folder_for(weights)
    watcher = watcher or Silence()
    try:
        with _alone_in(folder, watcher):
            return [
                _fetch_file(
                    weights,
                    file,
                    folder,
                    mirror=mirror,
                    offline=offline,
                    watcher=watcher,
                    needed_by=needed_by,
                )
                for file in weights.files
            ]
    except OSError as error:
        raise unwritable(folder, error) from error


def _fetch_file(
    weights: WeightSet,
    file: WeightFile,
    folder: Path,
    *,
    mirror: Mirror | None,
    offline: bool,
    watcher: Watcher,
    needed_by: str,
) -> FetchedFile:
    path = weights.path(file)
    locked = read_lock(folder).get(path)
    verified = verify_file(weights, file, folder, locked)
    if verified.verdict in ("ok", "unpinned"):
        return _there(verified)
    mirrored = mirror.find(path) if mirror is not None else None
    if mirrored is None and offline:
        raise _missing(weights, [verified], needed_by)
    target = folder / path
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(exist_ok=True)
    # Two versions that were joined would go unnoticed without any hash to check them against.
    resume = bool(file.sha256 or locked or (mirrored and mirrored.sha256))
    if mirror is not None and mirrored is not None:
        source = mirror.address(path)
        mirror.download(path, part, resume=resume, on_bytes=watcher.begin(file.name, source))
    else:
        source = address_of(file)
        download(file, part, resume=resume, on_bytes=watcher.begin(file.name, source))
    came = _check(file, part, source, locked=locked, mirrored=mirrored)
    os.replace(part, target)  # noqa: PTH105 - the rename is what makes it whole
    if not file.is_pinned and locked is None:
        add_to_lock(folder, path, came)
    return FetchedFile(weights.name, target, "fetched", source, came.sha256, came.size_bytes)


def _check(
    file: WeightFile,
    part: Path,
    source: str,
    *,
    locked: LockedFile | None,
    mirrored: LockedFile | None,
) -> LockedFile:
    """What came, if it is what was published; else it is removed."""
    size_bytes, sha256 = part.stat().st_size, hash_file(part)
    problem = difference(file, locked, size_bytes=size_bytes, sha256=sha256)
    if problem is None and mirrored is not None and mirrored.sha256 not in ("", sha256):
        problem = f"its SHA-256 begins {sha256[:12]}, and the mirror lists {mirrored.sha256[:12]}"
    if problem is None and not _is_about(size_bytes, file.size_bytes):
        problem = f"it has {size_bytes:,} bytes, not about {file.size_bytes:,}"
    if problem is None:
        return LockedFile(sha256, size_bytes, mirrored.source if mirrored else file.source)
    part.unlink()
    raise StorageError(
        "weights_hash_mismatch",
        f"What came is not what was published ({problem}); it has been removed.",
        subject=source,
        remedy="Run the same command again; if it stays so, do not use this source, or, if the"
        " publisher has replaced the file and you trust it, put it into a weights folder by hand.",
    )


def _is_about(size_bytes: int, expected_bytes: int) -> bool:
    return expected_bytes / _FAR_OFF <= size_bytes <= expected_bytes * _FAR_OFF


def _there(file: VerifiedFile) -> FetchedFile:
    return FetchedFile(file.weights, file.path, "there", "", file.sha256, file.size_bytes)


def _missing(weights: WeightSet, verified: list[VerifiedFile], needed_by: str) -> TwinreelError:
    bad = next((file for file in verified if file.verdict == "bad"), None)
    if bad is None:
        return missing_weights(weights, needed_by=needed_by, offline=True)
    return StorageError(
        "weights_hash_mismatch",
        f"It is not what was published ({bad.detail}), and nothing is fetched offline.",
        subject=str(bad.path),
        remedy=f"Run `twinreel weights fetch {weights.name}` where there is a network.",
    )


def _folder_for(weights: WeightSet) -> Path:
    """The weights folder that has part of the set, or else the first that can be written to."""
    folders = weights_folders()
    folder, missing = fullest_folder(weights)
    if not missing:
        # Something in it is bad: what lay in a later folder would not be found.
        candidates = folders[folders.index(folder) :: -1]
    elif len(missing) < len(weights.files):
        candidates = [folder, *folders]
    else:
        candidates = folders
    faults = []
    for candidate in candidates:
        try:
            candidate.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=candidate):
                return candidate
        except OSError as error:
            faults.append(unwritable(candidate, error))
    raise faults[0]


@contextlib.contextmanager
def _alone_in(folder: Path, watcher: Watcher) -> Iterator[None]:
    """Wait until no other process fetches into a folder that several machines may share."""
    busy = folder / _BUSY_NAME
    with contextlib.suppress(OSError):
        # Whoever shares the folder may wait on it, whoever came first.
        busy.touch()
        busy.chmod(0o666)
    try:
        file = busy.open("rb")
    except OSError as error:
        raise unwritable(busy, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            watcher.wait(folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # A file system without locks: two that fetch the same may then disturb each other,
            # which the hashes show.
            pass
        yield
