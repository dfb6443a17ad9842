"""Actors of which some are of no use on their node, without Ray: the others do the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from curation.config import DecodeSettings, EngineSettings
from curation.engine.engine import Engine
from curation.engine.pool import Pool
from curation.engine.tasks import Outcome, Task
from manifests.errors import TwinreelError, UsageError
from stages.base.backends import Backend
from stages.base.contract import StageCall

LACKS_WEIGHTS = UsageError("other_weights", "They are others (on node-2).", retryable=True)
BAD_WEIGHTS = UsageError("bad_weights", "They are no weights.")
MODEL = StageCall("sync", "{}", Backend("syncnet"), "fingerprint")


class Reference:
    """A call's result, or what it raises."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call


class Method:
    """A method of an actor."""

    def __init__(self, function: Callable[..., Any], results: int = 1) -> None:
        self._function, self._results = function, results

    def options(self, num_returns: int) -> Method:
        return Method(self._function, num_returns)

    def remote(self, *arguments: Any) -> Any:
        if self._results == 1:
            return Reference(lambda: self._function(*arguments))
        found = self._function(*arguments)
        return tuple(Reference(lambda one=one: one) for one in found)


class Decoder:
    """A worker; every second clip needs no model."""

    def __init__(self) -> None:
        self.ready = Method(lambda: None)
        self.prepare = Method(self._prepare)

    def _prepare(self, function: str, number: int, subject: str) -> Any:
        if number % 2:
            return (None, "not applicable", None), None
        return (1.0, None, None), number


class Model:
    """A model's process.

    Args:
        *answers: what `ready` returns, in turn, the last one from then on.
        lasts: how many batches it answers before it is started again and lacks its weights.
    """

    def __init__(self, *answers: TwinreelError | None, lasts: int = 1000) -> None:
        self._answers = list(answers)
        self._lasts = lasts
        self.seen: list[int] = []
        self.ready = Method(self._ready)
        self.infer = Method(self._infer)

    def _ready(self) -> TwinreelError | None:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def _infer(self, *batch: Reference) -> list[str]:
        import ray

        if not self._lasts:
            raise ray.exceptions.RayTaskError("infer", "", LACKS_WEIGHTS)
        self._lasts -= 1
        self.seen += [reference.call() for reference in batch]
        return ["measured"] * len(batch)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def wait(references: Sequence[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [references[0]], list(references[1:])

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda reference: reference.call())
    monkeypatch.setattr(ray, "kill", lambda actor: None)


Run = Callable[..., tuple[list[Outcome], Engine]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a stage's model on eight clips; the outcomes, and the engine."""

    def none_can_join(said: str) -> TwinreelError:
        return TwinreelError("workers_cannot_start", said)

    def run(*models: Model) -> tuple[list[Outcome], Engine]:
        settings = EngineSettings(batch_clips=2, model_workers=len(models))
        engine = Engine(settings, DecodeSettings(), None)
        engine._pool = Pool([Decoder()], slots=2, patience_s=60, none_can_join=none_can_join)
        made = iter(models)
        monkeypatch.setattr("curation.engine.engine.places", lambda *_: 0)
        monkeypatch.setattr("ray.remote", lambda **_: lambda kind: Maker(lambda call: next(made)))
        tasks = [Task(abs, one, f"{one}.mp4") for one in range(8)]
        return list(engine.run_model(tasks, MODEL)), engine

    yield run


@dataclasses.dataclass
class Maker:
    remote: Callable[[Any], Model]


@pytest.mark.soak
def test_a_model_that_one_node_lacks_leaves_the_work_to_the_others(run: Run) -> None:
    lacking, there = Model(LACKS_WEIGHTS), Model(None)
    for models in ((lacking, there), (there, lacking)):
        outcomes, engine = run(*models)
        assert len(outcomes) == 8
        assert all(outcome.error is None for outcome in outcomes)
        assert lacking.seen == []
        [note] = engine.notes
        assert "1 of 2" in note and "'sync'" in note and "node-2" in note


def test_a_model_that_all_nodes_lack_ends_its_stage_and_not_the_job(run: Run) -> None:
    outcomes, engine = run(Model(LACKS_WEIGHTS), Model(LACKS_WEIGHTS))
    assert all(outcome.result == "not applicable" for outcome in outcomes)
    [note] = engine.notes
    assert "'sync'" in note and "other_weights" in note and "next run" in note


def test_what_was_measured_before_the_last_model_went_is_kept(run: Run) -> None:
    outcomes, engine = run(Model(None, lasts=1))
    assert [outcome.result for outcome in outcomes].count("measured") == 2
    assert all(outcome.error is None for outcome in outcomes)
    assert len(engine.notes) == 1


def test_a_model_that_is_lost_on_the_way_leaves_its_batch_to_the_others(run: Run) -> None:
    outcomes, engine = run(Model(None, lasts=0), Model(None))
    assert len(outcomes) == 8
    assert sum(outcome.result == "measured" for outcome in outcomes) == 4
    assert len(engine.notes) == 1


def test_weights_that_are_no_weights_stop_the_stage_before_its_work(run: Run) -> None:
    with pytest.raises(UsageError, match="bad_weights"):
        run(Model(BAD_WEIGHTS))


def test_weights_that_are_bad_on_one_node_only_leave_the_work_to_the_others(run: Run) -> None:
    outcomes, engine = run(Model(None), Model(BAD_WEIGHTS))
    assert len(outcomes) == 8
    assert len(engine.notes) == 1
