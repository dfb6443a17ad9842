"""A shard on its way: its members' fragments, what became of those that failed, and its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.engine.tasks import Task
from curation.job import error_record
from manifests.errors import StorageError, TwinreelError
from manifests.store.output import Output
from manifests.store.records import ErrorRecord, SampleMember, SampleRow
from stages.packing.sample import PackProfile, SampleFragment, SampleTask, made_of, sample_id_of
from stages.packing.shard import shard_name
from stages.packing.write import FragmentTask, ShardTask, write_fragment, write_shard

TARGET_ROLE = "target"
FRAGMENTS = "fragments"
"""The folder, beside the shards, of samples that are not in a shard yet."""


@dataclasses.dataclass(frozen=True)
class PlannedSample:
    """A sample to make of one kept clip.

    `earlier` is its row in `samples` of an earlier run that failed or left it waiting; `awaited`
    says what it has to wait for in this run, without being tried.
    """

    sample_id: str
    task: SampleTask
    earlier: Mapping[str, Any] | None = None
    awaited: TwinreelError | None = None

    @property
    def failed_earlier(self) -> bool:
        """Whether it could not be made in an earlier run."""
        return self.earlier is not None and self.earlier["status"] == "failed"

    @property
    def planned_shard(self) -> str | None:
        """The shard that it waits for, or that waits for it, since an earlier run."""
        return None if self.earlier is None else self.earlier["shard"]

    def fragment_of_earlier_run(self, profile: PackProfile) -> SampleFragment | None:
        """What an earlier run says it has made, if this one would make the same."""
        row = self.earlier
        if row is None or row["status"] != "held" or self.awaited is not None:
            return None
        if row["fingerprint"] != made_of(self.task, profile):
            return None
        return SampleFragment(
            sample_id=self.sample_id,
            path=Path(fragment_path(profile, self.sample_id)),
            size=row["bytes"],
            sha256=row["sha256"],
            width=row["width"],
            height=row["height"],
            frames=row["frames"],
            fps=row["fps"],
            audio_rate_hz=row["audio_rate_hz"],
            audio_samples=row["audio_samples"],
        )


def shard_folder(profile: PackProfile) -> str:
    """Where a profile's shards lie below OUT."""
    return f"shards/{profile.profile_id}"


def fragment_path(profile: PackProfile, sample_id: str) -> str:
    """Where a sample lies below OUT until its shard is assembled."""
    return f"{shard_folder(profile)}/{FRAGMENTS}/{sample_id}"


class PlannedShard:
    """A planned shard: gathers its fragments, is assembled or held back, and commits its rows.

    Args:
        output: where it is to be.
        profile: what its samples are packed to.
        samples: its members.
        kept: fragments that are there already, of any shard's members.
        notes: gets what the job's reader should know at its end.
    """

    def __init__(
        self,
        output: Output,
        profile: PackProfile,
        samples: Sequence[PlannedSample],
        kept: Mapping[str, SampleFragment],
        notes: list[str],
    ) -> None:
        self._output = output
        self._profile = profile
        self._notes = notes
        self.samples = {sample.sample_id: sample for sample in samples}
        self._fragments = {name: kept[name] for name in self.samples if name in kept}
        self._kept = frozenset(self._fragments)
        self._failed: dict[str, ErrorRecord] = {}
        for sample in samples:
            if sample.awaited is not None:
                self._fail(sample, sample.awaited)
        self.path = ""

    @property
    def lacking(self) -> int:
        """How many members are neither made nor failed."""
        return len(self.samples) - len(self._fragments) - len(self._failed)

    @property
    def complete(self) -> bool:
        """Whether it is known of every member what became of it."""
        return self.lacking == 0

    def fragment_tasks(self) -> Iterator[Task[Any]]:
        """The tasks that make what is lacking."""
        for sample_id, sample in self.samples.items():
            if sample_id not in self._fragments and sample_id not in self._failed:
                path = fragment_path(self._profile, sample_id)
                task = FragmentTask(self._output.address, path, sample.task, self._profile)
                yield Task(write_fragment, task, sample.task.uri)

    def add(
        self, task: FragmentTask, fragment: SampleFragment | None, error: TwinreelError | None
    ) -> None:
        """Take what became of a member."""
        sample = self.samples[sample_id_of(task.sample.clip_id, self._profile)]
        if fragment is not None:
            self._fragments[sample.sample_id] = fragment
        elif error is not None:
            self._fail(sample, error)

    def settle(self) -> list[Task[Any]]:
        """What is to be done once it is complete: the task that assembles it, if it is to be."""
        if self._held_back:
            self._hold()
            return []
        members = sorted(self._fragments)
        if not members:
            self._commit([])
            return []
        self.path = f"{shard_folder(self._profile)}/{shard_name(members)}"
        paths = [fragment_path(self._profile, sample_id) for sample_id in members]
        task = ShardTask(self._output.address, self.path, paths)
        return [Task(write_shard, task, self.path)]

    def assembled(self, offsets: list[int], error: TwinreelError | None) -> None:
        """Write the rows of a shard that is there, and remove its fragments.

        Raises:
            TwinreelError: it could not be assembled: OUT is at fault, not a sample.
        """
        if error is None:
            self._commit(offsets)
            return
        if not error.retryable:
            raise error
        self._hold()
        self._notes.append(f"A shard waits for the next run: {error}")
        if isinstance(error, StorageError):
            # The next shard would fare no better.
            raise error

    @property
    def _held_back(self) -> bool:
        """Whether a member may still come that has not held a shard back before.

        One that failed in an earlier run too may be gone for good: the others do not wait again.
        """
        return any(
            error.retryable and not self.samples[sample_id].failed_earlier
            for sample_id, error in self._failed.items()
        )

    def _fail(self, sample: PlannedSample, error: TwinreelError) -> None:
        earlier = sample.earlier["error"] if sample.earlier is not None else None
        self._failed[sample.sample_id] = error_record(error, earlier)

    def _hold(self) -> None:
        """Leave the fragments for the next run, which plans the same members together again."""
        # Known by the name it was first planned under, also when members have left it since.
        [planned] = {sample.planned_shard for sample in self.samples.values()}
        shard = planned or f"{shard_folder(self._profile)}/{shard_name(list(self.samples))}"
        rows = [
            dataclasses.replace(
                self._row(sample_id, fragment),
                shard=shard,
                status="held",
                fingerprint=made_of(self.samples[sample_id].task, self._profile),
            )
            for sample_id, fragment in sorted(self._fragments.items())
            if sample_id not in self._kept
        ]
        rows += [
            self._failed_row(sample_id, error, shard if error.retryable else None)
            for sample_id, error in sorted(self._failed.items())
        ]
        self._output.commit({"samples": rows})

    def _commit(self, offsets: list[int]) -> None:
        rows = [
            dataclasses.replace(
                self._row(sample_id, fragment), shard=self.path, offset_bytes=offset
            )
            for (sample_id, fragment), offset in zip(
                sorted(self._fragments.items()), offsets, strict=True
            )
        ]
        rows += [
            self._failed_row(sample_id, error, None)
            for sample_id, error in sorted(self._failed.items())
        ]
        self._output.commit({"samples": rows})
        for sample_id in self._fragments:
            self._output.storage.delete(fragment_path(self._profile, sample_id))

    def _row(self, sample_id: str, fragment: SampleFragment) -> SampleRow:
        """The row of a sample that is made, without its place."""
        return SampleRow(
            sample_id=sample_id,
            profile=self._profile.profile_id,
            members=self._members(sample_id),
            shard=None,
            offset_bytes=None,
            bytes=fragment.size,
            sha256=fragment.sha256,
            width=fragment.width,
            height=fragment.height,
            frames=fragment.frames,
            fps=fragment.fps,
            audio_rate_hz=fragment.audio_rate_hz,
            audio_samples=fragment.audio_samples,
            audio_shift_s=self.samples[sample_id].task.audio_shift_s,
            status="ok",
            error=None,
            fingerprint=self._profile.fingerprint(),
        )

    def _failed_row(self, sample_id: str, error: ErrorRecord, shard: str | None) -> SampleRow:
        return SampleRow(
            sample_id, self._profile.profile_id, self._members(sample_id),
            shard, None, None, None, None, None, None, None, None, None, None,
            "failed", error, self._profile.fingerprint(),
        )  # fmt: skip

    def _members(self, sample_id: str) -> list[SampleMember]:
        return [SampleMember(TARGET_ROLE, self.samples[sample_id].task.clip_id)]
