"""Where learned weights lie on this machine, and which bytes they are."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from manifests.errors import UsageError
from stages.weights.catalogue import CATALOGUE, WeightFile, WeightSet

WEIGHTS_VARIABLE = "TWINREEL_WEIGHTS"
"""Environment variable: folders to look in, separated as in PATH."""
MIRROR_VARIABLE = "TWINREEL_WEIGHTS_MIRROR"
"""Environment variable: the mirror that is looked in before the sources."""
OFFLINE_VARIABLE = "TWINREEL_OFFLINE"
"""Environment variable: whether weights may not be fetched over the network."""


def weights_folders() -> list[Path]:
    """The folders weights are looked for in, in order; they need not exist."""
    named = [part for part in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if part]
    return [*(Path(part).expanduser() for part in named), Path.home() / ".cache/twinreel/weights"]


def is_offline() -> bool:
    """Whether the environment forbids fetching."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def find_weights(file_name: str) -> Path | None:
    """The first file of that name in `weights_folders`, or None."""
    candidates = (folder / file_name for folder in weights_folders())
    return next((path for path in candidates if path.is_file()), None)


def find_set(weights: WeightSet) -> Path | None:
    """The set's file, or the folder of its files if it has several; None unless all are there."""
    folder, missing = fullest_folder(weights)
    if missing:
        return None
    return folder / (weights.name if weights.is_folder else weights.files[0].name)


def fullest_folder(weights: WeightSet) -> tuple[Path, tuple[WeightFile, ...]]:
    """The weights folder that has most of a set, and what is missing there."""
    missing = {
        folder: tuple(file for file in weights.files if not (folder / weights.path(file)).is_file())
        for folder in weights_folders()
    }
    folder = min(missing, key=lambda folder: len(missing[folder]))
    return folder, missing[folder]


def require_weights(name: str, *, needed_by: str) -> Path:
    """Where a set of the catalogue lies: its file, or the folder of its files.

    Args:
        name: the set's name.
        needed_by: the setting that asks for it, for the message.

    Raises:
        UsageError: `missing_weights`: names the stage, the files and the command.
    """
    weights = CATALOGUE[name]
    path = find_set(weights)
    if path is None:
        raise missing_weights(weights, needed_by=needed_by, offline=is_offline())
    return path


def missing_weights(weights: WeightSet, *, needed_by: str, offline: bool) -> UsageError:
    """What to say of a set that is not there: who needs which files, and how to get them."""
    folder, missing = fullest_folder(weights)
    place = folder / weights.name if weights.is_folder else folder
    is_partial = len(missing) < len(weights.files)
    where = f"missing in {place}" if is_partial else "in none of the weights folders"
    names = ", ".join(file.name for file in missing)
    verb = "is" if len(missing) == 1 else "are"
    fetch = f"`twinreel weights fetch {weights.name}`"
    terms = f"({size_text(sum(file.size_bytes for file in missing))}, licence {weights.licence})"
    if offline:
        where += ", and nothing is fetched offline"
        remedy = f"Run {fetch} {terms} where there is a network, and put what comes into {place}."
    else:
        remedy = f"Get it with {fetch} {terms}, or name a folder that has it in {WEIGHTS_VARIABLE}."
    return UsageError(
        "missing_weights",
        f"It needs {names}, which {verb} {where}.",
        subject=needed_by,
        remedy=remedy,
    )


def sha256_of_set(name: str, path: Path) -> str:
    """SHA-256 of a found set: of its file, or of its files' hashes in the catalogue's order."""
    weights = CATALOGUE[name]
    if not weights.is_folder:
        return sha256_of(path)
    joined = "".join(sha256_of(path / file.name) for file in weights.files)
    return hashlib.sha256(joined.encode()).hexdigest()


def size_text(size_bytes: int) -> str:
    """A size for people: GB, MB or kB."""
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.1f} GB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in hex; read again only when it, its size or time has changed."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, _inode: int, _size_bytes: int, _modified_ns: int) -> str:
    return hash_file(Path(path))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hex, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
