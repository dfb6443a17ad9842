"""A job's tasks in this process, one after another, without Ray; with faults where a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import pytest

from curation.engine.tasks import Outcome, Task
from manifests.errors import TwinreelError

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
    """Takes the place of `curation.engine.engine.Engine` for stages that need no model.

    Args:
        fault: asked before every task.
    """

    def __init__(self, fault: Fault = no_fault) -> None:
        self.fault = fault
        self.notes: list[str] = []
        self.subjects: list[tuple[str, str]] = []
        """Function (without its module) and file of every task that was run."""

    def __call__(self, *settings: object) -> InProcessEngine:
        """As the class is called by a job."""
        return self

    def __enter__(self) -> InProcessEngine:
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


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> InProcessEngine:
    """Runs the tasks of all jobs of a test."""
    engine = InProcessEngine()
    monkeypatch.setattr("curation.curate.Engine", engine)
    return engine
