"""Checkpoints: written in the background, whole or not at all, read on any number of ranks.

`checkpoints/step-00000200/` holds PyTorch's distributed format and `checkpoint.json`, which says
what it belongs to. A folder that ends in `.partial` was never finished and is never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from manifests.errors import StorageError, UsageError
from manifests.fingerprint import fingerprint
from training.data.order import Position
from training.models.generator import Generator
from training.models.registry import own_sources

_PARTIAL = ".partial"
_RECORD = "checkpoint.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint belongs to.

    Attributes:
        step: steps that are done.
        position: in the data.
        recipe: fingerprint of the recipe's binding settings.
        code: fingerprint of the code that trained.
        dataset: fingerprint of the snapshot that was trained on.
    """

    step: int
    position: Position
    recipe: str
    code: str
    dataset: str

    def to_json(self) -> str:
        """As text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "position": Position(**values["position"])})


def code_fingerprint(family: str) -> str:
    """16 hex digits of the sources that train, and of torch's version.

    Args:
        family: as the recipe names it; the sources of one outside this package count too.
    """
    folder = Path(__file__).parent
    sources = {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")
    }
    sources |= own_sources(family)
    return fingerprint({"sources": sources, "torch": torch.__version__})


def latest_checkpoint(run: Path) -> Path | None:
    """The newest finished checkpoint of a run."""
    finished = [
        path
        for path in (run / "checkpoints").glob("step-*")
        if path.suffix != _PARTIAL and (path / _RECORD).exists()
    ]
    return max(finished, default=None)


def read_record(checkpoint: Path) -> Record:
    """What a checkpoint belongs to."""
    return Record.from_json((checkpoint / _RECORD).read_text())


class Checkpoints:
    """Saves and loads the state of a run.

    Args:
        run: the run's folder.
        keep: how many checkpoints are kept.
        first: whether this rank names, renames and removes folders.
        group: process group of the background writer.
    """

    def __init__(self, run: Path, *, keep: int, first: bool, group: dist.ProcessGroup) -> None:
        self._run = run
        self._folder = run / "checkpoints"
        self._keep = keep
        self._first = first
        self._group = group
        self._alone = dist.get_world_size() == 1
        self._writing: tuple[Future[Any], threading.Event, Path] | None = None
        if first:
            for unfinished in self._folder.glob(f"*{_PARTIAL}"):
                shutil.rmtree(unfinished)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif self._alone:
            # Other ranks may be gone; a rank that is alone can still finish its own writing.
            with contextlib.suppress(StorageError):
                self.finish()

    def save(self, generator: Generator, optimizer: torch.optim.Optimizer, record: Record) -> None:
        """Copy the state aside and write it in the background; the one before is finished first.

        Raises:
            StorageError: `checkpoint_failed`: this or the one before could not be written.
        """
        self.finish()
        final = self._folder / f"step-{record.step:08d}"
        partial = final.with_name(final.name + _PARTIAL)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            if self._first:
                (partial / _RECORD).write_text(record.to_json())
            state = {
                "generator": generator.state_dict(),
                "optimizer": _state_of(generator, optimizer),
            }
            future = state_dict_saver.async_save(
                state, checkpoint_id=partial, process_group=self._group
            )
        except OSError as error:
            raise _failed(final, error) from error
        assert isinstance(future, Future)
        ended = threading.Event()
        self._writing = (future, ended, final)
        future.add_done_callback(lambda done: self._publish(done, ended, partial, final))

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            StorageError: `checkpoint_failed`; checkpoints before it are whole.
        """
        if self._writing is None:
            return
        (future, ended, final), self._writing = self._writing, None
        try:
            future.result()
            ended.wait()
            if self._first and not final.exists():
                raise OSError("it could not be given its name")
        except (Exception, CheckpointException) as error:
            raise _failed(final, error) from error

    def load(
        self, checkpoint: Path, generator: Generator, optimizer: torch.optim.Optimizer
    ) -> None:
        """Bring the state back, however many ranks saved it. Rates are left as they are.

        Raises:
            StorageError: `checkpoint_unreadable`.
            UsageError: `other_model`.
        """
        weights, now = generator.state_dict(), _state_of(generator, optimizer)
        stored = _stored_shapes(checkpoint)
        _check_fits(checkpoint, weights, stored)
        # A parameter that never had a gradient has no state to bring back, and begins with zeros.
        moments = {
            name: value
            for name, value in now.items()
            if name.startswith("state.") and f"optimizer.{name}" in stored
        }
        state = {"generator": weights, "optimizer": moments}
        try:
            state_dict_loader.load(state, checkpoint_id=checkpoint, process_group=self._group)
        except (Exception, CheckpointException) as error:
            raise _unreadable(checkpoint, error) from error
        generator.load_state_dict(weights)
        for name, value in now.items():
            if name.startswith("state."):
                now[name] = moments[name] if name in moments else torch.zeros_like(value)
        options = StateDictOptions(flatten_optimizer_state_dict=True)
        set_optimizer_state_dict(generator, optimizer, now, options=options)

    def _publish(
        self, done: Future[Any], ended: threading.Event, partial: Path, final: Path
    ) -> None:
        """Give a written checkpoint its name, then let go of old ones."""
        try:
            if self._first and done.exception() is None:
                partial.rename(final)
                finished = sorted(self._folder.glob("step-*[0-9]"))
                for old in finished[: -self._keep]:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            ended.set()


def load_weights(checkpoint: Path, generator: Generator) -> None:
    """Bring a checkpoint's weights into a generator that is on one device, for sampling.

    Raises:
        StorageError: `checkpoint_unreadable`.
        UsageError: `other_model`.
    """
    state = {"generator": generator.state_dict()}
    _check_fits(checkpoint, state["generator"], _stored_shapes(checkpoint))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            state_dict_loader.load(state, checkpoint_id=checkpoint, no_dist=True)
    except (Exception, CheckpointException) as error:
        raise _unreadable(checkpoint, error) from error
    generator.load_state_dict(state["generator"])


def _state_of(generator: Generator, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    return get_optimizer_state_dict(generator, optimizer, options=options)


def _stored_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a checkpoint, by its name there."""
    try:
        stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    except (Exception, CheckpointException) as error:
        raise _unreadable(checkpoint, error) from error
    return {name: tuple(getattr(tensor, "size", ())) for name, tensor in stored.items()}


def _check_fits(
    checkpoint: Path, weights: Mapping[str, Tensor], stored: Mapping[str, tuple[int, ...]]
) -> None:
    """See that a checkpoint is of this model, before any of it is taken over."""
    wanted = {f"generator.{name}": tuple(value.shape) for name, value in weights.items()}
    found = {name: shape for name, shape in stored.items() if name.startswith("generator.")}
    differing = sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )
    if differing:
        first = differing[0]
        raise UsageError(
            "other_model",
            f"The checkpoint is of another model than the recipe's: {len(differing)} tensors"
            f" differ, such as {first.removeprefix('generator.')}, which is"
            f" {_shape_text(found.get(first))} there and {_shape_text(wanted.get(first))} here.",
            subject=str(checkpoint),
            remedy="Give the recipe that the run was begun with, or start a new run.",
        )


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"[{', '.join(map(str, shape))}]"


def _failed(final: Path, error: BaseException) -> StorageError:
    return StorageError(
        "checkpoint_failed",
        f"The checkpoint could not be written ({_root_cause(error)}).",
        subject=str(final),
        remedy="Make room or repair the disk, then go on with `--resume`: earlier checkpoints are"
        " whole.",
    )


def _unreadable(checkpoint: Path, error: BaseException) -> StorageError:
    return StorageError(
        "checkpoint_unreadable",
        f"The checkpoint cannot be read ({_root_cause(error)}).",
        subject=str(checkpoint),
        remedy="See whether its files are whole and may be read. Moved away, it is not missed: the"
        " run goes on from the one before.",
    )


def _root_cause(error: BaseException) -> str:
    """What went wrong on a rank, not that something did: the disk's own words if it has any."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    first: BaseException = next(iter(failures.values()))[0] if failures else error
    chain = [first]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    reason = next((one for one in chain if isinstance(one, OSError)), chain[-1])
    if "inline_container" in str(reason):
        return "the disk took only a part of a file"  # torch's writer swallows what the disk said
    return (str(reason).strip().splitlines() or [type(reason).__name__])[0]


def missing_checkpoint(run: Path) -> UsageError:
    """The error for a run that has no checkpoint yet."""
    return UsageError(
        "no_checkpoint",
        "There is no finished checkpoint here.",
        subject=str(run),
        remedy="Give the folder that was --run of `twinreel train`, after its first checkpoint.",
    )
