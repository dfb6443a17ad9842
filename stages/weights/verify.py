"""Whether the weights that were found are those that were published."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from stages.weights.catalogue import WeightFile, WeightSet
from stages.weights.find import fullest_folder, sha256_of
from stages.weights.lock import LockedFile, difference, is_attested, read_lock

Verdict = Literal["ok", "unpinned", "bad", "missing"]


@dataclasses.dataclass(frozen=True)
class VerifiedFile:
    """One file of a set, as it lies on this machine.

    `ok` is equal to what was published, as far as that is known, or to what came the first time;
    `unpinned` can be compared with neither. `detail` says what is wrong with a bad one.
    """

    weights: str
    path: Path
    verdict: Verdict
    sha256: str
    size_bytes: int
    detail: str


def verify_set(weights: WeightSet) -> list[VerifiedFile]:
    """Hash the set's files in the weights folder that has most of them; some may be missing.

    Raises:
        StorageError: `bad_weights_lock`.
    """
    folder, _ = fullest_folder(weights)
    lock = read_lock(folder)
    return [
        verify_file(weights, file, folder, lock.get(weights.path(file))) for file in weights.files
    ]


def verify_file(
    weights: WeightSet, file: WeightFile, folder: Path, locked: LockedFile | None
) -> VerifiedFile:
    """Compare one file in a weights folder with the catalogue and the folder's lock."""
    path = folder / weights.path(file)
    if not path.is_file():
        return VerifiedFile(weights.name, path, "missing", "", 0, "")
    size_bytes = path.stat().st_size
    sha256 = sha256_of(path)
    problem = difference(file, locked, size_bytes=size_bytes, sha256=sha256)
    verdict: Verdict = "unpinned"
    if problem is not None:
        verdict = "bad"
    elif is_attested(file, locked):
        verdict = "ok"
    return VerifiedFile(weights.name, path, verdict, sha256, size_bytes, problem or "")
