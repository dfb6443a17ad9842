"""The training loop: build, shard, load, step, log, save."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from manifests.errors import TwinreelError, UsageError
from training.checkpoint import Checkpoints, Record, code_fingerprint
from training.data.geometry import Geometry
from training.data.loader import Loader, RankBatch, SampleReader
from training.data.order import GlobalBatch, endless, epoch_batches
from training.data.snapshot import Snapshot
from training.distributed import (
    Ranks,
    clip_gradients,
    join_ranks,
    last_micro_batch,
    leave_ranks,
    shard,
)
from training.journal import Journal, Meter
from training.metrics.held_out import held_out_loss
from training.models.generator import Generator, build_codecs, build_generator
from training.objective.loss import (
    draw,
    errors,
    generated_elements,
    learning_rate,
    rate_factor,
    weighted_loss,
)
from training.objective.tasks import TASKS
from training.recipe import Recipe
from training.run import Start, open_run


@dataclasses.dataclass(frozen=True)
class Job:
    """What a run is asked to do; travels to every rank.

    Attributes:
        recipe: what to train, and how.
        run: folder of the run: recipe, data snapshot, log, checkpoints.
        read_snapshot: reads the data set's current state; called on the first rank alone.
        resume: go on from the newest checkpoint, or from the start if there is none.
        accept_changes: go on although recipe, code or data have changed.
    """

    recipe: Recipe
    run: Path
    read_snapshot: Callable[[], Snapshot]
    resume: bool = False
    accept_changes: bool = False


def train(job: Job) -> None:
    """Train to the recipe's last step; every rank calls this.

    Raises:
        UsageError: `run_exists`, `recipe_changed`, `code_changed`, `dataset_changed`,
            `empty_selection`, `no_usable_samples` or `part_unavailable`.
        StorageError: `shard_missing`, `sample_corrupt`, `checkpoint_failed` and their like.
        MediaError: `sample_unreadable`.
    """
    ranks = join_ranks()
    try:
        _train(job, ranks)
    finally:
        leave_ranks()


def _train(job: Job, ranks: Ranks) -> None:
    recipe, geometry = job.recipe, Geometry(job.recipe)

    # What to train, and what it learns from.
    video_codec, audio_codec = build_codecs(recipe)
    generator = shard(build_generator(recipe), recipe, ranks)
    optimizer = build_optimizer(generator, recipe)
    code = code_fingerprint()
    start = _open(job, code, ranks)
    checkpoints = Checkpoints(
        job.run, keep=recipe.checkpoint.keep, first=ranks.first, group=ranks.checkpoint_group
    )
    if start.checkpoint is not None:
        checkpoints.load(start.checkpoint, generator, optimizer)

    # The samples, epoch after epoch, from where the run stands.
    snapshot = start.snapshot
    reader = SampleReader(snapshot.out, video_codec, audio_codec, cache_mb=recipe.loader.cache_mb)
    loader = Loader(
        reader,
        rank=ranks.rank,
        ranks=ranks.count,
        micro_batch=recipe.micro_batch,
        threads=recipe.loader.threads,
        ahead=recipe.loader.ahead,
        device=ranks.device,
    )
    epoch_of = functools.lru_cache(2)(functools.partial(plan_epoch, snapshot, recipe))
    batches = loader.batches(endless(epoch_of, start.position))

    journal = Journal(
        job.run,
        steps=recipe.steps,
        start=start.step,
        first=ranks.first,
        tensorboard=recipe.log.tensorboard,
    )

    def evaluate(step: int) -> None:
        """Judge the model on held-out sources, and note it."""
        losses = held_out_loss(generator, snapshot.held_out, reader, recipe, ranks)
        if losses:
            journal.evaluation({"step": step, **losses})

    with journal, checkpoints, contextlib.closing(loader):
        journal.note(_summary(start, epoch_of(start.position.epoch), generator, ranks))
        if start.step == 0:
            evaluate(0)
        meter = Meter()
        for step in range(start.step, recipe.steps):
            batch = meter.next(batches)
            parts, norm = train_step(generator, optimizer, batch, step, recipe, ranks)
            meter.count(batch.whole, geometry)

            done = step + 1
            saving = done % recipe.checkpoint.every == 0 or done == recipe.steps
            logging = done % recipe.log.every == 0 or done == recipe.steps
            if logging or saving:
                # Only here does the processor wait for the accelerator.
                losses = total_losses(parts, recipe, ranks)
                check_finite(losses, done, job.run)
                if logging:
                    note = journal.say if done % (10 * recipe.log.every) == 0 else journal.step
                    note(
                        {
                            "step": done,
                            "epoch": batch.after.epoch,
                            "task": batch.whole.task,
                            **losses,
                            "gradient_norm": float(norm),
                            "learning_rate": learning_rate(recipe, step),
                            **meter.read(),
                            **_sample_ids(batch.whole, recipe),
                        }
                    )
            if done % recipe.evaluation.every == 0 or done == recipe.steps:
                evaluate(done)
                meter.skip()
            if saving:
                record = Record(
                    done, batch.after, recipe.fingerprint(), code, snapshot.fingerprint()
                )
                checkpoints.save(generator, optimizer, record)


def train_step(
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    batch: RankBatch,
    step: int,
    recipe: Recipe,
    ranks: Ranks,
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of the optimiser; this rank's part of each loss, and the gradients' norm."""
    elements = generated_elements(batch.whole, Geometry(recipe))
    task = TASKS[batch.whole.task]
    totals: dict[str, Tensor] = {}
    for index, micro in enumerate(batch.micro_batches):
        last_micro_batch(generator, index + 1 == len(batch.micro_batches))
        sums = errors(generator, micro, task, draw(micro, recipe, step))
        loss, parts = weighted_loss(sums, micro.weights, elements, recipe)
        # Gradients are averaged over ranks, and the counts are those of the whole batch already.
        (loss * ranks.count).backward()
        for modality, part in parts.items():
            totals[modality] = totals.get(modality, 0) + part
    norm = clip_gradients(generator, recipe.optimizer.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * learning_rate(recipe, step)
    optimizer.step()
    optimizer.zero_grad()
    return totals, norm


def build_optimizer(generator: Generator, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over what is trainable, a group for each factor of the learning rate."""
    settings = recipe.optimizer
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in generator.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rate_factor(name, recipe), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "factor": factor} for factor, members in sorted(groups.items())],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        # One kernel instead of a dozen operations for each sharded parameter.
        fused=True,
    )


def plan_epoch(snapshot: Snapshot, recipe: Recipe, epoch: int) -> list[GlobalBatch]:
    """The batches of an epoch.

    Raises:
        UsageError: `no_usable_samples`: none fits the recipe.
    """
    batches = epoch_batches(
        snapshot.train,
        Geometry(recipe).shape_of,
        tasks=recipe.tasks,
        batch=recipe.batch,
        seed=recipe.seed,
        epoch=epoch,
    )
    if not batches:
        raise UsageError(
            "no_usable_samples",
            f"None of the {len(snapshot.train)} kept samples can be used: the recipe wants"
            f" {recipe.video.fps:g} frames a second, {recipe.audio.codec.rate_hz} Hz, and what the"
            f" tasks {', '.join(recipe.tasks)} need.",
            subject=snapshot.out,
            remedy="Pack samples to the recipe's rates, or choose other tasks.",
        )
    return batches


def _open(job: Job, code: str, ranks: Ranks) -> Start:
    """Where the run stands. One rank looks for all: between two looks the tables may change."""
    start = None
    if ranks.first:
        start = open_run(
            job.run,
            job.recipe,
            job.read_snapshot,
            code,
            resume=job.resume,
            accept_changes=job.accept_changes,
        )
    return cast("Start", ranks.share(start))


def _summary(start: Start, epoch: list[GlobalBatch], generator: Generator, ranks: Ranks) -> str:
    samples = sum(len(batch.samples) for batch in epoch)
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    trained = sum(one.numel() for one in generator.parameters() if one.requires_grad)
    left_out = len(start.snapshot.train) - samples
    return (
        f"{parameters:,} parameters ({trained:,} trained), {samples} samples"
        + (f" ({left_out} of other rates or kinds left out)" if left_out else "")
        + f" in {len(epoch)} batches an epoch, {len(start.snapshot.held_out)} held out,"
        f" {ranks.count} x {ranks.device.type}"
        + (f", going on after step {start.step}" if start.step else "")
    )


def _sample_ids(batch: GlobalBatch, recipe: Recipe) -> dict[str, Any]:
    if not recipe.log.sample_ids:
        return {}
    return {"sample_ids": [sample.sample_id for sample in batch.samples]}


def total_losses(parts: dict[str, Tensor], recipe: Recipe, ranks: Ranks) -> dict[str, float]:
    """Each modality's loss over all ranks, and their weighted sum `loss`."""
    losses = ranks.sum({name: float(part) for name, part in parts.items()})
    weights = {"video": recipe.loss.video, "audio": recipe.loss.audio}
    return {"loss": sum(weights[name] * value for name, value in losses.items()), **losses}


def check_finite(losses: dict[str, float], step: int, run: Path) -> None:
    """Stop before a ruined state is saved.

    Raises:
        TwinreelError: `loss_not_finite`.
    """
    if not math.isfinite(losses["loss"]):
        raise TwinreelError(
            "loss_not_finite",
            f"The loss of step {step} is {losses['loss']}; nothing was saved since the last"
            " checkpoint.",
            subject=str(run),
            remedy="Lower optimizer.learning_rate or optimizer.clip_norm, or lengthen the warm-up.",
        )
