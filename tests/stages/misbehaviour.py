"""Functions for a child process that do what broken decoders do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from manifests.errors import UsageError


def segfault(argument: object, progress: Callable[[], None]) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(argument: object, progress: Callable[[], None]) -> None:
    progress()
    time.sleep(600)


def eat_memory(argument: object, progress: Callable[[], None]) -> None:
    held = []
    while True:
        held.append(b"x" * (32 << 20))
        progress()
        time.sleep(0.02)


def leave(argument: object, progress: Callable[[], None]) -> None:
    os._exit(3)


def raise_value_error(argument: object, progress: Callable[[], None]) -> None:
    raise ValueError("what is this")


def raise_usage_error(argument: object, progress: Callable[[], None]) -> None:
    raise UsageError("bad_setting", "No.", remedy="Do otherwise.")


def double(argument: int, progress: Callable[[], None]) -> int:
    return 2 * argument


def slow_but_moving(seconds: float, progress: Callable[[], None]) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        progress()
        time.sleep(0.05)
    return "done"
