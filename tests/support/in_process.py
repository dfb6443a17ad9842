"""A job's tasks without Ray, one after another: in this process, or in a child of it.

With faults where a test wants them. What Ray adds (actors, lost nodes, batches of clips on their
way to a model) is the subject of `tests/curation/engine/` and of the jobs that run as a command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self
from unittest import mock

import pytest

from curation.config import DecodeSettings, EngineSettings
from curation.engine.child import name_of
from curation.engine.tasks import Outcome, Task
from curation.engine.worker import Worker
from manifests.errors import TwinreelError
from stages.base.contract import StageCall
from stages.run.clip import ForModel, LoadedStage

Fault = Callable[[Task[Any]], None]
"""Raises what a task is to fail with."""


def no_fault(task: Task[Any]) -> None:
    """Lets every task do its work."""


def run_tasks(tasks: Iterable[Task[Any]], begun: Fault = no_fault) -> Iterator[Outcome]:
    """Runs tasks where they are, one after another; `begun` is told of each and may fail it."""
    for task in tasks:
        try:
            begun(task)
            result = task.function(task.argument)
        except TwinreelError as error:
            yield Outcome(task, None, error)
        else:
            yield Outcome(task, result, None)


class InProcessEngine:
    """Takes the place of `curation.engine.engine.Engine`.

    Args:
        fault: asked before every task.
    """

    def __init__(self, fault: Fault = no_fault) -> None:
        self.fault = fault
        self.notes: list[str] = []
        self.subjects: list[tuple[str, str]] = []
        """Function (without its module) and file of every task that was run."""

    def __call__(
        self, settings: EngineSettings, decode: DecodeSettings, address: str | None
    ) -> Self:
        """As the class is called by a job."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def run(self, tasks: Iterable[Task[Any]]) -> Iterator[Outcome]:
        """The outcomes in the tasks' order."""

        def begun(task: Task[Any]) -> None:
            self.subjects.append((task.function.__name__, task.subject.rpartition("/")[2]))
            self.fault(task)

        return run_tasks(tasks, begun)

    def run_model(self, tasks: Iterable[Task[Any]], model: StageCall) -> Iterator[Outcome]:
        """The same for clips that a model has to see, one at a time.

        Raises:
            UsageError: the model cannot be had.
        """
        loaded: LoadedStage | None = None
        for outcome in self.run(tasks):
            if not isinstance(outcome.result, ForModel):
                yield outcome
                continue
            loaded = loaded or LoadedStage(model)
            [found] = loaded.infer([outcome.result.prepared])
            failed = isinstance(found, TwinreelError)
            yield Outcome(outcome.task, *((None, found) if failed else (found, None)))


class ChildEngine(InProcessEngine):
    """Runs tasks in a process that may crash, hang and be killed, as each of Ray's workers does."""

    def __call__(
        self, settings: EngineSettings, decode: DecodeSettings, address: str | None
    ) -> Self:
        self._worker: Worker | None = Worker(decode.stall_s, decode.memory_mb, decode.retries)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Its process ends with the connection to it.
        self._worker = None

    def run(self, tasks: Iterable[Task[Any]]) -> Iterator[Outcome]:
        """The outcomes in the tasks' order."""
        for task in tasks:
            assert self._worker is not None
            yield Outcome(
                task, *self._worker.run(name_of(task.function), task.argument, task.subject)
            )


@contextlib.contextmanager
def jobs_by(engine: InProcessEngine) -> Iterator[InProcessEngine]:
    """Has all jobs that begin meanwhile run their tasks so."""
    with mock.patch("curation.curate.Engine", engine):
        yield engine


@pytest.fixture
def engine() -> Iterator[InProcessEngine]:
    """Runs the tasks of all jobs of a test."""
    with jobs_by(InProcessEngine()) as engine:
        yield engine


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs end without `report.html` and its clips: for what runs many jobs about other things."""
    monkeypatch.setattr("curation.curate.write_job_report", lambda *_, **__: None)
