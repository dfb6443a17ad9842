"""Tasks on Ray: every one has its outcome, whatever becomes of the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from curation.config import DecodeSettings, EngineSettings
from curation.engine.engine import Engine
from curation.engine.tasks import Outcome, Task
from manifests.errors import TwinreelError
from tests.support import misbehaviour
from tests.support.ray_faults import lose_results

Make = Callable[..., Engine]


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def make(one_ray: None) -> Iterator[Make]:
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


@pytest.mark.soak
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


def test_results_that_are_gone_before_they_are_fetched_are_made_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(workers=2)
    lost = lose_results(monkeypatch, 3)
    assert results(engine.run(doubles(8))) == [2 * number for number in range(8)]
    assert len(lost) == 3
