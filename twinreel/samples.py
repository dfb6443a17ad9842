"""Curated samples as a PyTorch data set, in the order that the trainer goes through them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any, Literal, get_args

from twinreel._names import claim

claim()

from curation.cli.training import read_snapshot, require_training  # noqa: E402

require_training()

import torch  # noqa: E402
from torch.utils.data import DataLoader, Dataset, Sampler  # noqa: E402

from manifests.errors import UsageError  # noqa: E402
from manifests.store.storage import Storage, open_storage  # noqa: E402
from training.data.media import read_frames, read_waveform  # noqa: E402
from training.data.order import Epoch, Position, SampleShapes, Shape, endless  # noqa: E402
from training.data.samples import KeptSample, read_members  # noqa: E402
from training.data.snapshot import check_shards  # noqa: E402
from training.objective.tasks import TaskName  # noqa: E402

Sample = dict[str, Any]
Split = Literal["train", "held_out"]
_EVERY_SHAPE: Mapping[TaskName, float] = {"t2av": 1.0, "t2v": 1.0, "t2a": 1.0}
"""The order leaves out what no task can use: one of these can use whatever is there."""


class CuratedSamples(Dataset[Sample]):
    """Samples of the clips that are kept now, with their words as they are now.

    By index they come sorted by id. Iterating over the data set goes through one epoch in the
    trainer's order, from where `state_dict` says; `loader` does the same with worker processes.

    A sample is a dict: `sample_id` and `clip_id`, `caption` (empty without one), and, if it has
    them, `frames` (uint8 [frames, 3, rows, columns], RGB) with `fps`, and `audio` (float32 [audio
    samples] in [-1, 1]) with `audio_rate_hz`.

    Args:
        out: folder or `s3://` prefix that `curate` wrote.
        split: `train`, or `held_out` for samples of sources that are never trained on.
        seed: of the order. With a recipe's seed it is the recipe's order if the recipe's batch is
            the same too, and samples of equal shape are those that it brings to one shape.

    Raises:
        TwinreelError: `unknown_split`, `not_an_output`, `empty_selection` (nothing to train on),
            `shard_missing` or `shard_truncated`.
    """

    def __init__(self, out: str | PathLike[str], *, split: Split = "train", seed: int = 0) -> None:
        if split not in get_args(Split):
            raise UsageError(
                "unknown_split",
                f"There is no split {split!r}.",
                subject="split",
                remedy=f"Use {' or '.join(map(repr, get_args(Split)))}.",
            )
        snapshot = read_snapshot(fspath(out), to_train=split == "train")
        check_shards(snapshot)
        self.samples = snapshot.train if split == "train" else snapshot.held_out
        """What the manifests say of each sample, by index."""
        self.order = Order(self, 1, seed=seed, rank=0, ranks=1)
        self._seed = seed
        self._out = snapshot.out
        self._fingerprint = snapshot.fingerprint()
        self._opened: Storage | None = None
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """A sample, read and decoded.

        Raises:
            StorageError: `storage_missing` or `sample_corrupt`.
            MediaError: `sample_unreadable`.
            UsageError: `forked_worker`.
            IndexError: there are not so many.
        """
        sample = self.samples[index]
        storage = self._storage()
        members = read_members(storage, sample)
        subject = f"{storage.url(sample.shard)} ({sample.sample_id})"
        found: Sample = {
            "sample_id": sample.sample_id,
            "clip_id": sample.clip_id,
            "caption": sample.caption or "",
        }
        if sample.frames:
            extension = "video.npy" if "video.npy" in members else "mp4"
            pixels = read_frames(
                members[extension],
                extension,
                frames=sample.frames,
                width=sample.width,
                height=sample.height,
                subject=subject,
            )
            frames = ((pixels + 1.0) * 127.5).round().to(torch.uint8).permute(1, 0, 2, 3)
            found |= {"frames": frames.contiguous(), "fps": sample.fps}
        if sample.audio_samples and sample.audio_rate_hz:
            audio = read_waveform(
                members["flac"] if "flac" in members else members["wav"],
                samples=sample.audio_samples,
                rate_hz=sample.audio_rate_hz,
                subject=subject,
            )
            found |= {"audio": audio, "audio_rate_hz": sample.audio_rate_hz}
        return found

    def __iter__(self) -> Iterator[Sample]:
        """What is left of the epoch, sample by sample; then the next epoch begins."""
        for [(index, _)] in self.order:
            self.order.step()
            yield self[index]

    def state_dict(self) -> dict[str, Any]:
        """Where iterating is: a data set that loads it goes on with the next sample."""
        return self.order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was.

        Raises:
            UsageError: `dataset_changed`: the kept samples or their order are others.
        """
        self.order.load_state_dict(state)

    def loader(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        **options: Any,  # noqa: ANN401 - DataLoader's
    ) -> CuratedLoader:
        """A `DataLoader` over batches of samples of one shape, in the trainer's order.

        Args:
            batch_size: samples of all ranks together.
            seed: of the order; the data set's if not given.
            rank: this process's.
            ranks: how many there are: each gets its share of every batch, equally many samples.
            options: of `DataLoader`: `num_workers`, `collate_fn`, `pin_memory`, ... Workers are
                spawned, so that a script needs `if __name__ == "__main__":`.
        """
        seed = self._seed if seed is None else seed
        order = Order(self, batch_size, seed=seed, rank=rank, ranks=ranks)
        return CuratedLoader(self, order, **options)

    def fingerprint(self) -> str:
        """16 hex digits: equal for equal samples, words and splits."""
        return self._fingerprint

    def _storage(self) -> Storage:
        if self._process != os.getpid():
            # The client that reads objects and files waits for ever beyond a fork.
            raise UsageError(
                "forked_worker",
                "Samples cannot be read in a forked process.",
                subject="num_workers",
                remedy='Use `loader`, or DataLoader(..., multiprocessing_context="spawn")'
                " in a script with `if __name__ == '__main__':`.",
            )
        if self._opened is None:
            self._opened = open_storage(self._out, create=False)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process = os.getpid()


class Order(Sampler[list[tuple[int, float]]]):
    """Batches of samples of one shape, epoch after epoch: pairs of an index and a weight.

    A weight is 0 for a sample that another rank also has, given so that ranks have equally many.
    Iterating gives what is left of the epoch; `step` says that a batch is done.
    """

    def __init__(
        self, samples: CuratedSamples, batch: int, *, seed: int, rank: int, ranks: int
    ) -> None:
        self._kept = samples.samples
        self._dataset = samples.fingerprint
        self._shapes = SampleShapes.of(self._kept, _packed_shape)
        self._batch, self._seed, self._rank, self._ranks = batch, seed, rank, ranks
        self._position = Position()
        self._epoch: tuple[int, Epoch] | None = None

    def __len__(self) -> int:
        return len(self._batches(self._position.epoch)) - self._position.batch

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        batches = self._batches(self._position.epoch)
        for number in range(self._position.batch, len(batches)):
            batch = batches[number]
            ids = [sample.sample_id for sample in batch.samples]
            index = dict(zip(ids, batch.indices, strict=True))
            share = batch.share(self._rank, self._ranks)
            yield [(index[sample.sample_id], weight) for sample, weight in share]

    def step(self) -> None:
        """One more batch is done."""
        if self._kept:
            _, self._position = next(endless(self._batches, self._position))

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches done in it, and what they are batches of."""
        position = {"epoch": self._position.epoch, "batch": self._position.batch}
        return {**position, **self._key()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same order, on the same or another number of ranks.

        Raises:
            UsageError: `dataset_changed`.
        """
        changed = [name for name, value in self._key().items() if state.get(name) != value]
        if changed:
            raise UsageError(
                "dataset_changed",
                "The state is of other samples or of another order, and going on would repeat some"
                " and leave out others.",
                subject=", ".join(changed),
                remedy="Open the same OUT with the same gates, split, seed and batch size.",
            )
        self._position = Position(state["epoch"], state["batch"])

    def _key(self) -> dict[str, Any]:
        return {
            "dataset": self._dataset(),
            "samples": len(self._kept),
            "seed": self._seed,
            "batch_size": self._batch,
        }

    def _batches(self, epoch: int) -> Epoch:
        if self._epoch is None or self._epoch[0] != epoch:
            batches = Epoch(
                self._kept,
                self._shapes,
                tasks=_EVERY_SHAPE,
                batch=self._batch,
                seed=self._seed,
                number=epoch,
            )
            self._epoch = epoch, batches
        return self._epoch[1]


class CuratedLoader(DataLoader[Sample]):
    """A `DataLoader` that knows what it has handed out, however far its workers are ahead.

    Each batch is what PyTorch's collation makes of its samples, with `weight` (float [batch]).
    Iterating gives what is left of the epoch. `state_dict` counts a batch as done once it has been
    handed out.
    """

    def __init__(self, samples: CuratedSamples, order: Order, **options: Any) -> None:  # noqa: ANN401
        if options.get("num_workers"):
            # Not forked: see `CuratedSamples`.
            options.setdefault("multiprocessing_context", "spawn")
        super().__init__(_Weighted(samples), batch_sampler=order, **options)
        self._order = order

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            self._order.step()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it is; see `Order.state_dict`."""
        return self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was; see `Order.load_state_dict`."""
        self._order.load_state_dict(state)


class _Weighted(Dataset[Sample]):
    """Samples asked for by index and weight."""

    def __init__(self, samples: CuratedSamples) -> None:
        self._samples = samples

    def __getitem__(self, asked: tuple[int, float]) -> Sample:
        index, weight = asked
        return {**self._samples[index], "weight": weight}


def _packed_shape(sample: KeptSample) -> Shape:
    # Sound alone has neither frames nor sides.
    return Shape(
        sample.frames or 0, sample.height or 0, sample.width or 0, sample.audio_samples or 0
    )
