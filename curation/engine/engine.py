"""Tasks on Ray: a pool of actors, each with a child process that can be killed.

Ray schedules the actors over whatever nodes there are, restarts them, and carries the results. The
engine keeps a bounded number of tasks in flight and hands results back in the order they finish, so
that the caller can commit as it goes. (Ray Data's actor pools were measured against it:
`benchmarks/engine.py`.)
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from curation.config import DecodeSettings, EngineSettings
from curation.engine.pipeline import NoModelError, Pipeline
from curation.engine.pool import Pool
from curation.engine.tasks import Attempt, Outcome, Task, actor_lost, comes_back, failure_of
from curation.engine.travel import arguments_of, home, hosted
from curation.engine.worker import ModelWorker, Worker
from manifests.errors import TwinreelError, UsageError
from stages.base.contract import StageCall

_LOCAL_OBJECT_STORE_BYTES = 512 << 20
"""Room for two batches of what models see; Ray puts on disk what goes beyond."""


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
        self._pool: Pool | None = None
        self._owns_ray = False
        self.notes: list[str] = []
        """What the job's reader should know at its end."""

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
        return 0 if self._pool is None else len(self._pool)

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        if self._pool is None and not self._owns_ray:
            return
        import ray  # noqa: PLC0415 - a run that has nothing to do must not pay for Ray

        if self._pool is not None:
            self._pool.kill()
        self._pool = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def run(self, tasks: Iterable[Task[Any]]) -> Iterator[Outcome]:
        """Run tasks and yield each one's outcome as it comes; order is not kept.

        Raises:
            UsageError: `cluster_unreachable`.
            TwinreelError: `workers_cannot_start`.
        """
        pending = iter(tasks)
        first = next(pending, None)
        if first is None:
            return
        self.start()
        assert self._pool is not None
        import ray  # noqa: PLC0415

        again: collections.deque[Attempt] = collections.deque([Attempt(first)])
        running: dict[Any, tuple[int, Attempt]] = {}
        while True:
            while self._pool.has_room or not again:
                if not again:
                    # Asked every time anew: a task that ends may bring others.
                    task = next(pending, None)
                    if task is None:
                        break
                    again.append(Attempt(task))
                    continue
                attempt = again.popleft()
                index, worker = self._pool.take(attempt.avoid)
                running[worker.run.remote(*attempt.call)] = (index, attempt)
            if not running and not again:
                return
            for reference in self._pool.wait(running):
                index, attempt = running.pop(reference)
                try:
                    result, error = ray.get(reference)
                except ray.exceptions.RayError as lost:
                    if actor_lost(lost):
                        self._pool.lost(index)
                    else:
                        self._pool.done(index)
                    if comes_back(attempt, lost):
                        again.append(attempt.again(avoid=index))
                        continue
                    result, error = None, failure_of(attempt.task, lost)
                else:
                    self._pool.done(index)
                yield Outcome(attempt.task, result, error)

    def run_model(self, tasks: Iterable[Task[Any]], model: StageCall) -> Iterator[Outcome]:
        """Run clips through preparation and then, in batches, through a model.

        Decoding and the model run side by side; what lies between the two is bounded, and moves
        from worker to worker without passing through this process. Models are loaded with the first
        task and given up with the last. A model that its node has not is left out; where none can
        be had, the run ends early, tasks without an outcome are left, and `notes` says why.

        Args:
            tasks: calls of `stages.run.clip.measure_clip`; some may turn out to need no model.
            model: which model.

        Raises:
            UsageError: `cluster_unreachable`, or the model can be loaded nowhere and never.
            TwinreelError: `workers_cannot_start`.
        """
        pending = iter(tasks)
        first = next(pending, None)
        if first is None:
            return
        self.start()
        models = self._load_models(model)
        assert self._pool is not None
        pipeline = Pipeline(itertools.chain([first], pending), self._pool, models, self._settings)
        try:
            yield from pipeline.run()
        finally:
            models.kill()
            self._note_models(model.name, pipeline, models)

    def _note_models(self, stage: str, pipeline: Pipeline, models: Pool) -> None:
        if pipeline.gave_up is not None:
            self.notes.append(
                f"{pipeline.gave_up} Clips that '{stage}' has not measured stay so until the next"
                " run."
            )
        elif models.left_out:
            reasons = " ".join(sorted({str(error) for error in models.left_out.values()}))
            self.notes.append(
                f"{len(models.left_out)} of {len(models)} processes that should hold the model of"
                f" '{stage}' were of no use, and the others did their work: {reasons}"
            )

    def _load_models(self, model: StageCall) -> Pool:
        import ray  # noqa: PLC0415

        settings = self._settings
        gpus = places("GPU", settings.gpus_per_model)
        # A model that has to do without a GPU shares the CPUs with the decoders: asking for one
        # would wait for ever where they have taken them all.
        actor = ray.remote(
            num_cpus=0, num_gpus=settings.gpus_per_model if gpus else 0, max_restarts=-1
        )(hosted(ModelWorker, home()))
        count = settings.model_workers or max(1, gpus)

        def none_can_join(said: str) -> TwinreelError:
            return NoModelError(
                "workers_cannot_start",
                f"No model of the stage {model.name} can be loaded ({said}).",
                subject=self._address or "local Ray",
                remedy="Install twinreel[models] on every node, look at their memory, and at"
                " engine.model_workers and engine.gpus_per_model: other programs may have the"
                " GPUs.",
            )

        return Pool(
            [actor.remote(arguments_of(model)) for _ in range(count)],
            slots=1,
            patience_s=settings.start_patience_s,
            none_can_join=none_can_join,
        )

    def start(self) -> None:
        """Connect to Ray and start the workers, unless that has been done.

        Raises:
            UsageError: `cluster_unreachable`.
        """
        if self._pool is not None:
            return
        if not (self._address or os.environ.get("RAY_ADDRESS")):
            # Ray reads this when it is imported, and a cluster of one then listens on the loopback
            # address alone; `_node_ip_address` would be turned into the machine's outer address.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray  # noqa: PLC0415

        if not ray.is_initialized():
            self._connect()
        settings, decode = self._settings, self._decode
        gpus = places("GPU", settings.gpus_per_worker) if settings.gpus_per_worker else 0
        count = settings.workers or max(1, gpus or places("CPU", settings.cpus_per_worker))
        actor = ray.remote(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker if gpus else 0,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        )(hosted(Worker, home()))
        limits = arguments_of(decode.stall_s, decode.memory_mb, decode.retries)

        def none_can_join(said: str) -> TwinreelError:
            return TwinreelError(
                "workers_cannot_start",
                f"No worker can start ({said}).",
                subject=self._address or "local Ray",
                remedy="Install what twinreel depends on on every node of the cluster, and look"
                " whether its CPUs are free for engine.cpus_per_worker.",
            )

        self._pool = Pool(
            [actor.remote(limits) for _ in range(count)],
            slots=settings.in_flight_per_worker,
            patience_s=settings.start_patience_s,
            none_can_join=none_can_join,
        )

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


def places(resource: str, share: float) -> int:
    """How many actors fit on the nodes there are; none lies on two nodes, or on two GPUs in part.

    Args:
        resource: `CPU` or `GPU`.
        share: what one takes of it.
    """
    import ray  # noqa: PLC0415

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    there = [float(node["Resources"].get(resource, 0.0)) for node in nodes if node["Alive"]]
    if resource == "GPU" and share < 1:
        return sum(int(count) * int(1 / share + 1e-9) for count in there)
    return sum(int(count / share + 1e-9) for count in there)
