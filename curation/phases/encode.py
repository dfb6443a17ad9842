"""The phase `encode`: what a recipe's codecs and frozen text encoder make of the samples, stored.

Here and not in `training`, which may not know Ray: this plans, spreads and commits. What a latent
is called and how it is stored is `training`'s, which reads it (`training/data/latents.py`).
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from curation.engine.engine import Engine
from curation.engine.progress import Progress
from curation.engine.tasks import Task
from manifests.errors import TwinreelError, UsageError
from manifests.store.output import Output
from manifests.store.records import LatentRow
from training.data.encode import EncodingTask, LackingSample, encode_samples
from training.data.geometry import geometry_of
from training.data.latents import PARTS, LatentKeys, Latents
from training.data.order import Shape
from training.data.sample_table import SampleTable
from training.data.samples import KeptSample
from training.recipe import Recipe

_SAMPLES_A_TASK = 32
"""A shard's worth: about 400 MB of Ovi's latents, and a minute of a GPU that is lost by a kill."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What became of a data set's latents.

    Latents are counted, and captions, of which several samples may share one: those that were
    `there` before, those that this run has `encoded`, and those that `failed`, which the next run
    tries again. `errors` says why.
    """

    there: int
    encoded: int
    failed: int
    errors: list[str]


def encode(
    output: Output,
    engine: Engine,
    recipe: Recipe,
    splits: Sequence[SampleTable],
    *,
    batch: int,
) -> Encoded:
    """Encode what is lacking, and commit it task by task.

    Args:
        output: holds the samples and gets the latents.
        engine: runs the tasks.
        recipe: whose codecs and text encoder.
        splits: the data set's samples.
        batch: samples of one shape that are encoded at once.

    Raises:
        UsageError: `missing_package`, `missing_weights`, `bad_weights` or `nothing_to_encode`.
        StorageError: OUT cannot be read or written.
    """
    shape_of = geometry_of(recipe).shape_of
    keys = LatentKeys.of(recipe, splits, shape_of)
    if not keys.encoders:
        raise UsageError(
            "nothing_to_encode",
            "There are no samples, or this recipe's codecs and text encoder are fitted by each run"
            " or trained with the model.",
            subject=output.address,
            remedy="Encode for a recipe with a codec of its own weights or none; other recipes are"
            " trained without this.",
        )
    latents = Latents.find(output.address, keys)
    seen: dict[str, bool] = {}
    lacking = list(_lacking(latents, itertools.chain.from_iterable(splits), shape_of, seen))
    empty = keys.text_key("")
    empty_text = empty is not None and not seen.setdefault(empty, empty in latents)
    groups = [
        tuple(lacking[first : first + _SAMPLES_A_TASK])
        for first in range(0, len(lacking), _SAMPLES_A_TASK)
    ]
    if empty_text and not groups:
        groups = [()]
    queue = collections.deque(
        EncodingTask(output.address, recipe, keys, group, batch, empty_text and not index)
        for index, group in enumerate(groups)
    )
    rows: list[LatentRow] = []
    with Progress("encode", len(lacking), "samples") as progress:
        for outcome in engine.run(_tasks(queue)):
            task: EncodingTask = outcome.task.argument
            if outcome.error is not None and _is_nobodys_fault(outcome.error):
                raise outcome.error
            if outcome.error is not None and len(task.samples) > 1:
                # One of them may be to blame: each on its own.
                queue.extend(_apart(task))
                continue
            found = outcome.result or []
            if outcome.error is not None:
                if not task.samples:
                    raise outcome.error
                found = task.rows_of_failure(outcome.error)
            output.commit({"latents": found})
            rows += found
            bad = {row.sample_id for row in found if row.status == "failed"}
            for one in task.samples:
                progress.advance(failed=one.sample.sample_id in bad)
    return _summary(rows, sum(seen.values()))


def _tasks(queue: collections.deque[EncodingTask]) -> Iterator[Task[EncodingTask]]:
    while queue:
        task = queue.popleft()
        yield Task(encode_samples, task, task.out)


def _lacking(
    latents: Latents,
    samples: Iterable[KeptSample],
    shape_of: Callable[[KeptSample], Shape],
    seen: dict[str, bool],
) -> Iterator[LackingSample]:
    """What is to be encoded of each sample; a caption that several share, of the first alone.

    Args:
        latents: those that are there.
        samples: of the data set.
        shape_of: the shape that one is brought to.
        seen: gets every key, and whether its latent is there.
    """
    for sample in samples:
        shape, parts = shape_of(sample), []
        for part in PARTS:
            key = latents.keys.key(sample, shape, part)
            if key is None or key in seen:
                continue
            seen[key] = key in latents
            if not seen[key]:
                parts.append(part)
        if parts:
            yield LackingSample(sample, shape, tuple(parts))


def _apart(task: EncodingTask) -> Iterator[EncodingTask]:
    for index, one in enumerate(task.samples):
        yield dataclasses.replace(task, samples=(one,), empty_text=task.empty_text and index == 0)


def _is_nobodys_fault(error: TwinreelError) -> bool:
    """Whether no sample is to blame: what is missing is missing for all of them."""
    return error.code in ("missing_package", "missing_weights", "bad_weights") or (
        error.code.startswith("storage_unwritable")
    )


def _summary(rows: Sequence[LatentRow], there: int) -> Encoded:
    errors = [row.error.message for row in rows if row.error is not None]
    return Encoded(there, len(rows) - len(errors), len(errors), sorted(set(errors)))
