"""Where learned weights lie on this machine, and which bytes they are."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from manifests.errors import UsageError
from stages.weights.catalogue import CATALOGUE, WeightSet

WEIGHTS_VARIABLE = "TWINREEL_WEIGHTS"
"""Environment variable: folders to look in, separated as in PATH."""


def weights_folders() -> list[Path]:
    """The folders weights are looked for in, in order; they need not exist."""
    named = [part for part in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if part]
    return [*(Path(part).expanduser() for part in named), Path.home() / ".cache/twinreel/weights"]


def find_weights(file_name: str) -> Path | None:
    """The first file of that name in `weights_folders`, or None."""
    candidates = (folder / file_name for folder in weights_folders())
    return next((path for path in candidates if path.is_file()), None)


def find_set(weights: WeightSet) -> Path | None:
    """The set's file, or the folder of its files if it has several; None unless all are there."""
    if not weights.is_folder:
        return find_weights(weights.files[0].name)
    folders = (folder / weights.name for folder in weights_folders())
    return next(
        (
            folder
            for folder in folders
            if all((folder / file.name).is_file() for file in weights.files)
        ),
        None,
    )


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
        files = ", ".join(file.name for file in weights.files)
        raise UsageError(
            "missing_weights",
            f"It needs {files}, which {'are' if weights.is_folder else 'is'} in none of the"
            " weights folders.",
            subject=needed_by,
            remedy=f"Get it with `twinreel weights fetch {name}` ({_size(weights.size_bytes)},"
            f" licence {weights.licence}), or name a folder that has it in {WEIGHTS_VARIABLE}.",
        )
    return path


def sha256_of_set(name: str, path: Path) -> str:
    """SHA-256 of a found set: of its file, or of its files' hashes in the catalogue's order."""
    weights = CATALOGUE[name]
    if not weights.is_folder:
        return sha256_of(path)
    joined = "".join(sha256_of(path / file.name) for file in weights.files)
    return hashlib.sha256(joined.encode()).hexdigest()


def _size(size_bytes: int) -> str:
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.1f} GB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in hex; read again only when its size or time has changed."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, _size_bytes: int, _modified_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
