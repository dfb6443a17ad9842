"""Loss on held-out sources, at fixed noise and fixed noise levels: comparable from run to run."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch

from training.data.geometry import Geometry
from training.data.loader import Encoded, SampleReader, collate
from training.data.order import GlobalBatch, Shape, can_do
from training.data.samples import KeptSample
from training.distributed import Ranks
from training.models.generator import Generator
from training.objective.flow import shift_sigma
from training.objective.keys import key
from training.objective.loss import Draw, errors, generated_elements, noise_like
from training.objective.tasks import TASKS, TaskName
from training.recipe import Recipe

Mismatch = Literal["none", "captions", "video", "audio"]
"""What is taken from another clip: nothing, its words, its pictures or its sound."""


def held_out_loss(
    generator: Generator,
    samples: Sequence[KeptSample],
    reader: SampleReader,
    recipe: Recipe,
    ranks: Ranks,
    *,
    task: TaskName = "t2av",
    mismatch: Mismatch = "none",
) -> dict[str, float]:
    """Mean squared velocity error of each modality, and their weighted sum `loss`.

    Nothing about it is random: noise is keyed by the sample, levels are the recipe's, captions are
    never dropped. A mismatch shows what the model makes of a condition: with another clip's words,
    pictures or sound the loss of what is left must rise if the model reads them.

    Args:
        generator: in any mode; left as it was.
        samples: held-out samples; those that the task cannot use are left out.
        reader: of the samples.
        recipe: of the run.
        ranks: all of them call this together.
        task: what is generated and what is given.
        mismatch: what is taken from the next sample of the same shape.

    Returns:
        `video`, `audio` and `loss`; a modality that was not judged is missing; nothing at all where
        no sample can be used.
    """
    geometry = Geometry(recipe)
    totals: dict[str, float] = defaultdict(float)
    training = generator.training
    generator.eval()
    with torch.no_grad():
        for pairs in _pairs(samples, geometry, recipe, task).values():
            for start in range(0, len(pairs), recipe.micro_batch * ranks.count):
                chunk = pairs[start : start + recipe.micro_batch * ranks.count]
                judged = _judge(generator, chunk, reader, recipe, ranks, task, mismatch)
                for name, value in judged.items():
                    totals[name] += value
    generator.train(training)
    means = {
        name: totals[name] / totals[f"{name} elements"]
        for name in ("video", "audio")
        if name != mismatch and totals.get(f"{name} elements")
    }
    if not means:
        return {}
    weights = {"video": recipe.loss.video, "audio": recipe.loss.audio}
    return {**means, "loss": sum(weights[name] * value for name, value in means.items())}


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A sample, and the one of the same shape that lends its parts."""

    sample: KeptSample
    other: KeptSample
    shape: Shape


def _pairs(
    samples: Sequence[KeptSample], geometry: Geometry, recipe: Recipe, task: TaskName
) -> dict[Shape, list[_Pair]]:
    buckets: dict[Shape, list[KeptSample]] = {}
    # Sorted by a hash, so that a part of a large held-out set is a fair part.
    by_hash = sorted(samples, key=lambda one: key("held out", one.sample_id))
    for sample in by_hash:
        shape = geometry.shape_of(sample)
        if can_do(task, shape):
            buckets.setdefault(shape, []).append(sample)
    limit = recipe.evaluation.samples
    pairs: dict[Shape, list[_Pair]] = {}
    for shape, members in sorted(buckets.items()):
        chosen = members[: max(0, limit)]
        limit -= len(chosen)
        pairs[shape] = [
            _Pair(sample, chosen[(index + 1) % len(chosen)], shape)
            for index, sample in enumerate(chosen)
        ]
    return pairs


def _judge(
    generator: Generator,
    pairs: Sequence[_Pair],
    reader: SampleReader,
    recipe: Recipe,
    ranks: Ranks,
    task: TaskName,
    mismatch: Mismatch,
) -> dict[str, float]:
    """Summed errors and counts of one batch over all ranks."""
    whole = GlobalBatch(pairs[0].shape, task, tuple(pair.sample for pair in pairs))
    share = whole.share(ranks.rank, ranks.count)
    others = {pair.sample.sample_id: pair.other for pair in pairs}
    encoded = [
        _mixed(
            reader.read(sample, whole.shape),
            reader.read(others[sample.sample_id], whole.shape),
            mismatch,
        )
        for sample, _ in share
    ]
    micro = collate(share, encoded, ranks.device)
    prompts = micro.prompts
    if mismatch == "captions":
        prompts = tuple(others[sample.sample_id].caption or "" for sample, _ in share)
    sums: dict[str, float] = defaultdict(float)
    elements = generated_elements(whole, Geometry(recipe))
    for sigma in recipe.evaluation.sigmas:
        names = [("held out", recipe.seed, sigma, one) for one in micro.sample_ids]
        levels = torch.full((len(share),), sigma)
        drawn = Draw(
            shift_sigma(levels, recipe.flow.video_shift).to(ranks.device),
            shift_sigma(levels, recipe.flow.audio_shift).to(ranks.device),
            noise_like(micro.video, [("video", *name) for name in names]),
            noise_like(micro.audio, [("audio", *name) for name in names]),
            prompts,
        )
        found = errors(generator, micro, TASKS[task], drawn)
        for modality, count in elements.items():
            if count and modality in found:
                sums[modality] += float((found[modality] * micro.weights).sum())
                sums[f"{modality} elements"] += count / ranks.count
    return ranks.sum(sums)


def _mixed(own: Encoded, other: Encoded, mismatch: Mismatch) -> Encoded:
    return Encoded(
        other.video if mismatch == "video" else own.video,
        other.audio if mismatch == "audio" else own.audio,
    )
