"""Our packages' names in a process: whatever else is called `training` or `stages` stays outside.

Twinreel's packages are called `curation`, `stages`, `manifests` and `training`, and others have
folders of these names too. Python takes the first that it meets on its path, which begins with the
folder that a program runs in. `claim` puts a finder before the path: it looks for these names
beside this package and nowhere else.

Needs the standard library alone, so that it can run before anything else of ours is imported. As a
script it runs one of our modules: `python -P .../twinreel/_names.py MODULE [ARGUMENT...]`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import os
import runpy
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("curation", "stages", "manifests", "training")
"""Names that others may use as well."""
ROOT = Path(os.path.abspath(__file__)).parents[1]  # noqa: PTH100 - links are to stay links
"""The folder that holds our packages."""
MARK = '__part_of__ = "twinreel"'
"""A line of each package's `__init__.py`; a file without it is somebody else's."""
_ERRORS = "twinreel._errors"
"""`manifests.errors`, where `manifests` is somebody else's."""


class NameFinder(importlib.abc.MetaPathFinder):
    """Finds the packages that were claimed, in one folder.

    Args:
        root: that folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.names = {"twinreel"}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a claimed package lies; None for every other name."""
        if path is not None or fullname not in self.names:
            return None
        return PathFinder.find_spec(fullname, [self.root])


def claim(*names: str, alone: bool = False) -> None:
    """Have names mean our packages in this process from now on.

    Args:
        names: of `NAMES`; all if none is given.
        alone: nothing but ours runs in this process: a package that was loaded under one of the
            names goes. Otherwise it stays and is an error, and one that is not loaded yet and can
            not be any more is warned of.

    Raises:
        UsageError: `name_taken`: the process, or the folder that holds our packages, has somebody
            else's package under a name.
    """
    finder = _finder()
    for name in names or NAMES:
        if name in finder.names:
            continue
        ours = ROOT / name / "__init__.py"
        if not _has_mark(ours):
            raise _taken(name, ours, _owner_of(name))
        loaded = sys.modules.get(name)
        if loaded is not None and not _is_ours(loaded, name):
            if not alone:
                raise _taken(name, _place_of(loaded), None)
            _unload(name)
        elif loaded is None and not alone:
            _warn_of_hidden(name)
        finder.names.add(name)


def errors() -> ModuleType:
    """The module `manifests.errors`, also where somebody else's `manifests` is loaded."""
    loaded = sys.modules.get("manifests")
    if loaded is None or _is_ours(loaded, "manifests"):
        _finder().names.add("manifests")
        return importlib.import_module("manifests.errors")
    if _ERRORS not in sys.modules:
        spec = importlib.util.spec_from_file_location(_ERRORS, ROOT / "manifests" / "errors.py")
        assert spec is not None and spec.loader is not None
        sys.modules[_ERRORS] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_ERRORS])
    return sys.modules[_ERRORS]


def other_owners() -> dict[str, list[str]]:
    """Other installed distributions that have files under our names, by name. Takes its time."""
    owners = importlib.metadata.packages_distributions()
    others = {name: sorted(set(owners.get(name, ())) - {"twinreel"}) for name in NAMES}
    return {name: found for name, found in others.items() if found}


def _finder() -> NameFinder:
    """The process's finder for this folder, which is put in place by the first call."""
    for finder in sys.meta_path:
        # By its name: this file may be loaded twice, once by path and once as a module.
        if type(finder).__name__ == NameFinder.__name__ and getattr(finder, "root", "") == str(
            ROOT
        ):
            return finder  # type: ignore[return-value]
    finder = NameFinder(ROOT)
    sys.meta_path.insert(0, finder)
    return finder


def _has_mark(file: Path) -> bool:
    try:
        return MARK in file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False


def _is_ours(module: ModuleType, name: str) -> bool:
    try:
        return _place_of(module).samefile(ROOT / name / "__init__.py")
    except OSError:
        return False


def _place_of(module: ModuleType) -> Path:
    """A module's file, or the folder of a package that has none."""
    folders: Iterable[str] = getattr(module, "__path__", ())
    return Path(getattr(module, "__file__", None) or next(iter(folders), module.__name__))


def _unload(name: str) -> None:
    for loaded in list(sys.modules):
        if loaded.partition(".")[0] == name:
            del sys.modules[loaded]


def _warn_of_hidden(name: str) -> None:
    """Say which package a program can not import any more."""
    path = [entry for entry in sys.path if Path(entry or ".").absolute() != ROOT]
    spec = PathFinder.find_spec(name, path)
    if spec is not None and spec.origin is not None and not _has_mark(Path(spec.origin)):
        warnings.warn(
            f"{spec.origin} is hidden: in this process '{name}' is Twinreel's package.",
            stacklevel=3,
        )


def _owner_of(name: str) -> str | None:
    return ", ".join(other_owners().get(name, ())) or None


def _taken(name: str, file: Path, owner: str | None) -> Exception:
    """The error of a name that is somebody else's."""
    whose = f"the package {owner}" if owner else "another package"
    remedy = (
        "Install Twinreel anew, in an environment of its own (python -m venv)."
        if file.parent.parent == ROOT
        else "Rename it, or use Twinreel in a process that does not import it, such as that of the"
        " command `twinreel`."
    )
    error: Exception = errors().UsageError(
        "name_taken",
        f"This is {whose}, under the name '{name}', which Twinreel's own package has.",
        subject=str(file),
        remedy=remedy,
    )
    return error


if __name__ == "__main__":
    claim(alone=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
