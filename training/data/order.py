"""In which order samples are trained on: a pure function of seed, epoch and the samples' ids.

Nothing here depends on how many ranks there are, so that a run goes on with any number of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from training.data.samples import KeptSample
from training.objective.keys import key, uniform
from training.objective.tasks import TASKS, TaskName


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
    """What samples of a micro-step have in common.

    Attributes:
        frames: that are used; 0 without video.
        height: rows that are used.
        width: columns that are used.
        audio_samples: of the waveform; 0 without audio.
    """

    frames: int
    height: int
    width: int
    audio_samples: int


@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """What all ranks together train on in one step: one shape, one task."""

    shape: Shape
    task: TaskName
    samples: tuple[KeptSample, ...]

    def share(self, rank: int, ranks: int) -> list[tuple[KeptSample, float]]:
        """A rank's samples with their weights, equally many on each rank.

        A rank that would have fewer repeats one of the batch with weight 0: it must walk through
        the same layers as the others, or they would wait for it forever.
        """
        count = -(-len(self.samples) // ranks)
        own = [(sample, 1.0) for sample in self.samples[rank::ranks]]
        return own + [(self.samples[0], 0.0)] * (count - len(own))


def epoch_batches(
    samples: Sequence[KeptSample],
    shape_of: Callable[[KeptSample], Shape],
    *,
    tasks: Mapping[TaskName, float],
    batch: int,
    seed: int,
    epoch: int,
) -> list[GlobalBatch]:
    """Cut an epoch into batches of one shape and one task, each sample in exactly one.

    Samples are sorted by a hash of (seed, epoch, id): leaving a sample out leaves the order of the
    others as it was. The last batch of a shape may be smaller.

    Args:
        samples: the epoch's samples; those that no task can use are left out.
        shape_of: the shape that a sample is brought to.
        tasks: weight of each task; a batch draws among those that its shape allows.
        batch: samples of all ranks together.
        seed: of the run.
        epoch: counted from 0.
    """
    buckets: dict[Shape, list[KeptSample]] = {}
    for sample in sorted(samples, key=lambda one: key("order", seed, epoch, one.sample_id)):
        buckets.setdefault(shape_of(sample), []).append(sample)
    batches = []
    for shape, members in sorted(buckets.items()):
        possible = {name: weight for name, weight in tasks.items() if can_do(name, shape)}
        if not possible:
            continue
        for start in range(0, len(members), batch):
            number = start // batch
            task = _draw(possible, uniform("task", seed, epoch, shape, number))
            batches.append(GlobalBatch(shape, task, tuple(members[start : start + batch])))
    return sorted(batches, key=lambda one: key("batch", seed, epoch, one.samples[0].sample_id))


def can_do(task: TaskName, shape: Shape) -> bool:
    """Whether samples of this shape have what the task needs."""
    needs = TASKS[task]
    return (needs.video is None or shape.frames > 0) and (
        needs.audio is None or shape.audio_samples > 0
    )


def _draw(weights: Mapping[TaskName, float], at: float) -> TaskName:
    total = sum(weights.values())
    for name, weight in sorted(weights.items()):
        at -= weight / total
        if at < 0:
            return name
    return max(weights)


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is in its data: `batch` batches of `epoch` are done."""

    epoch: int = 0
    batch: int = 0


def endless(
    epoch_of: Callable[[int], list[GlobalBatch]], start: Position
) -> Iterator[tuple[GlobalBatch, Position]]:
    """Batches from a position on, epoch after epoch, each with the position after it.

    Args:
        epoch_of: the batches of an epoch; each epoch has some.
        start: what is done already.
    """
    epoch, done = start.epoch, start.batch
    while True:
        batches = epoch_of(epoch)
        for index in range(done, len(batches)):
            last = index + 1 == len(batches)
            after = Position(epoch + 1, 0) if last else Position(epoch, index + 1)
            yield batches[index], after
        epoch, done = epoch + 1, 0
