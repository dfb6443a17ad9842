"""The phase `pack`: kept clips become samples in shards.

Every sample is made on its own (a crash costs one sample) as a fragment of a tar; a shard is its
fragments in the order of their ids. Membership is planned from the sorted ids alone, so that two
runs over the same bucket give the same files.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from curation.job import Job, error_record
from curation.measured import StoredRows, source_format
from curation.progress import Progress
from curation.tasks import Task
from manifests.errors import TwinreelError
from manifests.records import SampleMember, SampleRow
from stages.media.conform import Margins
from stages.packing import FragmentTask, ShardTask
from stages.registry import STAGES
from stages.sample import PackProfile, SampleFragment, SampleTask, sample_id_of
from stages.shard import plan_shards, shard_name

TARGET_ROLE = "target"
_SYNC_FRAME_S = 0.04
"""Offsets count frames of 25 a second, whatever the source's rate."""
_RELIABLE_CONFIDENCE = {"syncnet": 1.5, "embedded": 3.0}
"""From which an offset is believed: Ovi's gate (section 3), and the embedded backend's own."""
_MP4_BYTES_PER_PIXEL = 0.04
"""H.264 at the default quality, between a talking head and a crowd."""


@dataclasses.dataclass(frozen=True)
class PlannedSample:
    """A sample to make of one kept clip."""

    sample_id: str
    task: SampleTask


def plan_samples(job: Job) -> list[PlannedSample]:
    """Kept clips that are not packed in the job's profile yet, by sample id.

    Clips of full length; of sound alone, shorter ones too.
    """
    profile = job.resolved.profile
    windows = "'full', 'short'" if job.configuration.decode.media == "sound" else "'full'"
    with job.connect() as connection:
        rows = StoredRows(
            connection,
            f"""SELECT * FROM dataset WHERE state = 'keep' AND sample IS NULL
            AND "window" IN ({windows})""",
        )
        planned = [
            PlannedSample(sample_id_of(row["clip_id"], profile), _sample_task(job, row))
            for row in rows
        ]
    return sorted(planned, key=lambda sample: sample.sample_id)


def pack(job: Job) -> None:
    """Make the samples that are missing and put them into shards."""
    profile = job.resolved.profile
    planned = {sample.sample_id: sample for sample in plan_samples(job)}
    shard_bytes = job.configuration.pack.shard_mb << 20
    sound_alone = job.configuration.decode.media == "sound"
    expected_bytes = _expected_bytes(profile, sound_alone=sound_alone)
    plans = plan_shards(list(planned), expected_bytes, shard_bytes)
    shards = [
        _Shard(job, profile, [planned[sample_id] for sample_id in members]) for members in plans
    ]
    by_sample = {sample_id: shard for shard in shards for sample_id in shard.samples}
    queue = _Queue(task for shard in shards for task in shard.fragment_tasks())
    progress = Progress("pack", len(planned), "samples")
    for outcome in job.engine.run(queue):
        argument = outcome.task.argument
        if isinstance(argument, FragmentTask):
            shard = by_sample[sample_id_of(argument.sample.clip_id, profile)]
            shard.add(argument, outcome.result, outcome.error)
            job.decoded_clips += 1
            progress.advance(failed=outcome.error is not None)
            if shard.complete:
                queue.extend(shard.shard_tasks())
                if not shard.fragments:
                    shard.commit([], None)
        else:
            _shard_of(shards, argument).commit(outcome.result or [], outcome.error)
    if planned:
        progress.close()


def _expected_bytes(profile: PackProfile, *, sound_alone: bool) -> int:
    """About what a sample takes: shards are planned before anything is encoded."""
    pixels = profile.frames * profile.area_px
    audio = round(profile.duration_s * profile.audio_rate_hz) * profile.audio_channels * 2
    if sound_alone:
        return audio
    video = pixels * 3 if profile.video == "raw" else round(pixels * _MP4_BYTES_PER_PIXEL)
    return video + audio


class _Queue(Iterator[Task]):
    """Tasks of which more may come while earlier ones run; those that come later go first."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._urgent: collections.deque[Task] = collections.deque()

    def extend(self, tasks: list[Task]) -> None:
        self._urgent.extend(tasks)

    def __next__(self) -> Task:
        return self._urgent.popleft() if self._urgent else next(self._tasks)


class _Shard:
    """A planned shard: gathers its fragments, is assembled, and commits its rows."""

    def __init__(self, job: Job, profile: PackProfile, samples: list[PlannedSample]) -> None:
        self._job = job
        self._profile = profile
        self._folder = f"shards/{profile.profile_id}"
        self.samples = {sample.sample_id: sample for sample in samples}
        self.fragments: dict[str, SampleFragment] = {}
        self._failed: dict[str, TwinreelError] = {}
        self.path = ""

    @property
    def complete(self) -> bool:
        return len(self.fragments) + len(self._failed) == len(self.samples)

    def fragment_tasks(self) -> Iterator[Task]:
        for sample_id, sample in self.samples.items():
            task = FragmentTask(
                self._job.out, self._fragment_path(sample_id), sample.task, self._profile
            )
            yield Task("stages.packing:write_fragment", task, sample.task.uri)

    def add(
        self, task: FragmentTask, fragment: SampleFragment | None, error: TwinreelError | None
    ) -> None:
        sample_id = sample_id_of(task.sample.clip_id, self._profile)
        if fragment is not None:
            self.fragments[sample_id] = fragment
        elif error is not None:
            self._failed[sample_id] = error

    def shard_tasks(self) -> list[Task]:
        """The task that assembles it, if there is anything to assemble."""
        members = sorted(self.fragments)
        if not members:
            return []
        self.path = f"{self._folder}/{shard_name(members)}"
        paths = [self._fragment_path(sample_id) for sample_id in members]
        task = ShardTask(self._job.out, self.path, paths)
        return [Task("stages.packing:write_shard", task, self.path)]

    def commit(self, offsets: list[int], error: TwinreelError | None) -> None:
        """Write the samples' rows, and remove the fragments.

        Raises:
            TwinreelError: the shard could not be assembled: OUT is at fault, not a sample.
        """
        if error is not None:
            raise error
        rows = [
            self._row(sample_id, fragment, offset)
            for (sample_id, fragment), offset in zip(
                sorted(self.fragments.items()), offsets, strict=True
            )
        ]
        rows += [self._failed_row(sample_id) for sample_id in sorted(self._failed)]
        self._job.commit({"samples": rows})
        for sample_id in self.fragments:
            self._job.storage.delete(self._fragment_path(sample_id))

    def _fragment_path(self, sample_id: str) -> str:
        return f"{self._folder}/fragments/{sample_id}"

    def _row(self, sample_id: str, fragment: SampleFragment, offset: int) -> SampleRow:
        return SampleRow(
            sample_id=sample_id,
            profile=self._profile.profile_id,
            members=self._members(sample_id),
            shard=self.path,
            offset_bytes=offset,
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

    def _failed_row(self, sample_id: str) -> SampleRow:
        return SampleRow(
            sample_id, self._profile.profile_id, self._members(sample_id),
            None, None, None, None, None, None, None, None, None, None, None,
            "failed", error_record(self._failed[sample_id]), self._profile.fingerprint(),
        )  # fmt: skip

    def _members(self, sample_id: str) -> list[SampleMember]:
        return [SampleMember(TARGET_ROLE, self.samples[sample_id].task.clip_id)]


def _shard_of(shards: list[_Shard], task: ShardTask) -> _Shard:
    return next(shard for shard in shards if shard.path == task.path)


def audio_shift_s(job: Job, row: Mapping[str, Any]) -> float:
    """How much later a clip's sound has to be put to be in sync; 0 unless that is asked for.

    Only offsets that were found with confidence are repaired: the best of many bad fits is noise.
    """
    sync = row.get("sync") or {}
    if not job.configuration.sync.repair or sync.get("status") != "ok":
        return 0.0
    least = job.configuration.sync.min_confidence
    if least is None:
        least = _RELIABLE_CONFIDENCE[sync["backend"]]
    # A positive offset says that the sound is early.
    return float(sync["offset_frames"]) * _SYNC_FRAME_S if sync["confidence"] >= least else 0.0


def _sample_task(job: Job, row: dict[str, Any]) -> SampleTask:
    picture = row.get("picture") or {}
    margins = picture.get("margins_px") or {}
    caption = row["caption"] or {}
    return SampleTask(
        clip_id=row["clip_id"],
        source_id=row["source_id"],
        uri=row["uri"],
        source=source_format(row, job.configuration.decode.media),
        start_s=row["start_s"],
        end_s=row["end_s"],
        margins_px=Margins(**margins) if margins else Margins(0, 0, 0, 0),
        caption=caption.get("text"),
        measurements={name: row[name] for name in sorted(STAGES) if row.get(name) is not None},
        provenance={
            "licence": row["licence"],
            "split": row["split"],
            "carried": dict(row["carried"] or {}),
        },
        audio_shift_s=audio_shift_s(job, row),
    )
