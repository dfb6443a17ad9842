"""Where learned weights lie on this machine, and which bytes they are."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in hex; read again only when its size or time has changed."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, _size_bytes: int, _modified_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
