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
import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from curation.config import DecodeSettings, EngineSettings
from curation.worker import ModelWorker, Worker
from manifests.errors import MediaError, TwinreelError, UsageError
from stages.clip import StageCall

_LOCAL_OBJECT_STORE_BYTES = 512 << 20
"""Room for two batches of what models see; Ray puts on disk what goes beyond."""
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

    def run_model(self, tasks: Iterable[Task], model: StageCall) -> Iterator[Outcome]:
        """Run clips through preparation and then, in batches, through a model.

        Decoding and the model run side by side; what lies between the two is bounded, and moves
        from worker to worker without passing through this process. Models are loaded with the first
        task and given up with the last.

        Args:
            tasks: calls of `stages.clip:measure_clip`; some may turn out to need no model.
            model: which model.

        Raises:
            UsageError: `cluster_unreachable`, or the model cannot be loaded.
            TwinreelError: `workers_cannot_start`.
        """
        pending = iter(tasks)
        first = next(pending, None)
        if first is None:
            return
        self._start()
        models = self._load_models(model)
        try:
            yield from _Pipeline(
                itertools.chain([first], pending), self._workers, models, self._settings
            ).run()
        finally:
            import ray  # noqa: PLC0415

            for worker in models:
                with contextlib.suppress(Exception):
                    ray.kill(worker)

    def _load_models(self, model: StageCall) -> list[Any]:
        import ray  # noqa: PLC0415

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        settings = self._settings
        gpus = resources.get("GPU", 0.0)
        count = settings.model_workers or max(1, int(gpus / settings.gpus_per_model))
        # A model that has to do without a GPU shares the CPUs with the decoders: asking for one
        # would wait for ever where they have taken them all.
        actor = ray.remote(
            num_cpus=0, num_gpus=settings.gpus_per_model if gpus else 0, max_restarts=-1
        )(ModelWorker)
        models: list[Any] = [actor.remote(model) for _ in range(count)]
        try:
            for error in ray.get([worker.ready.remote() for worker in models]):
                if error is not None:
                    raise error
        except ray.exceptions.RayError as error:
            raise TwinreelError(
                "workers_cannot_start",
                f"The model of the stage {model.name} cannot be loaded ({_last_line(error)}).",
                subject=self._address or "local Ray",
                remedy="Install twinreel[models] on every node, and look at their memory.",
            ) from error
        return models

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


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Clips on their way through a model: their tasks, and where their arrays lie."""

    tasks: list[Task]
    arrays: list[Any]
    tries: int = 0


class _Pipeline:
    """Tasks through preparing workers and then models; see `Engine.run_model`."""

    def __init__(
        self, tasks: Iterator[Task], workers: list[Any], models: list[Any], settings: EngineSettings
    ) -> None:
        self._tasks = tasks
        self._batch_clips, self._batch_mb = settings.batch_clips, settings.batch_mb
        # Enough for every model to find its next batch ready, and no more.
        self._most_prepared = 2 * settings.batch_clips * len(models)
        self._most_mb = 2 * settings.batch_mb * len(models)
        self._free_workers = collections.deque(
            worker for _ in range(settings.in_flight_per_worker) for worker in workers
        )
        self._free_models = collections.deque(models)
        self._again: collections.deque[tuple[Task, int]] = collections.deque()
        self._preparing: dict[Any, tuple[Any, Task, int, Any]] = {}
        self._prepared: collections.deque[tuple[Task, Any, float]] = collections.deque()
        self._prepared_mb = 0.0
        self._batches: collections.deque[_Batch] = collections.deque()
        self._inferring: dict[Any, tuple[Any, _Batch]] = {}
        self._exhausted = False

    def run(self) -> Iterator[Outcome]:
        """The outcomes as they come."""
        import ray  # noqa: PLC0415

        while True:
            self._prepare_more()
            self._infer_more()
            under_way = [*self._preparing, *self._inferring]
            if not under_way:
                return
            for reference in ray.wait(under_way, num_returns=1)[0]:
                if reference in self._preparing:
                    yield from self._when_prepared(reference)
                else:
                    yield from self._when_inferred(reference)

    def _prepare_more(self) -> None:
        while (
            self._free_workers
            and len(self._preparing) + len(self._prepared) < self._most_prepared
            and self._prepared_mb < self._most_mb
            and (following := self._next_task()) is not None
        ):
            task, tries = following
            worker = self._free_workers.popleft()
            envelope, arrays = worker.prepare.options(num_returns=2).remote(
                task.function, task.argument, task.subject
            )
            self._preparing[envelope] = (worker, task, tries, arrays)

    def _next_task(self) -> tuple[Task, int] | None:
        if self._again:
            return self._again.popleft()
        task = next(self._tasks, None)
        self._exhausted = task is None
        return None if task is None else (task, 0)

    def _infer_more(self) -> None:
        no_more_come = self._exhausted and not self._preparing and not self._again
        while self._free_models and (batch := self._next_batch(no_more_come)) is not None:
            model = self._free_models.popleft()
            self._inferring[model.infer.remote(*batch.arrays)] = (model, batch)

    def _next_batch(self, no_more_come: bool) -> _Batch | None:
        if self._batches:
            return self._batches.popleft()
        full = len(self._prepared) >= self._batch_clips or self._prepared_mb >= self._batch_mb
        if not self._prepared or not (full or no_more_come):
            return None
        batch, batch_mb = _Batch([], []), 0.0
        while self._prepared and len(batch.tasks) < self._batch_clips:
            task, arrays, megabytes = self._prepared[0]
            if batch.tasks and batch_mb + megabytes > self._batch_mb:
                break
            self._prepared.popleft()
            self._prepared_mb -= megabytes
            batch_mb += megabytes
            batch.tasks.append(task)
            batch.arrays.append(arrays)
        return batch

    def _when_prepared(self, reference: Any) -> Iterator[Outcome]:  # noqa: ANN401 - Ray's
        import ray  # noqa: PLC0415

        worker, task, tries, arrays = self._preparing.pop(reference)
        self._free_workers.append(worker)
        try:
            megabytes, result, error = ray.get(reference)
        except ray.exceptions.RayError as lost:
            if tries < _RESUBMITS:
                self._again.append((task, tries + 1))
                return
            megabytes, result, error = None, None, _worker_lost(task, lost)
        if megabytes is not None:
            self._prepared.append((task, arrays, megabytes))
            self._prepared_mb += megabytes
        else:
            yield Outcome(task, result, error)

    def _when_inferred(self, reference: Any) -> Iterator[Outcome]:  # noqa: ANN401 - Ray's
        import ray  # noqa: PLC0415

        model, batch = self._inferring.pop(reference)
        self._free_models.append(model)
        try:
            results: list[Any] = ray.get(reference)
        except ray.exceptions.RayError as lost:
            if batch.tries < _RESUBMITS:
                # One clip may have brought the process down: on its own it costs only itself.
                self._batches += [
                    _Batch([task], [arrays], batch.tries + 1)
                    for task, arrays in zip(batch.tasks, batch.arrays, strict=True)
                ]
                return
            results = [_worker_lost(task, lost) for task in batch.tasks]
        for task, result in zip(batch.tasks, results, strict=True):
            if isinstance(result, TwinreelError):
                yield Outcome(task, None, result)
            else:
                yield Outcome(task, result, None)


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
