"""What the codecs and the text encoder of a recipe have in common: weights, and an identity."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.settings import Settings
from stages.weights.find import require_weights, sha256_of, sha256_of_set


class PartSettings(Settings):
    """Settings of a codec or a text encoder.

    Attributes:
        kind: its name in a recipe.
        place: its key in a recipe.
        version: raised whenever equal inputs may give another result.
        weights: sets of `stages.weights.catalogue` that it loads.
        is_fitted: whether it is fitted to a run's samples; what it makes is that run's own.
    """

    kind: str
    place: ClassVar[str]
    version: ClassVar[int] = 1
    weights: ClassVar[tuple[str, ...]] = ()
    is_fitted: ClassVar[bool] = False

    @property
    def needed_by(self) -> str:
        """What errors name: its key and kind."""
        return f"{self.place}:{self.kind}"

    @property
    def own_weights(self) -> tuple[Path, ...]:
        """Files that it loads in the place of those sets; the setting `file` names them."""
        return ()

    def weight_paths(self) -> tuple[Path, ...]:
        """Where its weights lie: files of its own, or each set's file or folder.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        return self.own_weights or tuple(
            require_weights(name, needed_by=self.needed_by) for name in self.weights
        )

    def fingerprint(self) -> str:
        """16 hex digits: equal for equal settings, code and weights, wherever these lie.

        Reads the weights, once a process.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        paths = self.weight_paths()
        if self.own_weights:
            hashes = [sha256_of(path) for path in paths]
        else:
            hashes = list(map(sha256_of_set, self.weights, paths))
        settings = self.model_dump(mode="json", exclude={"file"})
        return fingerprint([self.place, self.version, settings, hashes])


def missing_package(package: str, *, needed_by: str) -> UsageError:
    """The error for a codec or encoder whose package is not installed.

    Args:
        package: as pip knows it.
        needed_by: the recipe's key and what it says there.
    """
    return UsageError(
        "missing_package",
        f"It needs {package}, which is not installed.",
        subject=needed_by,
        remedy="pip install 'twinreel[train]'",
    )
