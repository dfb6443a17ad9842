"""Folders that are expensive to make and only read: made once for all of pytest-xdist's workers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(
    factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]
) -> Path:
    """A folder that whichever worker comes first fills, while the others wait for it.

    A test that changes what is in it takes a copy.

    Args:
        factory: pytest's `tmp_path_factory`.
        name: of the folder; one name, one content.
        build: fills the empty folder that it is given. The folder stays where it is, so that paths
            into it may be written down.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The parent belongs to the whole run, the folder itself to this worker.
        base = base.parent
    folder, done = base / "shared" / name, base / "shared" / f"{name}.done"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.exists():
            # What another worker left unfinished when it failed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            done.touch()
    return folder
