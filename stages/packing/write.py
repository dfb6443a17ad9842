"""Packing in the killable child: a sample's fragment, and a shard out of its fragments."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifests.errors import StorageError, system_refuses
from manifests.store.storage import open_storage
from stages.media.heartbeat import beat
from stages.packing.sample import PackProfile, SampleFragment, SampleTask, write_sample
from stages.packing.shard import assemble_shard


@dataclasses.dataclass(frozen=True)
class FragmentTask:
    """A sample to make; its fragment goes to `path` below `out`."""

    out: str
    path: str
    sample: SampleTask
    profile: PackProfile


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard to assemble at `path` below `out` from fragments that lie there, in this order."""

    out: str
    path: str
    fragments: Sequence[str]


def write_fragment(task: FragmentTask) -> SampleFragment:
    """Make a sample and leave its fragment in OUT.

    Raises:
        MediaError: the clip cannot be decoded.
        StorageError: OUT cannot be written.
    """
    storage = open_storage(task.out)
    local = storage.local_path(task.path)
    with _writing(task.out):
        if local is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            return write_sample(task.sample, task.profile, local)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "fragment"
            fragment = write_sample(task.sample, task.profile, file)
            storage.put_file(task.path, file)
            return fragment


def write_shard(task: ShardTask) -> list[int]:
    """Assemble a shard in OUT; the offsets of its fragments.

    Raises:
        StorageError: OUT cannot be read or written.
    """
    storage = open_storage(task.out)
    with _writing(task.out), tempfile.TemporaryDirectory() as folder:
        fragments = []
        for index, path in enumerate(task.fragments):
            beat()
            local = storage.local_path(path)
            if local is None:
                local = Path(folder) / str(index)
                local.write_bytes(storage.read(path))
            fragments.append(local)
        destination = storage.local_path(task.path)
        if destination is not None:
            destination.parent.mkdir(parents=True, exist_ok=True)
            return assemble_shard(fragments, destination)
        shard = Path(folder) / "shard"
        offsets = assemble_shard(fragments, shard)
        storage.put_file(task.path, shard)
        return offsets


@contextlib.contextmanager
def _writing(out: str) -> Iterator[None]:
    """What the system refuses here, it refuses to the samples: sources are read by `open_media`."""
    try:
        yield
    except OSError as error:
        if not system_refuses(error):
            raise
        raise StorageError(
            "storage_unwritable",
            f"It cannot be written ({type(error).__name__}: {error}).",
            subject=out,
            remedy="Look at the room and the rights there, and in the nodes' temporary folders,"
            " then run the same command again.",
            retryable=True,
        ) from error
