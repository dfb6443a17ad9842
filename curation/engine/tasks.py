"""A task, its attempts and its outcome; what an error of Ray's means for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from curation.engine.child import name_of
from curation.engine.pool import last_line
from manifests.errors import MediaError, TwinreelError, system_refuses

RESUBMITS = 3
"""How often a task is given to another worker after its own died."""


Argument = TypeVar("Argument")


@dataclasses.dataclass(frozen=True)
class Task(Generic[Argument]):
    """A call of `function`, which a module has at its top, about the file `subject`."""

    function: Callable[[Argument], object]
    argument: Argument
    subject: str


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A task that is to be tried: how often it was before, and which actor not to give it to."""

    task: Task[Any]
    tries: int = 0
    avoid: int | None = None

    @property
    def call(self) -> tuple[str, Any, str]:
        """What a worker's methods take."""
        return name_of(self.task.function), self.task.argument, self.task.subject

    def again(self, *, avoid: int | None) -> Attempt:
        """The next attempt."""
        return Attempt(self.task, self.tries + 1, avoid)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or the error that its file gets a row for."""

    task: Task[Any]
    result: Any
    error: TwinreelError | None


def actor_lost(error: Exception) -> bool:
    """Whether an actor or its node is to blame, and not what it was doing."""
    import ray  # noqa: PLC0415

    return not isinstance(error, ray.exceptions.RayTaskError) and not result_lost(error)


def result_lost(error: Exception) -> bool:
    """Whether a call was done and what it had left on its node has gone with it."""
    import ray  # noqa: PLC0415

    lost = ray.exceptions.ObjectLostError
    return isinstance(error, lost) or isinstance(getattr(error, "cause", None), lost)


def comes_back(attempt: Attempt, error: Exception) -> bool:
    """Whether a task is to be tried again: something was lost, and not too often yet."""
    return attempt.tries < RESUBMITS and (actor_lost(error) or result_lost(error))


def failure_of(task: Task[Any], error: Exception) -> MediaError:
    """The error that a task's file gets a row for, of an error of Ray's."""
    cause = getattr(error, "cause", None)
    if actor_lost(error) or result_lost(error) or cause is None:
        return MediaError(
            "worker_lost",
            f"The workers that took it died ({type(error).__name__}: {last_line(error)}).",
            subject=task.subject,
            remedy="Run the same command again; if it repeats, give the nodes more memory.",
            retryable=True,
        )
    return MediaError(
        "worker_failed",
        f"The worker could not do it ({type(cause).__name__}: {str(cause)[:300]}).",
        subject=task.subject,
        # What the system refuses (processes, memory, files) it may grant the next time.
        retryable=system_refuses(cause),
    )
