"""The data set as it stood when a run began: which samples, in which split, with which words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import duckdb

from manifests.errors import StorageError, UsageError
from manifests.fingerprint import fingerprint
from manifests.store.storage import open_storage
from training.data.samples import KeptSample, kept_samples


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Kept samples of one OUT, sorted by id.

    Attributes:
        out: where the shards lie: a folder or `s3://` prefix.
        train: samples to train on.
        held_out: samples of held-out sources, never trained on.
    """

    out: str
    train: tuple[KeptSample, ...]
    held_out: tuple[KeptSample, ...]

    def fingerprint(self) -> str:
        """16 hex digits: equal for equal samples, words and splits, wherever the shards lie."""
        return fingerprint(
            [
                [sample.sample_id, sample.sha256, sample.split, sample.caption]
                for sample in (*self.train, *self.held_out)
            ]
        )

    def to_json(self) -> str:
        """All of it as text, a sample a line."""
        lines = [json.dumps({"out": self.out})]
        lines += [
            json.dumps(dataclasses.asdict(sample), ensure_ascii=False)
            for sample in (*self.train, *self.held_out)
        ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """What `to_json` wrote."""
        head, *lines = text.splitlines()
        samples = [KeptSample(**json.loads(line)) for line in lines]
        return _split(json.loads(head)["out"], samples)


def take_snapshot(
    connection: duckdb.DuckDBPyConnection, out: str, *, to_train: bool = True
) -> Snapshot:
    """What the current policy keeps, with its words as they are now.

    Args:
        connection: to the tables of `out`.
        out: where the shards lie: a folder or `s3://` prefix.
        to_train: whether there must be samples to train on.

    Raises:
        UsageError: `empty_selection`: no kept sample may be trained on.
    """
    absolute = out if "://" in out else str(Path(out).expanduser().absolute())
    snapshot = _split(absolute, kept_samples(connection))
    if to_train and not snapshot.train:
        held_out = len(snapshot.held_out)
        raise UsageError(
            "empty_selection",
            "The current policy keeps no packed sample to train on"
            + (f" ({held_out} are held out)." if held_out else "."),
            subject=out,
            remedy=f"See what rejects them with `twinreel inspect {out}`, or change the gates with"
            " `twinreel select`, then run `twinreel curate` again to pack what is newly kept.",
        )
    return snapshot


def check_shards(snapshot: Snapshot) -> None:
    """See that every shard is there, before the first step.

    Raises:
        StorageError: `shard_missing` or `shard_truncated`.
    """
    storage = open_storage(snapshot.out, create=False)
    needed: dict[str, int] = {}
    for sample in (*snapshot.train, *snapshot.held_out):
        end = sample.offset_bytes + sample.bytes
        needed[sample.shard] = max(needed.get(sample.shard, 0), end)
    # Listed and not asked for one by one: a store answers a thousand at a time.
    folders = sorted({shard.rpartition("/")[0] for shard in needed})
    sizes = {entry.path: entry.size for folder in folders for entry in storage.list(folder)}
    for shard, size in sorted(needed.items()):
        found = sizes.get(shard)
        if found is None or found < size:
            raise StorageError(
                "shard_missing" if found is None else "shard_truncated",
                "The manifests name this shard, and it is not there."
                if found is None
                else f"It ends after {found} bytes, and its samples reach to {size}.",
                subject=storage.url(shard),
                remedy="Restore it from a copy, or run the same `twinreel curate` again to pack it"
                " anew.",
            )


def _split(out: str, samples: list[KeptSample]) -> Snapshot:
    ordered = sorted(samples, key=lambda sample: sample.sample_id)
    return Snapshot(
        out,
        tuple(sample for sample in ordered if sample.split == "train"),
        tuple(sample for sample in ordered if sample.split != "train"),
    )
