"""Functions for a child process that do what broken decoders do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from manifests.errors import UsageError
from stages.media.heartbeat import beat


def segfault(argument: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(argument: object) -> None:
    beat()
    time.sleep(600)


def eat_memory(argument: object) -> None:
    held = []
    while True:
        held.append(b"x" * (32 << 20))
        beat()
        time.sleep(0.02)


def leave(argument: object) -> None:
    os._exit(3)


def be_killed(argument: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_terminated(argument: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run_out_of_disk(argument: object) -> None:
    raise OSError(28, "No space left on device")


def lack_a_package(argument: object) -> None:
    raise ImportError("no module named decord")


def raise_value_error(argument: object) -> None:
    raise ValueError("what is this")


def raise_usage_error(argument: object) -> None:
    raise UsageError("bad_setting", "No.", remedy="Do otherwise.")


def double(argument: int) -> int:
    return 2 * argument


def slow_but_moving(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        beat()
        time.sleep(0.05)
    return "done"


def take_the_worker_along(marker: str) -> str:
    """Kills the process that waits for this one; the next time it does its work."""
    if Path(marker).exists():
        return "done"
    Path(marker).touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    return "never"
