"""Put on PYTHONPATH, makes the decoder misbehave on files whose names say so.

| the name holds | what opening the file does |
|---|---|
| `segfault` | the process dies of SIGSEGV |
| `hang` | nothing, for ever |
| `hungry` | takes more and more memory |
| `killed` | the process dies of SIGKILL, while the file `$TWINREEL_TEST_OUTAGE` is there |

`-unit` after it puts that off until a source is decoded, `-pack` until a sample is made: what comes
before finds a good file.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OPENER = "stages.media.open"
_STEPS = {"-unit": "stages.run.unit", "-pack": "stages.packing.write"}


class _PatchedLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        open_file = vars(module)["open_container"]

        def open_or_misbehave(file: Any, subject: str) -> Any:
            _misbehave(os.path.basename(subject))  # noqa: PTH119
            return open_file(file, subject)

        vars(module)["open_container"] = open_or_misbehave


class _Finder(importlib.abc.MetaPathFinder):
    """Lets `_OPENER` be found by those that follow, and patches it once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _OPENER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(_OPENER)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchedLoader(spec.loader)
        return spec


def _misbehave(name: str) -> None:
    for suffix, module in _STEPS.items():
        if suffix in name and module not in sys.modules:
            return
    if "segfault" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "killed" in name and os.path.exists(os.environ["TWINREEL_TEST_OUTAGE"]):  # noqa: PTH110
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in name:
        while True:
            time.sleep(1)
    taken: list[bytes] = []
    while "hungry" in name:
        taken.append(b"x" * (64 << 20))
        time.sleep(0.02)


sys.meta_path.insert(0, _Finder())
