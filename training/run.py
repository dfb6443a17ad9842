"""The folder of a run: what it was started with, and whether it may go on.

`recipe.yaml`, `dataset.arrow` (the snapshot), `log.jsonl`, `checkpoints/`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import StorageError, UsageError
from training.checkpoint import Record, latest_checkpoint, read_record
from training.data.order import Position
from training.data.snapshot import Snapshot, check_shards, open_snapshot
from training.recipe import Recipe, differences, load_recipe

_RECIPE = "recipe.yaml"
_DATASET = "dataset.arrow"
_NEW_DATASET = f"{_DATASET}.new"
"""The data set as it is now, until it is known that the run goes on with it."""


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
    read_snapshot: Callable[[Path], Snapshot],
    code: str,
    *,
    resume: bool,
    accept_changes: bool,
) -> Start:
    """Where a run begins or goes on: one that goes on has its recipe, code and data as they were.

    Args:
        run: its folder.
        recipe: what it is asked to do now.
        read_snapshot: writes the data set's current state to a file and maps it.
        code: fingerprint of the code that runs now.
        resume: go on with what the folder has.
        accept_changes: go on although recipe, code or data have changed. On changed data the epoch
            under way is left and the next one begun.

    Raises:
        UsageError: `run_exists`, `recipe_changed`, `code_changed`, `dataset_changed` or
            `empty_selection`.
        StorageError: `shard_missing`, `shard_truncated` or `run_not_writable`.
    """
    begun = (run / _RECIPE).exists()
    if begun and not resume:
        raise UsageError(
            "run_exists",
            "A run was begun here before.",
            subject=str(run),
            remedy="Go on with it by `--resume`, or name another folder.",
        )
    with _writing(run / _DATASET):
        run.mkdir(parents=True, exist_ok=True)
        snapshot = read_snapshot(run / _NEW_DATASET)
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


def write_start(run: Path, recipe: Recipe) -> None:
    """Note what a run is trained with from now on: its weights are those of this recipe.

    To be called once all ranks have the snapshot that `open_run` gave.

    Raises:
        StorageError: `run_not_writable`.
    """
    with _writing(run / _RECIPE):
        partial = run / f"{_RECIPE}.partial"
        partial.write_text(recipe.to_yaml(), encoding="utf-8")
        partial.rename(run / _RECIPE)
        (run / _NEW_DATASET).rename(run / _DATASET)


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
    """The snapshot that a run was last started with.

    Raises:
        UsageError: `run_without_dataset`.
    """
    try:
        return open_snapshot(run / _DATASET)
    except FileNotFoundError as error:
        raise UsageError(
            "run_without_dataset",
            f"The run has no {_DATASET}: an earlier version wrote it, or it was removed.",
            subject=str(run),
            remedy="Start the run again with `--resume --accept-changes`, which writes it.",
        ) from error


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
    columns = ["sample_id", "split", "caption"]
    old, new = (
        pa.concat_tables([one.train.table, one.held_out.table]).select(columns)
        for one in (before, now)
    )
    both = new.join(old, "sample_id", join_type="inner", right_suffix="_before")
    same = pc.and_(
        pc.equal(pc.fill_null(both["caption"], ""), pc.fill_null(both["caption_before"], "")),
        pc.equal(both["split"], both["split_before"]),
    )
    return (
        f"{len(new) - len(both)} came, {len(old) - len(both)} went,"
        f" {len(both) - (pc.sum(same).as_py() or 0)} have other words or another split"
    )


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            "run_not_writable",
            f"The run's folder cannot be written ({error.strerror}).",
            subject=str(file),
            remedy="Name a folder that may be written and has room.",
        ) from error
