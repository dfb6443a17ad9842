"""Loss on held-out sources, at fixed noise and fixed noise levels: comparable from run to run."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from training.data.geometry import Geometry, geometry_of
from training.data.loader import Encoded, SampleReader, collate
from training.data.order import GlobalBatch, Shape, can_do
from training.data.sample_table import ORDER_KEY, SampleTable
from training.data.samples import KeptSample
from training.distributed import DistributedContext
from training.models.generator import Generator
from training.objective.flow import shift_sigma
from training.objective.keys import mixed
from training.objective.loss import errors, generated_elements
from training.objective.noise import Draw, noise_like
from training.objective.tasks import MODALITIES, TASKS, TaskName
from training.recipe import EvaluationSettings, FlowSettings, LossSettings, Recipe

Mismatch = Literal["none", "captions", "video", "audio"]
"""What is taken from another clip: nothing, its caption, its video or its audio."""


@dataclasses.dataclass(frozen=True)
class HeldOutLoss:
    """Mean squared velocity error of each modality, and their weighted sum.

    Nothing about it is random: noise is keyed by the sample, levels are the recipe's, captions are
    never dropped. A mismatch shows what the model makes of a condition: with another clip's
    caption, video or audio the loss of what is left must rise if the model reads them.

    Attributes:
        evaluation: how many samples, at which noise levels.
        flow: shifts of the noise levels.
        loss: weights of the modalities.
        geometry: shapes of the samples.
        seed: of the run.
        micro_batch: samples that a rank holds at once.
    """

    evaluation: EvaluationSettings
    flow: FlowSettings
    loss: LossSettings
    geometry: Geometry
    seed: int
    micro_batch: int

    @classmethod
    def of(cls, recipe: Recipe) -> HeldOutLoss:
        """The loss as a recipe has it measured."""
        return cls(
            recipe.evaluation, recipe.flow, recipe.loss, geometry_of(recipe), recipe.seed,
            recipe.micro_batch,
        )  # fmt: skip

    def measure(
        self,
        generator: Generator,
        samples: SampleTable,
        reader: SampleReader,
        context: DistributedContext,
        *,
        task: TaskName = "t2av",
        mismatch: Mismatch = "none",
    ) -> dict[str, float]:
        """Measure a generator.

        Args:
            generator: in any mode; left as it was.
            samples: held-out samples; those that the task cannot use are left out.
            reader: of the samples.
            context: of the ranks, which call this together.
            task: what is generated and what is given.
            mismatch: what is taken from the next sample of the same shape.

        Returns:
            `video`, `audio` and `loss`; a modality that was not judged is missing; nothing at all
            where no sample can be used.
        """
        totals: dict[str, float] = defaultdict(float)
        training = generator.training
        generator.eval()
        with torch.no_grad():
            for pairs in self._pairs(samples, task).values():
                size = self.micro_batch * context.world_size
                for start in range(0, len(pairs), size):
                    batch = _paired_batch(pairs[start : start + size], task, mismatch)
                    judged = self._judge(generator, batch, reader, context)
                    for name, value in judged.items():
                        totals[name] += value
        generator.train(training)
        means: dict[str, float] = {
            name: totals[name] / totals[f"{name} elements"]
            for name in MODALITIES
            if name != mismatch and totals.get(f"{name} elements")
        }
        if not means:
            return {}
        weights = {"video": self.loss.video, "audio": self.loss.audio}
        return {**means, "loss": sum(weights[name] * value for name, value in means.items())}

    def _pairs(self, samples: SampleTable, task: TaskName) -> dict[Shape, list[_Pair]]:
        buckets: dict[Shape, list[KeptSample]] = {}
        # By a hash, so that a part of a large held-out set is a fair part.
        hashed = mixed(samples.numbers(ORDER_KEY).astype(np.uint64, copy=False), "held out")
        room = self.evaluation.samples
        for index in np.argsort(hashed, kind="stable"):
            if not room:
                break
            sample = samples[int(index)]
            shape = self.geometry.shape_of(sample)
            if can_do(task, shape):
                buckets.setdefault(shape, []).append(sample)
                room -= 1
        return {
            shape: [
                _Pair(sample, chosen[(index + 1) % len(chosen)], shape)
                for index, sample in enumerate(chosen)
            ]
            for shape, chosen in sorted(buckets.items())
        }

    def _judge(
        self,
        generator: Generator,
        batch: _PairedBatch,
        reader: SampleReader,
        context: DistributedContext,
    ) -> dict[str, float]:
        """Summed errors and counts of one batch over all ranks."""
        whole = batch.whole
        share = whole.share(context.rank, context.world_size)
        encoded = [batch.read(sample, reader) for sample, _ in share]
        micro = collate(share, encoded, context.device, reader.empty_text)
        prompts = micro.prompts
        if batch.mismatch == "captions":
            prompts = tuple(batch.others[sample.sample_id].caption or "" for sample, _ in share)
        sums: dict[str, float] = defaultdict(float)
        elements = generated_elements(whole, self.geometry)
        for sigma in self.evaluation.sigmas:
            names = [("held out", self.seed, sigma, one) for one in micro.sample_ids]
            levels = torch.full((len(share),), sigma)
            drawn = Draw(
                shift_sigma(levels, self.flow.video_shift).to(context.device),
                shift_sigma(levels, self.flow.audio_shift).to(context.device),
                noise_like(micro.video, [("video", *name) for name in names]),
                noise_like(micro.audio, [("audio", *name) for name in names]),
                prompts,
                micro.text,
            )
            found = errors(generator, micro, TASKS[whole.task], drawn)
            for modality, count in elements.items():
                if count and modality in found:
                    sums[modality] += float((found[modality] * micro.weights).sum())
                    sums[f"{modality} elements"] += count / context.world_size
        return context.sum(sums)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A sample, and the one of the same shape that lends its parts."""

    sample: KeptSample
    other: KeptSample
    shape: Shape


@dataclasses.dataclass(frozen=True)
class _PairedBatch:
    """A batch, and for each sample's id the sample that lends what is mismatched."""

    whole: GlobalBatch
    others: dict[str, KeptSample]
    mismatch: Mismatch

    def read(self, sample: KeptSample, reader: SampleReader) -> Encoded:
        """A sample's latents, those of a mismatched modality from the other."""
        own = reader.read(sample, self.whole.shape)
        other = reader.read(self.others[sample.sample_id], self.whole.shape)
        return Encoded(
            other.video if self.mismatch == "video" else own.video,
            other.audio if self.mismatch == "audio" else own.audio,
            other.text if self.mismatch == "captions" else own.text,
        )


def _paired_batch(pairs: Sequence[_Pair], task: TaskName, mismatch: Mismatch) -> _PairedBatch:
    whole = GlobalBatch(pairs[0].shape, task, tuple(pair.sample for pair in pairs))
    return _PairedBatch(whole, {pair.sample.sample_id: pair.other for pair in pairs}, mismatch)
