"""Ray Data's actor pool against the engine's own pool, on the same units of the same bucket.

    python -m benchmarks.engine BUCKET [--nodes 1|2] [--repeat N]

Prints wall time, units per second, the peak resident memory of all Ray processes and children, and
how many units each worker got. Both sides run the same killable child; Ray is started before the
clock. With `--nodes 2` a second Ray node process of one CPU joins on this machine.
"""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from curation.config import JobConfiguration, load_configuration
from curation.engine.child import KillableChild
from curation.engine.engine import Engine
from curation.engine.tasks import Task
from curation.inputs import list_inputs
from curation.phases.decode import plan_units
from curation.resolve import resolve
from manifests.errors import TwinreelError
from stages.media.probe import probe
from stages.run.unit import UnitTask, measure_unit

WORKERS = 2


def measure_and_tell(task: UnitTask) -> dict[str, Any]:
    """`measure_unit`, saying in which process it ran."""
    result = measure_unit(task)
    return {"worker": os.getppid(), "rows": pickle.dumps(result.rows)}


class DataWorker:
    """What Ray Data's pool calls: the engine's worker in its interface."""

    def __init__(self) -> None:
        self._child = KillableChild(stall_s=60, memory_mb=3072)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Measure one unit."""
        task = pickle.loads(row["task"])
        try:
            found = self._child.call_by_name(
                "benchmarks.engine:measure_and_tell", task, subject=task.uri
            )
            assert isinstance(found, dict)
            return {"worker": found["worker"], "rows": found["rows"]}
        except TwinreelError:
            return {"worker": os.getpid(), "rows": b""}


def unit_tasks(bucket: str, configuration: JobConfiguration) -> list[UnitTask]:
    """The bucket's units, longest first, as a job would queue them."""
    resolved = resolve(configuration)
    tasks = []
    for file in list_inputs([bucket], configuration.inputs.skip_suffixes).files:
        try:
            source = probe(file.uri)
        except TwinreelError:
            continue
        row = {"source_id": file.source_id, "duration_s": source.duration_s, "spans": []}
        for unit in plan_units(row, configuration.decode.unit_s):
            tasks.append(
                UnitTask(
                    file.source_id,
                    file.uri,
                    source,
                    unit.unit_index,
                    unit.start_s,
                    unit.end_s,
                    unit.open_start,
                    unit.open_end,
                    {name: resolved.calls[name] for name in resolved.signal_stages},
                    resolved.unit,
                    1,
                    0.1,
                )
            )
    return sorted(tasks, key=lambda task: task.start_s - task.end_s)


def with_pool(tasks: list[UnitTask], configuration: JobConfiguration) -> Iterator[int]:
    """The engine's pool; yields the worker of every unit."""
    with Engine(configuration.engine, configuration.decode, None) as engine:
        for outcome in engine.run(Task(measure_and_tell, task, task.uri) for task in tasks):
            yield -1 if outcome.error is not None else outcome.result["worker"]


def with_ray_data(tasks: list[UnitTask]) -> Iterator[int]:
    """Ray Data's actor pool, one block a unit, streamed."""
    rows = ray.data.from_items(
        [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
    )
    pool = ray.data.ActorPoolStrategy(size=WORKERS)
    for row in rows.map(DataWorker, compute=pool, num_cpus=0.9).iter_rows():
        yield row["worker"]


class MemoryWatch:
    """Peak of the resident memory of this process and all below it, shared pages counted once."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            total = 0
            for process in psutil.process_iter():
                try:
                    if any(
                        word in " ".join(process.cmdline())
                        for word in ("ray", "curation.engine.child")
                    ):
                        total += process.memory_full_info().pss
                except (psutil.Error, OSError):
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)


def main() -> None:
    """Run both sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bucket")
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    configuration = load_configuration(None, None, [f"engine.workers={WORKERS}"])
    tasks = unit_tasks(arguments.bucket, configuration)
    cluster = None
    if arguments.nodes == 2:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
    else:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    print(f"{len(tasks)} units, {arguments.nodes} node(s), {WORKERS} workers")
    print("| engine | wall s | units/s | peak MB (all Ray processes) | units by worker |")
    print("|---|---|---|---|---|")
    for _ in range(arguments.repeat):
        for name in ("pool", "ray data"):
            start = time.perf_counter()
            with MemoryWatch() as memory:
                runs = with_pool(tasks, configuration) if name == "pool" else with_ray_data(tasks)
                by_worker = collections.Counter(runs)
            wall = time.perf_counter() - start
            shares = sorted(by_worker.values(), reverse=True)
            rate = len(tasks) / wall
            print(f"| {name} | {wall:.1f} | {rate:.2f} | {memory.peak_mb:.0f} | {shares} |")
    ray.shutdown()
    if cluster is not None:
        cluster.shutdown()


if __name__ == "__main__":
    main()
