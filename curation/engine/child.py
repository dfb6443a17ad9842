"""A child process that can be killed: decoders crash, hang and eat memory, and must cost one row.

The parent keeps one warm child and calls functions in it by name. The child passes its signs of
life on (`stages.media.heartbeat`); a parent that hears nothing for long enough kills it, as it does
when the child's memory passes its limit.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

import psutil

from manifests.errors import MediaError, TwinreelError, system_refuses
from manifests.process import die_with_parent
from stages.media.heartbeat import heard_by
from twinreel import _names

_MODULE = "curation.engine.child"
"""This one; in the child itself it is called `__main__`."""
_POLL_S = 0.25
_REPORT_EVERY_S = 1.0
_START_PATIENCE_S = 120.0
_ENDED_BY_OTHERS = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}
)
"""Signals that no decoder brings upon itself: they come from the kernel that is short of memory,
from a scheduler, or from a person."""
_SINGLE_THREADED = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
}


Argument = TypeVar("Argument")
Result = TypeVar("Result")


def name_of(function: Callable[..., object]) -> str:
    """A function that a module has at its top, as `package.module:name`.

    Functions travel by name, so that only the child that calls one imports its module.
    """
    module = function.__module__
    if module == "__main__":
        # `python -m package.module` runs a module under this name; others import it by its own.
        specification = sys.modules[module].__spec__
        module = module if specification is None else specification.name
    return f"{module}:{function.__qualname__}"


class KillableChild:
    """Calls functions in a child process, within limits.

    Args:
        stall_s: seconds without a sign of progress after which the child is killed.
        memory_mb: resident megabytes above which it is killed.
    """

    def __init__(self, *, stall_s: float, memory_mb: int) -> None:
        self._stall_s = stall_s
        self._memory_bytes = memory_mb << 20
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._ready = False
        self.peak_memory_bytes = 0

    def call(
        self, function: Callable[[Argument], Result], argument: Argument, *, subject: str
    ) -> Result:
        """Run a function that a module has at its top, with `argument`, and return its result.

        Raises:
            TwinreelError: as `call_by_name`.
        """
        result: Any = self.call_by_name(name_of(function), argument, subject=subject)
        return cast(Result, result)

    def call_by_name(self, function: str, argument: object, *, subject: str) -> object:
        """Run a function that is imported in the child alone, and return its result.

        Args:
            function: of one parameter, as `name_of` gives it.
            argument: anything that pickles.
            subject: the file that an error is about.

        Raises:
            MediaError: `decoder_crashed` and `decoder_out_of_memory` (which the file's next try
                would be too); `decoder_killed`, `decoder_hung` and `decoder_not_started` (which may
                pass).
            TwinreelError: what the function raised; `system_refused` is what the system did not
                grant it, and anything else is `unexpected_error`.
        """
        connection = self._start()
        self._ready = False
        try:
            connection.send((function, argument))
            return self._await(connection, subject)
        except (EOFError, OSError) as error:
            raise self._crashed(subject) from error

    def close(self) -> None:
        """End the child."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> Connection[Any, Any]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._connection is None:
            ours, theirs = socket.socketpair()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    # Whatever modules lie in the folder that this process was started in.
                    "-P",
                    _names.__file__,
                    _MODULE,
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_SINGLE_THREADED, "PYTHONPATH": _path()},
            )
            theirs.close()
            self._connection = Connection(ours.detach())
        return self._connection

    def _await(self, connection: Connection[Any, Any], subject: str) -> object:
        heard = time.monotonic()
        while True:
            if connection.poll(_POLL_S):
                kind, value = connection.recv()
                self._ready = True
                heard = time.monotonic()
                if kind == "result":
                    return value
                if kind == "error":
                    raise value
            self._check_memory(subject)
            waited_s = time.monotonic() - heard
            if not self._ready:
                # Importing decoders on a busy node takes its time, which is not the file's fault.
                if waited_s > max(self._stall_s, _START_PATIENCE_S):
                    self.close()
                    raise _not_started(f"was not ready after {waited_s:.0f} s", subject)
            elif waited_s > self._stall_s:
                self.close()
                raise MediaError(
                    "decoder_hung",
                    f"Nothing moved for {self._stall_s:g} s; the decoder was stopped.",
                    subject=subject,
                    remedy="Re-encode the file, or raise decode.stall_s if storage is that slow.",
                    retryable=True,
                )

    def _check_memory(self, subject: str) -> None:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            resident = psutil.Process(self._process.pid).memory_info().rss
            self.peak_memory_bytes = max(self.peak_memory_bytes, resident)
            if resident > self._memory_bytes:
                self.close()
                raise MediaError(
                    "decoder_out_of_memory",
                    f"Decoding took more than {self._memory_bytes >> 20} MB and was stopped.",
                    subject=subject,
                    remedy="Raise decode.memory_mb if the picture is really that large.",
                )

    def _crashed(self, subject: str) -> MediaError:
        code: int | None = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=5)
        self.close()
        how = f"exit code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        if code is not None and -code in _ENDED_BY_OTHERS:
            return MediaError(
                "decoder_killed",
                f"The decoder was killed from outside ({how}): probably memory ran out.",
                subject=subject,
                remedy="Run the same command again; if it repeats, lower decode.memory_mb or the"
                " number of workers, or give the nodes more memory.",
                retryable=True,
            )
        if not self._ready:
            return _not_started(f"ended before it took the file ({how})", subject)
        return MediaError(
            "decoder_crashed",
            f"The decoder crashed on it ({how}).",
            subject=subject,
            remedy="Re-encode the file, or leave it out.",
        )


def _path() -> str:
    """This process's path, for the child's; an empty entry is the folder it was started in."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100


def _not_started(what: str, subject: str) -> MediaError:
    return MediaError(
        "decoder_not_started",
        f"The decoder's process {what}.",
        subject=subject,
        remedy="See what it wrote to the log, and whether the node is overloaded; then run the"
        " same command again.",
        retryable=True,
    )


def _serve(connection: Connection[Any, Any]) -> None:
    last_report = 0.0

    def progress() -> None:
        nonlocal last_report
        now = time.monotonic()
        if now - last_report >= _REPORT_EVERY_S:
            last_report = now
            connection.send(("progress", None))

    while True:
        try:
            name, argument = connection.recv()
        except EOFError:
            return
        try:
            module, _, function = name.partition(":")
            called = getattr(importlib.import_module(module), function)
            # From here on, what ends or stops this process is what it was given to do.
            connection.send(("ready", None))
            with heard_by(progress):
                result = called(argument)
        except TwinreelError as error:
            connection.send(("error", error))
        except Exception as error:
            traceback.print_exc()
            connection.send(("error", _unexpected(error)))
        else:
            connection.send(("result", result))


def _unexpected(error: Exception) -> MediaError:
    if system_refuses(error):
        return MediaError(
            "system_refused",
            f"The system did not grant what it takes ({type(error).__name__}: {error}).",
            remedy="Look at the node's disk, memory and open files, then run the same command"
            " again.",
            retryable=True,
        )
    where = traceback.extract_tb(error.__traceback__)[-1]
    return MediaError(
        "unexpected_error",
        f"{type(error).__name__}: {error} (in {where.name}, line {where.lineno})",
        remedy="This is a defect of Twinreel: please report it with the file.",
    )


def _main() -> None:
    import cv2  # noqa: PLC0415 - the parent needs this module but not OpenCV

    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    _main()
