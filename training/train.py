"""The training loop: build, shard, load, step, log, save."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from manifests.errors import UsageError
from training.checkpoint import Checkpoints, Record, code_fingerprint
from training.data.geometry import geometry_of
from training.data.loader import Loader, RankBatch
from training.data.order import Epoch, GlobalBatch, SampleShapes, endless
from training.data.reading import open_reader
from training.data.snapshot import Snapshot
from training.distributed import (
    DistributedContext,
    clip_gradients,
    distributed_context,
    last_micro_batch,
    shard,
)
from training.journal import Journal
from training.metrics.held_out import HeldOutLoss
from training.metrics.throughput import ThroughputMeter
from training.models.generator import Generator, build_generator
from training.objective.loss import errors, generated_elements, weighted_loss
from training.objective.noise import draw
from training.objective.optimizer import build_optimizer, learning_rate, step_if_finite
from training.objective.tasks import TASKS
from training.recipe import LossSettings, Recipe
from training.run import Start, open_run, write_start
from training.skipped import SkippedSteps, check_finite
from training.weights import load_initial


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What a run is asked to do; sent to every rank.

    Attributes:
        recipe: what to train, and how.
        folder: of the run: recipe, data snapshot, log, checkpoints.
        read_snapshot: writes the data set's current state to a file and maps it; called on the
            first rank alone.
        resume: go on from the newest checkpoint, or from the start if there is none.
        accept_changes: go on although recipe, code or data have changed.
    """

    recipe: Recipe
    folder: Path
    read_snapshot: Callable[[Path], Snapshot]
    resume: bool = False
    accept_changes: bool = False


def train(run: TrainingRun) -> None:
    """Train to the recipe's last step; every rank calls this.

    Raises:
        UsageError: `run_exists`, `recipe_changed`, `code_changed`, `dataset_changed`,
            `other_model`, `empty_selection`, `no_usable_samples`, `missing_package`,
            `missing_weights`, `bad_weights`, `no_lora_targets`, or what `load_initial` raises.
        StorageError: `shard_missing`, `sample_corrupt`, `checkpoint_failed` and their like.
        MediaError: `sample_unreadable`.
        TwinreelError: `gradient_not_finite` or `loss_not_finite`.
    """
    with distributed_context() as context:
        _train(run, context)


def _train(run: TrainingRun, context: DistributedContext) -> None:
    recipe, geometry = run.recipe, geometry_of(run.recipe)

    # What to learn from, and what to train. What is missing is said before a large model is built.
    code = code_fingerprint(recipe.model.family)
    start = _open(run, code, context)
    snapshot = start.snapshot
    reader = open_reader(recipe, run.folder, start, context)
    generator = shard(
        build_generator(recipe), context, precision=recipe.precision, recompute=recipe.recompute
    )
    optimizer = build_optimizer(generator, recipe.optimizer)
    checkpoints = Checkpoints(
        run.folder,
        keep=recipe.checkpoint.keep,
        first=context.is_first,
        group=context.checkpoint_group,
    )
    _take_state(start, recipe, checkpoints, generator, optimizer)
    _note_start(run, context)

    # The samples, epoch after epoch, from where the run stands.
    loader = Loader(
        reader,
        rank=context.rank,
        ranks=context.world_size,
        micro_batch=recipe.micro_batch,
        threads=recipe.loader.threads,
        ahead=recipe.loader.ahead,
        device=context.device,
    )
    shapes = SampleShapes.of(snapshot.train, geometry.shape_of)
    epoch_of = functools.lru_cache(2)(functools.partial(plan_epoch, snapshot, recipe, shapes))
    batches = loader.batches(endless(epoch_of, start.position))

    skipped = SkippedSteps(run.folder)
    journal = Journal(
        run.folder,
        steps=recipe.steps,
        start=start.step,
        first=context.is_first,
        tensorboard=recipe.log.tensorboard,
    )

    def evaluate(step: int) -> None:
        """Measure the model on held-out sources, and note it."""
        losses = HeldOutLoss.of(recipe).measure(generator, snapshot.held_out, reader, context)
        if losses:
            journal.evaluation({"step": step, **losses})

    with journal, checkpoints, contextlib.closing(loader):
        journal.note(_summary(start, epoch_of(start.position.epoch), generator, context))
        if start.step == 0:
            evaluate(0)
        meter, owed = ThroughputMeter(), False
        for step in range(start.step, recipe.steps):
            batch = meter.next(batches)
            parts, norm = train_step(generator, optimizer, batch, step, recipe, context)
            meter.count(batch.whole, geometry)

            done = step + 1
            skipped.note(done, batch.whole, norm)
            saving = owed or done % recipe.checkpoint.every == 0 or done == recipe.steps
            logging = done % recipe.log.every == 0 or done == recipe.steps
            if logging or saving or skipped.full:
                # Only here does the processor wait for the accelerator.
                journal.skipped(skipped.read())
                skipped.check(ends=done == recipe.steps)
            if (logging or saving) and not skipped.newest:
                losses = total_losses(parts, recipe.loss, context)
                check_finite(losses, done, run.folder)
                if logging:
                    journal.step(
                        {
                            "step": done,
                            "epoch": batch.after.epoch,
                            "task": batch.whole.task,
                            **losses,
                            "gradient_norm": float(norm),
                            "learning_rate": learning_rate(
                                recipe.optimizer, step, steps=recipe.steps
                            ),
                            **meter.read(),
                            **(_sample_ids(batch.whole) if recipe.log.sample_ids else {}),
                        }
                    )
            if done % recipe.evaluation.every == 0 or done == recipe.steps:
                evaluate(done)
                meter.skip()
            owed = saving and skipped.newest
            if saving and not owed:
                record = Record(
                    done, batch.after, recipe.fingerprint(), code, snapshot.fingerprint()
                )
                checkpoints.save(generator, optimizer, record)


def train_step(
    generator: Generator,
    optimizer: torch.optim.AdamW,
    batch: RankBatch,
    step: int,
    recipe: Recipe,
    context: DistributedContext,
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of the optimiser; this rank's part of each loss, and the gradients' norm.

    Where the norm, which is that of all ranks, is not finite, the step is not taken.
    """
    elements = generated_elements(batch.whole, geometry_of(recipe))
    task = TASKS[batch.whole.task]
    totals: dict[str, Tensor] = {}
    for index, micro in enumerate(batch.micro_batches):
        last_micro_batch(generator, index + 1 == len(batch.micro_batches))
        drawn = draw(
            micro,
            recipe.flow,
            caption_dropout=recipe.caption_dropout,
            seed=recipe.seed,
            step=step,
        )
        sums = errors(generator, micro, task, drawn)
        loss, parts = weighted_loss(sums, micro.weights, elements, recipe.loss)
        # Gradients are averaged over ranks, and the counts are those of the whole batch already.
        (loss * context.world_size).backward()
        for modality, part in parts.items():
            totals[modality] = totals.get(modality, 0) + part
    norm = clip_gradients(generator, recipe.optimizer.clip_norm)
    rate = learning_rate(recipe.optimizer, step, steps=recipe.steps)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
    step_if_finite(optimizer, norm)
    optimizer.zero_grad()
    return totals, norm


def plan_epoch(snapshot: Snapshot, recipe: Recipe, shapes: SampleShapes, epoch: int) -> Epoch:
    """The batches of an epoch.

    Raises:
        UsageError: `no_usable_samples`: none fits the recipe.
    """
    batches = Epoch(
        snapshot.train,
        shapes,
        tasks=recipe.tasks,
        batch=recipe.batch,
        seed=recipe.seed,
        number=epoch,
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


def _open(run: TrainingRun, code: str, context: DistributedContext) -> Start:
    """Where the run stands. One rank looks for all: between two looks the tables may change."""
    start = None
    if context.is_first:
        run.recipe.check_weights()
        start = open_run(
            run.folder,
            run.recipe,
            run.read_snapshot,
            code,
            resume=run.resume,
            accept_changes=run.accept_changes,
        )
    return cast("Start", context.broadcast(start))


def _take_state(
    start: Start,
    recipe: Recipe,
    checkpoints: Checkpoints,
    generator: Generator,
    optimizer: torch.optim.Optimizer,
) -> None:
    """The state of the checkpoint that the run stands at, or the weights that it starts from."""
    if start.checkpoint is not None:
        checkpoints.load(start.checkpoint, generator, optimizer)
    else:
        load_initial(generator, recipe)


def _note_start(run: TrainingRun, context: DistributedContext) -> None:
    # Only when all have mapped the new snapshot does it get the run's name.
    context.wait_for_all()
    if context.is_first:
        write_start(run.folder, run.recipe)


def _summary(start: Start, epoch: Epoch, generator: Generator, context: DistributedContext) -> str:
    samples = epoch.sample_count
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    trained = sum(one.numel() for one in generator.parameters() if one.requires_grad)
    left_out = len(start.snapshot.train) - samples
    return (
        f"{parameters:,} parameters ({trained:,} trained), {samples} samples"
        + (f" ({left_out} of other rates or kinds left out)" if left_out else "")
        + f" in {len(epoch)} batches an epoch, {len(start.snapshot.held_out)} held out,"
        f" {context.world_size} x {context.device.type}"
        + (f", going on after step {start.step}" if start.step else "")
    )


def _sample_ids(batch: GlobalBatch) -> dict[str, list[str]]:
    return {"sample_ids": [sample.sample_id for sample in batch.samples]}


def total_losses(
    parts: dict[str, Tensor], loss_weights: LossSettings, context: DistributedContext
) -> dict[str, float]:
    """Each modality's loss over all ranks, and their weighted sum `loss`."""
    losses = context.sum({name: float(part) for name, part in parts.items()})
    weights = {"video": loss_weights.video, "audio": loss_weights.audio}
    return {"loss": sum(weights[name] * value for name, value in losses.items()), **losses}
