"""Epochs: every sample once, in an order that depends on names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from training.data.order import Epoch, GlobalBatch, Position, SampleShapes, Shape, endless
from training.data.sample_table import SampleTable
from training.data.samples import KeptSample
from training.objective.tasks import TaskName

WIDE, TALL, SILENT = Shape(9, 8, 16, 100), Shape(9, 16, 8, 100), Shape(9, 8, 16, 0)
TASKS: dict[TaskName, float] = {"t2av": 0.5, "t2v": 0.5}


def sample(index: int) -> KeptSample:
    name = f"s{index:03d}"
    shape = (WIDE, WIDE, WIDE, TALL, SILENT)[index % 5]
    return KeptSample(
        name, name, "shard.tar", 0, 1, "", 9, 24.0, shape.width, shape.height,
        16_000 if shape.audio_samples else None, shape.audio_samples or None, "train",
        f"words {index}",
    )  # fmt: skip


def shape_of(one: KeptSample) -> Shape:
    return Shape(one.frames, one.height, one.width, one.audio_samples or 0)


def plan(
    samples: Sequence[KeptSample],
    epoch: int = 0,
    tasks: dict[TaskName, float] = TASKS,
    batch: int = 4,
) -> Epoch:
    table = SampleTable.of(samples)
    shapes = SampleShapes.of(table, shape_of)
    return Epoch(table, shapes, tasks=tasks, batch=batch, seed=1, number=epoch)


def ids(batches: Sequence[GlobalBatch]) -> list[str]:
    return [one.sample_id for batch in batches for one in batch.samples]


def test_an_epoch_has_every_sample_once_and_batches_of_one_shape() -> None:
    samples = [sample(index) for index in range(53)]
    batches = plan(samples)
    assert sorted(ids(batches)) == [one.sample_id for one in samples]
    for batch in batches:
        assert {shape_of(one) for one in batch.samples} == {batch.shape}
        assert len(batch.samples) <= 4
        if batch.shape == SILENT:
            assert batch.task == "t2v"
    assert {batch.task for batch in batches if batch.shape == WIDE} == {"t2av", "t2v"}


def test_the_order_is_the_same_again_and_another_in_the_next_epoch() -> None:
    samples = [sample(index) for index in range(53)]
    batches = [(one.task, one.samples) for one in plan(samples)]
    assert batches == [(one.task, one.samples) for one in plan(samples[::-1])]
    assert ids(plan(samples)) != ids(plan(samples, epoch=1))


def test_a_sample_that_leaves_does_not_stir_the_others() -> None:
    samples = [one for one in map(sample, range(60)) if shape_of(one) == WIDE]
    whole, less = plan(samples, batch=100), plan(samples[1:], batch=100)
    gone = samples[0].sample_id
    assert [name for name in ids(whole) if name != gone] == ids(less)


def test_samples_that_no_task_can_use_are_left_out() -> None:
    batches = plan([sample(index) for index in range(10)], tasks={"t2av": 1.0})
    assert batches.sample_count == 8
    assert SILENT not in {batch.shape for batch in batches}
    assert len(ids(batches)) == 8


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_ranks_share_a_batch_and_hold_equally_many(ranks: int) -> None:
    batch = GlobalBatch(WIDE, "t2av", tuple(sample(index) for index in range(5)))
    shares = [batch.share(rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    counted = Counter(one.sample_id for share in shares for one, weight in share if weight)
    assert counted == Counter(one.sample_id for one in batch.samples)
    assert {weight for share in shares for _, weight in share} <= {0.0, 1.0}


def test_a_position_is_enough_to_go_on() -> None:
    samples = [sample(index) for index in range(23)]
    walk = endless(lambda epoch: plan(samples, epoch), Position())
    steps = [next(walk) for _ in range(25)]
    for done in (0, 3, 11, 17):
        after = steps[done - 1][1] if done else Position()
        again = endless(lambda epoch: plan(samples, epoch), after)
        assert [next(again) for _ in range(25 - done)] == steps[done:]
