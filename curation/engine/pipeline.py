"""Clips on their way through decoding workers and then, in batches, through a model.

Both sides work at once. What lies between them is bounded, in clips and in megabytes, and moves
from worker to worker without passing through this process.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

from curation.config import EngineSettings
from curation.engine.pool import Pool
from curation.engine.tasks import (
    RESUBMITS,
    Attempt,
    Outcome,
    Task,
    actor_lost,
    comes_back,
    failure_of,
    result_lost,
)
from manifests.errors import TwinreelError


class NoModelError(TwinreelError):
    """None of the processes that should hold a model can be had, now or later."""


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Attempts whose arrays lie ready for a model."""

    attempts: list[Attempt]
    arrays: list[Any]
    tries: int = 0
    avoid: int | None = None


class Pipeline:
    """Tasks through preparing workers and then models.

    Args:
        tasks: calls of `stages.run.clip.measure_clip`.
        workers: of `curation.engine.worker.Worker`.
        models: of `curation.engine.worker.ModelWorker`.
        settings: bounds of batches.
    """

    def __init__(
        self, tasks: Iterator[Task[Any]], workers: Pool, models: Pool, settings: EngineSettings
    ) -> None:
        self._tasks = tasks
        self._workers, self._models = workers, models
        self._batch_clips, self._batch_mb = settings.batch_clips, settings.batch_mb
        # Enough for every model to find its next batch ready, and no more.
        self._most_prepared = 2 * settings.batch_clips * len(models)
        self._most_mb = 2 * settings.batch_mb * len(models)
        self._again: collections.deque[Attempt] = collections.deque()
        self._preparing: dict[Any, tuple[int, Attempt, Any]] = {}
        self._prepared: collections.deque[tuple[Attempt, Any, float]] = collections.deque()
        self._prepared_mb = 0.0
        self._batches: collections.deque[_Batch] = collections.deque()
        self._inferring: dict[Any, tuple[int, _Batch]] = {}
        self._exhausted = False
        self.gave_up: NoModelError | None = None
        """Why `run` ended before its tasks did."""

    def run(self) -> Iterator[Outcome]:
        """The outcomes as they come.

        Tasks that no model is left for have none: nothing is known of their clips.

        Raises:
            TwinreelError: no worker can be had, or a model refuses what it is given for good.
        """
        while True:
            self._prepare_more()
            self._infer_more()
            under_way = [*self._preparing, *self._inferring]
            if not under_way and self._exhausted and not self._left():
                return
            try:
                done = self._models.wait(under_way, self._workers)
            except NoModelError as error:
                self.gave_up = error
                yield from self._without_models()
                return
            for reference in done:
                if reference in self._preparing:
                    yield from self._when_prepared(reference)
                else:
                    yield from self._when_inferred(reference)

    def _without_models(self) -> Iterator[Outcome]:
        """Outcomes of what is being prepared and turns out to need no model."""
        while self._preparing:
            for reference in self._workers.wait(self._preparing):
                yield from self._when_prepared(reference)

    def _left(self) -> bool:
        return bool(self._again or self._prepared or self._batches)

    def _prepare_more(self) -> None:
        while (
            self._workers.has_room
            and len(self._preparing) + len(self._prepared) < self._most_prepared
            and self._prepared_mb < self._most_mb
            and (attempt := self._next_attempt()) is not None
        ):
            index, worker = self._workers.take(attempt.avoid)
            envelope, arrays = worker.prepare.options(num_returns=2).remote(*attempt.call)
            self._preparing[envelope] = (index, attempt, arrays)

    def _next_attempt(self) -> Attempt | None:
        if self._again:
            return self._again.popleft()
        task = next(self._tasks, None)
        self._exhausted = task is None
        return None if task is None else Attempt(task)

    def _infer_more(self) -> None:
        no_more_come = self._exhausted and not self._preparing and not self._again
        while self._models.has_room and (batch := self._next_batch(no_more_come)) is not None:
            index, model = self._models.take(batch.avoid)
            self._inferring[model.infer.remote(*batch.arrays)] = (index, batch)

    def _next_batch(self, no_more_come: bool) -> _Batch | None:
        if self._batches:
            return self._batches.popleft()
        full = len(self._prepared) >= self._batch_clips or self._prepared_mb >= self._batch_mb
        if not self._prepared or not (full or no_more_come):
            return None
        batch, batch_mb = _Batch([], []), 0.0
        while self._prepared and len(batch.attempts) < self._batch_clips:
            attempt, arrays, megabytes = self._prepared[0]
            if batch.attempts and batch_mb + megabytes > self._batch_mb:
                break
            self._prepared.popleft()
            self._prepared_mb -= megabytes
            batch_mb += megabytes
            batch.attempts.append(attempt)
            batch.arrays.append(arrays)
        return batch

    def _when_prepared(self, reference: Any) -> Iterator[Outcome]:  # noqa: ANN401 - Ray's
        import ray  # noqa: PLC0415

        index, attempt, arrays = self._preparing.pop(reference)
        try:
            megabytes, result, error = ray.get(reference)
        except ray.exceptions.RayError as lost:
            if actor_lost(lost):
                self._workers.lost(index)
            else:
                self._workers.done(index)
            if comes_back(attempt, lost):
                self._again.append(attempt.again(avoid=index))
                return
            megabytes, result, error = None, None, failure_of(attempt.task, lost)
        else:
            self._workers.done(index)
        if megabytes is not None:
            self._prepared.append((attempt, arrays, megabytes))
            self._prepared_mb += megabytes
        else:
            yield Outcome(attempt.task, result, error)

    def _when_inferred(self, reference: Any) -> Iterator[Outcome]:  # noqa: ANN401 - Ray's
        import ray  # noqa: PLC0415

        index, batch = self._inferring.pop(reference)
        try:
            results: list[Any] = ray.get(reference)
        except ray.exceptions.RayError as lost:
            if isinstance(cause := getattr(lost, "cause", None), TwinreelError):
                # It was started again, on a node that lacks the model.
                self._models.leave_out(index, cause)
                self._batches.append(batch)
                return
            if actor_lost(lost):
                self._models.lost(index)
            else:
                self._models.done(index)
            yield from self._after_loss(index, batch, lost)
            return
        self._models.done(index)
        for attempt, result in zip(batch.attempts, results, strict=True):
            if isinstance(result, TwinreelError):
                yield Outcome(attempt.task, None, result)
            else:
                yield Outcome(attempt.task, result, None)

    def _after_loss(self, index: int, batch: _Batch, lost: Exception) -> Iterator[Outcome]:
        """Try again what a model did not answer; outcomes of what has been tried often enough."""
        for attempt, arrays in zip(batch.attempts, batch.arrays, strict=True):
            if result_lost(lost) and comes_back(attempt, lost):
                # The node that held arrays or results is gone: decode anew.
                self._again.append(attempt.again(avoid=None))
            elif actor_lost(lost) and batch.tries < RESUBMITS:
                # One clip may have brought the process down: on its own it costs only itself.
                self._batches.append(_Batch([attempt], [arrays], batch.tries + 1, avoid=index))
            else:
                yield Outcome(attempt.task, None, failure_of(attempt.task, lost))
