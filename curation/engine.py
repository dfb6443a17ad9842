"""The one file that knows Ray: a pool of actors, each with a child process that can be killed.

Ray schedules the actors over whatever nodes there are, restarts them, and carries the results. The
pool keeps a bounded number of tasks in flight and hands results back in the order they finish, so
that the caller can commit as it goes. (Ray Data's actor pools were measured against it:
`benchmarks/engine.py`.)
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from curation.config import DecodeSettings, EngineSettings
from curation.worker import Worker
from manifests.errors import MediaError, TwinreelError, UsageError

_LOCAL_OBJECT_STORE_BYTES = 256 << 20
_RESUBMITS = 3
"""How often a task is given to another worker after its own died with its node."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A call of `function` (as `package.module:name`) with `argument`, about the file `subject`."""

    function: str
    argument: Any
    subject: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or the error that its file gets a row for."""

    task: Task
    result: Any
    error: TwinreelError | None


class Engine:
    """Runs tasks on Ray; starts nothing before the first task is there.

    Args:
        settings: how many workers, and how much of a CPU each takes.
        decode: limits of the child processes.
        address: a Ray cluster's address; None for the one a submitted job runs in, or a local one.
    """

    def __init__(
        self, settings: EngineSettings, decode: DecodeSettings, address: str | None
    ) -> None:
        self._settings = settings
        self._decode = decode
        self._address = address
        self._workers: list[Any] = []
        self._owns_ray = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """How many workers have been started."""
        return len(self._workers)

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        if not self._workers and not self._owns_ray:
            return
        import ray  # noqa: PLC0415 - a run that has nothing to do must not pay for Ray

        for worker in self._workers:
            with contextlib.suppress(Exception):
                ray.kill(worker)
        self._workers = []
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Run tasks and yield each one's outcome as it comes; order is not kept.

        Raises:
            UsageError: `cluster_unreachable`.
            TwinreelError: `workers_cannot_start`.
        """
        pending = iter(tasks)
        first = next(pending, None)
        if first is None:
            return
        self._start()
        import ray  # noqa: PLC0415

        waiting: collections.deque[tuple[Task, int]] = collections.deque([(first, 0)])
        free = collections.deque(
            worker for _ in range(self._settings.in_flight_per_worker) for worker in self._workers
        )
        running: dict[Any, tuple[Any, Task, int]] = {}
        while True:
            while free:
                if not waiting:
                    task = next(pending, None)
                    if task is None:
                        break
                    waiting.append((task, 0))
                task, tries = waiting.popleft()
                worker = free.popleft()
                reference = worker.run.remote(task.function, task.argument, task.subject)
                running[reference] = (worker, task, tries)
            if not running:
                return
            for reference in ray.wait(list(running), num_returns=1)[0]:
                worker, task, tries = running.pop(reference)
                free.append(worker)
                try:
                    result, error = ray.get(reference)
                except ray.exceptions.RayError as lost:
                    if tries < _RESUBMITS:
                        waiting.append((task, tries + 1))
                        continue
                    result, error = None, _worker_lost(task, lost)
                yield Outcome(task, result, error)

    def _start(self) -> None:
        if self._workers:
            return
        if not (self._address or os.environ.get("RAY_ADDRESS")):
            # Ray reads this when it is imported, and a cluster of one then listens on the loopback
            # address alone; `_node_ip_address` would be turned into the machine's outer address.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray  # noqa: PLC0415

        if not ray.is_initialized():
            self._connect()
        settings, decode = self._settings, self._decode
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = settings.workers or max(1, int(resources.get("CPU", 1) / settings.cpus_per_worker))
        actor = ray.remote(
            num_cpus=settings.cpus_per_worker, max_restarts=-1, scheduling_strategy="SPREAD"
        )(Worker)
        self._workers = [
            actor.remote(decode.stall_s, decode.memory_mb, decode.retries) for _ in range(count)
        ]
        # One worker that starts shows that they can; where none can, no file is to blame.
        first_ready = ray.wait([worker.ready.remote() for worker in self._workers])[0]
        try:
            ray.get(first_ready)
        except ray.exceptions.RayError as error:
            raise TwinreelError(
                "workers_cannot_start",
                f"No worker can start ({_last_line(error)}).",
                subject=self._address or "local Ray",
                remedy="Install the same version of twinreel on every node of the cluster.",
            ) from error

    def _connect(self) -> None:
        # Nothing about a user's bucket leaves the machine.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # An actor without a GPU must not blank the variable: decoders may use the GPU themselves.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray  # noqa: PLC0415

        address = self._address or os.environ.get("RAY_ADDRESS")
        on_termination = signal.getsignal(signal.SIGTERM)
        try:
            if address and address != "local":
                ray.init(address=address, log_to_driver=True, logging_level=logging.ERROR)
            else:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                    log_to_driver=True,
                    logging_level=logging.ERROR,
                )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise UsageError(
                "cluster_unreachable",
                f"Ray cannot be reached ({str(error).splitlines()[0][:160]}).",
                subject=f"--address {address}" if address else "ray",
                remedy="Check the address, and RAY_AUTH_MODE if the cluster asks for a token.",
            ) from error
        self._owns_ray = True
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler prints a stack and aborts, and the lease would stay behind.
            signal.signal(signal.SIGTERM, on_termination)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _worker_lost(task: Task, error: Exception) -> MediaError:
    return MediaError(
        "worker_lost",
        f"The workers that took it died ({type(error).__name__}).",
        subject=task.subject,
        remedy="Run the same command again; if it repeats, give the nodes more memory.",
        retryable=True,
    )
