"""In which order samples are trained on: a pure function of seed, epoch and the samples' ids.

Nothing here depends on how many ranks there are, so that a run goes on with any number of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from training.data.sample_table import ORDER_KEY, SampleTable
from training.data.samples import KeptSample
from training.objective.keys import mixed, uniform
from training.objective.tasks import TASKS, TaskName

_SIZES = ("frames", "fps", "width", "height", "audio_rate_hz", "audio_samples")
"""The columns of samples that a shape may follow from."""


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
    """What samples of a micro-step have in common.

    Attributes:
        frames: that are used; 0 without video.
        height: rows that are used.
        width: columns that are used.
        audio_samples: that are used of a waveform that has them; 0 without audio. Waveforms that
            differ by less than a latent are of one shape, and each is read as long as it is.
    """

    frames: int
    height: int
    width: int
    audio_samples: int


@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """What all ranks together train on in one step: one shape, one task.

    Attributes:
        shape: that the samples are brought to.
        task: what is generated and what is given.
        samples: all ranks' together.
        indices: of the samples in their table, where they are of one.
    """

    shape: Shape
    task: TaskName
    samples: tuple[KeptSample, ...]
    indices: tuple[int, ...] = ()

    def share(self, rank: int, ranks: int) -> list[tuple[KeptSample, float]]:
        """A rank's samples with their weights, equally many on each rank.

        A rank that would have fewer repeats one of the batch with weight 0: it must walk through
        the same layers as the others, or they would wait for it forever.
        """
        count = -(-len(self.samples) // ranks)
        own = [(sample, 1.0) for sample in self.samples[rank::ranks]]
        return own + [(self.samples[0], 0.0)] * (count - len(own))


@dataclasses.dataclass(frozen=True)
class SampleShapes:
    """The shapes that samples are brought to.

    Attributes:
        shapes: all of them, sorted.
        of_sample: [samples] which of them is a sample's.
    """

    shapes: tuple[Shape, ...]
    of_sample: npt.NDArray[np.int32]

    @classmethod
    def of(cls, samples: SampleTable, shape_of: Callable[[KeptSample], Shape]) -> SampleShapes:
        """The shapes of samples; `shape_of` is asked once for all that are alike.

        Args:
            samples: any.
            shape_of: the shape that a sample is brought to, by nothing but its sizes and rates.
        """
        alike = np.zeros(len(samples), np.int64)
        for column in _SIZES:
            _, codes = np.unique(samples.numbers(column), return_inverse=True)
            _, alike = np.unique(
                alike * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True
            )
        _, first = np.unique(alike, return_index=True)
        found = [shape_of(samples[int(index)]) for index in first]
        shapes = sorted(set(found))
        place = {shape: index for index, shape in enumerate(shapes)}
        of_kind = np.array([place[shape] for shape in found], np.int32)
        return cls(tuple(shapes), of_kind[alike])


class Epoch(Sequence[GlobalBatch]):
    """An epoch cut into batches of one shape and one task, each made when it is asked for.

    Each sample is in exactly one. Samples are sorted by a hash of (seed, epoch, id): leaving one
    out leaves the order of the others as it was. The last batch of a shape may be smaller.

    Args:
        samples: the epoch's; those that no task can use are left out.
        shapes: of the samples.
        tasks: weight of each task; a batch draws among those that its shape allows.
        batch: samples of all ranks together.
        seed: of the run.
        number: the epoch's, from 0.
    """

    def __init__(
        self,
        samples: SampleTable,
        shapes: SampleShapes,
        *,
        tasks: Mapping[TaskName, float],
        batch: int,
        seed: int,
        number: int,
    ) -> None:
        self._samples, self._shapes, self._tasks = samples, shapes.shapes, tasks
        self._seed, self._number = seed, number
        ids = samples.numbers(ORDER_KEY).astype(np.uint64, copy=False)
        usable = np.array(
            [any(can_do(task, shape) for task in tasks) for shape in shapes.shapes], bool
        )
        indices = np.flatnonzero(usable[shapes.of_sample]).astype(np.int32)
        indices = indices[np.argsort(mixed(ids[indices], "order", seed, number), kind="stable")]
        kinds = shapes.of_sample[indices]
        by_shape = np.argsort(kinds, kind="stable")
        self._indices, kinds = indices[by_shape], kinds[by_shape]
        # Of each shape the first of every `batch` samples begins one.
        begins = np.searchsorted(kinds, kinds, side="left")
        place = np.arange(len(kinds)) - begins
        starts = np.flatnonzero(place % batch == 0)
        shuffled = np.argsort(mixed(ids[self._indices[starts]], "batch", seed, number))
        self._starts = starts[shuffled]
        self._ends = np.append(starts, len(kinds))[1:][shuffled]
        self._kinds = kinds[self._starts]
        self._numbers = (place // batch)[self._starts]

    @property
    def sample_count(self) -> int:
        """Samples in all batches."""
        return len(self._indices)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> GlobalBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[GlobalBatch]: ...
    def __getitem__(self, index: int | slice) -> GlobalBatch | list[GlobalBatch]:
        """A batch, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        shape = self._shapes[self._kinds[index]]
        members = self._indices[self._starts[index] : self._ends[index]].tolist()
        possible = {name: weight for name, weight in self._tasks.items() if can_do(name, shape)}
        at = uniform("task", self._seed, self._number, shape, int(self._numbers[index]))
        return GlobalBatch(
            shape,
            _draw(possible, at),
            tuple(self._samples[member] for member in members),
            tuple(members),
        )


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
    epoch_of: Callable[[int], Sequence[GlobalBatch]], start: Position
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
