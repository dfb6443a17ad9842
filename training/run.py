"""The folder of a run: what it was started with, and whether it may go on.

`recipe.yaml`, `dataset.jsonl` (the snapshot), `log.jsonl`, `checkpoints/`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from manifests.errors import StorageError, UsageError
from training.checkpoint import Record, latest_checkpoint, read_record
from training.data.order import Position
from training.data.snapshot import Snapshot, check_shards
from training.recipe import Recipe, differences, load_recipe

_RECIPE = "recipe.yaml"
_DATASET = "dataset.jsonl"


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins or goes on.

    Attributes:
        snapshot: what it trains on.
        checkpoint: whose state it takes over; None for the first step.
        step: steps that are done.
        position: in the data.
    """

    snapshot: Snapshot
    checkpoint: Path | None = None
    step: int = 0
    position: Position = dataclasses.field(default_factory=Position)


def open_run(
    run: Path,
    recipe: Recipe,
    read_snapshot: Callable[[], Snapshot],
    code: str,
    *,
    resume: bool,
    accept_changes: bool,
) -> Start:
    """Where a run begins or goes on: one that goes on has its recipe, code and data as they were.

    Args:
        run: its folder.
        recipe: what it is asked to do now.
        read_snapshot: reads the data set's current state.
        code: fingerprint of the code that runs now.
        resume: go on with what the folder has.
        accept_changes: go on although recipe, code or data have changed. On changed data the epoch
            under way is left and the next one begun.

    Raises:
        UsageError: `run_exists`, `recipe_changed`, `code_changed`, `dataset_changed` or
            `empty_selection`.
        StorageError: `shard_missing` or `shard_truncated`.
    """
    begun = (run / _RECIPE).exists()
    if begun and not resume:
        raise UsageError(
            "run_exists",
            "A run was begun here before.",
            subject=str(run),
            remedy="Go on with it by `--resume`, or name another folder.",
        )
    snapshot = read_snapshot()
    check_shards(snapshot)
    checkpoint = latest_checkpoint(run)
    start = Start(snapshot)
    if checkpoint is not None:
        record = read_record(checkpoint)
        if not accept_changes:
            _check_same(run, recipe, code, snapshot, record)
        same_data = record.dataset == snapshot.fingerprint()
        position = record.position if same_data else Position(record.position.epoch + 1)
        start = Start(snapshot, checkpoint, record.step, position)
    return start


def write_start(run: Path, recipe: Recipe, snapshot: Snapshot) -> None:
    """Note what a run is trained with from now on: its weights are those of this recipe.

    Raises:
        StorageError: `run_not_writable`.
    """
    _write(run, _RECIPE, recipe.to_yaml())
    _write(run, _DATASET, snapshot.to_json())


def read_recipe(run: Path) -> Recipe:
    """The recipe that a run was last started with.

    Raises:
        UsageError: `not_a_run`.
    """
    if not (run / _RECIPE).exists():
        raise UsageError(
            "not_a_run",
            "No training run has written here.",
            subject=str(run),
            remedy="Give the folder that was --run of `twinreel train`.",
        )
    return load_recipe(run / _RECIPE)


def read_dataset(run: Path) -> Snapshot:
    """The snapshot that a run was last started with."""
    return Snapshot.from_json((run / _DATASET).read_text(encoding="utf-8"))


def _check_same(run: Path, recipe: Recipe, code: str, snapshot: Snapshot, record: Record) -> None:
    remedy = "Start a new run, or go on all the same with `--accept-changes`."
    if record.recipe != recipe.fingerprint():
        changed = differences(read_recipe(run).binding(), recipe.binding())
        raise UsageError(
            "recipe_changed",
            f"The run was begun with another recipe ({'; '.join(changed)}).",
            subject=str(run / _RECIPE),
            remedy=f"Give the recipe it was begun with. {remedy}",
        )
    if record.code != code:
        raise UsageError(
            "code_changed",
            "The checkpoint was written by another version of the training code or of torch, and"
            " going on would not give what the undisturbed run gives.",
            subject=str(run),
            remedy=remedy,
        )
    if record.dataset != snapshot.fingerprint():
        raise UsageError(
            "dataset_changed",
            f"The kept samples or their captions are others than when the run was last started"
            f" ({_changed_samples(read_dataset(run), snapshot)}).",
            subject=snapshot.out,
            remedy=f"{remedy} The next epoch then has what is kept now.",
        )


def _changed_samples(before: Snapshot, now: Snapshot) -> str:
    old = {sample.sample_id: sample for sample in (*before.train, *before.held_out)}
    new = {sample.sample_id: sample for sample in (*now.train, *now.held_out)}
    reworded = sum(
        old[name].caption != new[name].caption or old[name].split != new[name].split
        for name in old.keys() & new.keys()
    )
    return (
        f"{len(new.keys() - old.keys())} came, {len(old.keys() - new.keys())} went,"
        f" {reworded} have other words or another split"
    )


def _write(run: Path, name: str, text: str) -> None:
    """Write a file whole or not at all."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        partial = run / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(run / name)
    except OSError as error:
        raise StorageError(
            "run_not_writable",
            f"The run's folder cannot be written ({error.strerror}).",
            subject=str(run / name),
            remedy="Name a folder that may be written and has room.",
        ) from error
