"""Backends: the ways in which a stage can be computed, and what each of them needs."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from manifests.errors import UsageError

MISSING_CODES = ("missing_package", "missing_weights")
"""Codes of errors that say that a backend is known but cannot run here."""


@dataclasses.dataclass(frozen=True)
class BackendDeclaration:
    """A backend as its stage declares it.

    Args:
        name: what a configuration calls it.
        packages: import names of what must be installed (the extra `models` brings all of ours).
        weights: sets of `stages.weights.catalogue` that it loads.
        packaged_weights: finds weights that lie inside an installed package; asked once the
            packages are known to be there.
    """

    name: str
    packages: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    packaged_weights: Callable[[], Sequence[Path]] | None = None


@dataclasses.dataclass(frozen=True)
class Backend:
    """A backend that can run here: its name, and the hash of its weights where it has any."""

    name: str
    weights_sha256: str | None = None


def require_packages(packages: Sequence[str], *, needed_by: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
        packages: their import names.
        needed_by: the setting that asks for them, for the message.

    Raises:
        UsageError: `missing_package`.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            "missing_package",
            f"It needs {' and '.join(missing)}.",
            subject=needed_by,
            remedy="Run: pip install 'twinreel[models]'",
        )


def joined_sha256(hashes: Sequence[str]) -> str | None:
    """One hash for several files or sets: of one it is its own; None of none."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else None
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def unknown_backend(asked: str, known: Sequence[str], *, setting: str) -> UsageError:
    """The error for a backend that a stage does not have."""
    names = ["auto", *known]
    return UsageError(
        "unknown_backend",
        f"There is no backend {asked!r}.",
        subject=setting,
        remedy=f"Use {', '.join(names[:-1])} or {names[-1]}.",
    )
