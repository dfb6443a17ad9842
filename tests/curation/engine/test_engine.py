"""Tasks on Ray: every one has its outcome, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile

from curation.config import DecodeSettings, EngineSettings
from curation.engine.engine import Engine
from curation.engine.pool import Pool
from curation.engine.tasks import Outcome, Task
from manifests.errors import TwinreelError
from stages.base.contract import ClipTask, StageCall
from stages.media.probe import probe
from stages.registry import build_clip_stage
from stages.run.clip import ClipMeasurement, measure_clip
from tests.support import misbehaviour

Make = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    engines: list[Engine] = []

    def make(**settings: float) -> Engine:
        engines.append(Engine(EngineSettings.model_validate(settings), DecodeSettings(), "local"))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def doubles(count: int) -> list[Task[Any]]:
    return [Task(misbehaviour.double, number, f"{number}.mp4") for number in range(count)]


def results(outcomes: Iterator[Outcome]) -> list[object]:
    found = list(outcomes)
    assert [outcome.error for outcome in found] == [None] * len(found)
    return sorted(outcome.result for outcome in found)


def test_workers_without_a_place_are_given_nothing(make: Make) -> None:
    engine = make(workers=(os.cpu_count() or 1) + 3)
    assert results(engine.run(doubles(40))) == [2 * number for number in range(40)]


def test_a_cluster_without_room_for_any_worker_is_named(make: Make) -> None:
    engine = make(workers=2, cpus_per_worker=512, start_patience_s=3)
    with pytest.raises(TwinreelError) as caught:
        list(engine.run(doubles(1)))
    assert caught.value.code == "workers_cannot_start"
    assert "engine.cpus_per_worker" in str(caught.value)


def test_a_worker_that_dies_costs_no_task(make: Make, tmp_path: Path) -> None:
    engine = make(workers=2)
    marker = str(tmp_path / "killed")
    tasks = [*doubles(10), Task(misbehaviour.take_the_worker_along, marker, "killer.mp4")]
    outcomes = {
        outcome.task.subject: outcome for outcome in engine.run([*tasks, *doubles(20)[10:]])
    }
    assert len(outcomes) == 21
    assert all(outcome.error is None for outcome in outcomes.values())
    assert outcomes["killer.mp4"].result == "done"


def test_tasks_may_bring_others(make: Make) -> None:
    waiting = doubles(1)

    class Queue(Iterator[Task]):
        def __next__(self) -> Task:
            if not waiting:
                raise StopIteration
            return waiting.pop()

    found = []
    for outcome in make(workers=1).run(Queue()):
        found.append(outcome.result)
        if len(found) < 5:
            waiting.append(Task(misbehaviour.double, outcome.result or 1, "next.mp4"))
    assert found == [0, 2, 4, 8, 16]


def test_what_a_worker_cannot_do_says_why(make: Make) -> None:
    [outcome] = make(workers=1).run([Task(misbehaviour.double, lambda: None, "odd.mp4")])
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.subject) == ("worker_failed", "odd.mp4")
    assert "pickle" in str(outcome.error)
    assert not outcome.error.retryable


class SlowTagger:
    """Says speech of everything, in its own time."""

    rate_hz = 16_000
    labels: ClassVar[Sequence[str]] = ("Speech",)

    def tag(self, sounds: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        time.sleep(0.1 * len(sounds))
        return np.ones((len(sounds), 1), np.float32)


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A cluster's address, and what takes one of its nodes away."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address, lambda: cluster.remove_node(node, allow_graceful=False)
    finally:
        cluster.shutdown()


def test_a_node_that_is_lost_costs_no_task() -> None:
    tasks = [Task(misbehaviour.slow_but_moving, 0.2, f"{one}.mp4") for one in range(60)]
    found = []
    with (
        two_nodes() as (address, lose_node),
        Engine(EngineSettings(), DecodeSettings(), address) as engine,
    ):
        for outcome in engine.run(tasks):
            found.append(outcome)
            if len(found) == 10:
                assert engine.workers == 2
                lose_node()
    assert len(found) == 60
    assert [outcome.error for outcome in found] == [None] * 60


def lose_results(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Have the first results be gone when they are fetched, as with a node that held them.

    Ray has no call that loses an object, so its error is raised in the place of `ray.get`.
    """
    import ray

    wait, get = Pool.wait, ray.get
    lost: list[Any] = []

    def losing_wait(pool: Pool, running: Collection[Any], *others: Pool) -> list[Any]:
        done = wait(pool, running, *others)
        lost.extend(done[: count - len(lost)])
        return done

    def losing_get(reference: Any) -> Any:
        if reference in lost:
            raise ray.exceptions.ObjectLostError(reference.hex(), None, "")
        return get(reference)

    monkeypatch.setattr(Pool, "wait", losing_wait)
    monkeypatch.setattr(ray, "get", losing_get)
    return lost


def test_results_that_are_gone_before_they_are_fetched_are_made_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(workers=2)
    lost = lose_results(monkeypatch, 3)
    assert results(engine.run(doubles(8))) == [2 * number for number in range(8)]
    assert len(lost) == 3


def test_what_a_lost_node_had_prepared_for_a_model_is_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "noise.wav")
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000 * 4), 16_000)
    parameters = {"backend": f"{__name__}:SlowTagger", "enabled": True}
    backend = build_clip_stage("audio_class", parameters, None).backend
    call = StageCall("audio_class", json.dumps(parameters), backend, "fingerprint")
    source = probe(path)
    clips = [ClipTask(f"clip-{one}", path, source, 0.0, 4.0, {}) for one in range(60)]
    tasks = [Task(measure_clip, ClipMeasurement(call, one), path) for one in clips]
    found = []
    with (
        two_nodes() as (address, lose_node),
        Engine(EngineSettings(), DecodeSettings(), address) as engine,
    ):
        lost = lose_results(monkeypatch, 3)
        for outcome in engine.run_model(tasks, call):
            found.append(outcome)
            if len(found) == 8:
                lose_node()
    assert len(lost) == 3
    assert [outcome.error for outcome in found] == [None] * 60
    assert {outcome.task.argument.clip.clip_id for outcome in found} == {
        clip.clip_id for clip in clips
    }
