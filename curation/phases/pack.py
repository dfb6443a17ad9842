"""The phase `pack`: kept clips become samples in shards.

Every sample is made on its own (a crash costs one sample) as a fragment of a tar; a shard is its
fragments in the order of their ids. Membership is planned from the sorted ids alone, so that two
runs over the same bucket give the same files, also where one of them met with failures that pass.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import Any

from curation.config import JobConfiguration, SyncSettings
from curation.engine.progress import Progress
from curation.engine.tasks import Task
from curation.job import Job
from curation.phases.measured import Media, StoredRows, source_format
from curation.phases.shards import (
    FRAGMENTS,
    PlannedSample,
    PlannedShard,
    fragment_path,
    shard_folder,
)
from manifests.errors import TwinreelError
from manifests.explore.unpacked import to_be_packed
from manifests.store.output import Output
from stages.media.blocks import Margins
from stages.packing.sample import PackProfile, SampleFragment, SampleTask, sample_id_of
from stages.packing.shard import plan_shards
from stages.packing.write import FragmentTask, ShardTask
from stages.registry import STAGES

_SYNC_FRAME_S = 0.04
"""Offsets count frames of 25 a second, whatever the source's rate."""
_RELIABLE_CONFIDENCE = {"syncnet": 1.5, "embedded": 3.0}
"""From which an offset is believed: Ovi's gate (section 3), and the embedded backend's own."""
_MP4_BYTES_PER_PIXEL = 0.04
"""H.264 at the default quality, between a talking head and a crowd."""


def plan_samples(
    output: Output, profile: PackProfile, configuration: JobConfiguration
) -> list[PlannedSample]:
    """Kept clips that are not packed in the profile yet, by sample id.

    Clips of full length; of sound alone, shorter ones too. A sample that failed for a reason that
    may pass, or that waits for its shard, is not packed yet.
    """
    with output.connect() as connection:
        rows = StoredRows(
            connection,
            f"""SELECT * FROM dataset WHERE {to_be_packed(output.selection.packed_windows)}
            AND (sample IS NULL OR sample.status = 'held' OR sample.error.retryable)""",
        )
        planned = [
            PlannedSample(
                sample_id_of(row["clip_id"], profile),
                _sample_task(row, configuration.decode.media, configuration.sync),
                earlier=row["sample"],
                awaited=_awaited_caption(row),
            )
            for row in rows
        ]
    return sorted(planned, key=lambda sample: sample.sample_id)


def pack(job: Job) -> None:
    """Make the samples that are missing and put them into shards.

    A shard waits for the next run while a member failed for a reason that may pass, so that it
    comes out as it would have undisturbed; a member that failed so in an earlier run too is left
    behind, and gets a place in another shard once it can be made.

    Raises:
        StorageError: OUT cannot be read or written.
    """
    profile = job.resolved.profile
    planned = plan_samples(job.output, profile, job.configuration)
    kept = _kept_fragments(job.output, profile, planned)
    sound_alone = job.configuration.decode.media == "sound"
    expected_bytes = _expected_bytes(profile, sound_alone=sound_alone)
    most_bytes = job.configuration.pack.shard_mb << 20
    shards = [
        PlannedShard(job.output, profile, members, kept, job.notes)
        for members in _memberships(planned, expected_bytes, most_bytes)
    ]
    by_sample = {sample_id: shard for shard in shards for sample_id in shard.samples}
    queue = _Queue(task for shard in shards for task in shard.fragment_tasks())
    for shard in shards:
        if shard.complete:
            queue.extend(shard.settle())
    with Progress("pack", sum(shard.lacking for shard in shards), "samples") as progress:
        for outcome in job.engine.run(queue):
            argument = outcome.task.argument
            if isinstance(argument, FragmentTask):
                shard = by_sample[sample_id_of(argument.sample.clip_id, profile)]
                shard.add(argument, outcome.result, outcome.error)
                job.decoded_clips += 1
                progress.advance(failed=outcome.error is not None)
                if shard.complete:
                    queue.extend(shard.settle())
            else:
                _shard_of(shards, argument).assembled(outcome.result or [], outcome.error)


def _memberships(
    planned: list[PlannedSample], expected_bytes: int, most_bytes: int
) -> list[list[PlannedSample]]:
    """Who shares a shard: those who already wait for one, and the others by their ids."""
    waiting: dict[str, list[PlannedSample]] = {}
    others: dict[str, PlannedSample] = {}
    for sample in planned:
        if sample.planned_shard is not None:
            waiting.setdefault(sample.planned_shard, []).append(sample)
        else:
            others[sample.sample_id] = sample
    plans = plan_shards(list(others), expected_bytes, most_bytes)
    return [*waiting.values(), *([others[sample_id] for sample_id in plan] for plan in plans)]


def _kept_fragments(
    output: Output, profile: PackProfile, planned: list[PlannedSample]
) -> dict[str, SampleFragment]:
    """What earlier runs have made, still is there and would come out the same; no other stays."""
    folder = f"{shard_folder(profile)}/{FRAGMENTS}"
    there = {entry.path: entry.size for entry in output.storage.list(folder)}
    kept = {}
    for sample in planned:
        path = fragment_path(profile, sample.sample_id)
        fragment = sample.fragment_of_earlier_run(profile)
        if fragment is not None and there.get(path) == fragment.size:
            kept[sample.sample_id] = fragment
            del there[path]
    if there:
        output.lease.check()
    for path in there:
        output.storage.delete(path)
    return kept


def _awaited_caption(row: Mapping[str, Any]) -> TwinreelError | None:
    """What a clip waits for whose words are still to come; packed now, it had none for good."""
    if row["caption"] is None:
        return TwinreelError(
            "caption_missing",
            "It has no caption yet, and would be trained on with an empty prompt.",
            subject=row["uri"],
            remedy="Run `twinreel curate` with the phase `caption`; caption.backend=attributes asks"
            " no model.",
            retryable=True,
        )
    error = row["caption"]["error"]
    if error is None or not error["retryable"]:
        return None
    return TwinreelError(
        "caption_awaited",
        f"Its caption is still to come ({error['code']}).",
        subject=row["uri"],
        remedy="Run the same command again.",
        retryable=True,
    )


def _shard_of(shards: list[PlannedShard], task: ShardTask) -> PlannedShard:
    return next(shard for shard in shards if shard.path == task.path)


def _expected_bytes(profile: PackProfile, *, sound_alone: bool) -> int:
    """About what a sample takes: shards are planned before anything is encoded."""
    pixels = profile.frames * profile.area_px
    audio = round(profile.duration_s * profile.audio_rate_hz) * profile.audio_channels * 2
    if sound_alone:
        return audio
    video = pixels * 3 if profile.video == "raw" else round(pixels * _MP4_BYTES_PER_PIXEL)
    return video + audio


class _Queue(Iterator[Task[Any]]):
    """Tasks of which more may come while earlier ones run; those that come later go first."""

    def __init__(self, tasks: Iterator[Task[Any]]) -> None:
        self._tasks = tasks
        self._urgent: collections.deque[Task[Any]] = collections.deque()

    def extend(self, tasks: list[Task[Any]]) -> None:
        self._urgent.extend(tasks)

    def __next__(self) -> Task[Any]:
        return self._urgent.popleft() if self._urgent else next(self._tasks)


def audio_shift_s(row: Mapping[str, Any], settings: SyncSettings) -> float:
    """How much later a clip's sound has to be put to be in sync; 0 unless that is asked for.

    Only offsets that were found with confidence are repaired: the best of many bad fits is noise.
    """
    sync = row.get("sync") or {}
    if not settings.repair or sync.get("status") != "ok":
        return 0.0
    least = settings.min_confidence
    if least is None:
        least = _RELIABLE_CONFIDENCE[sync["backend"]]
    # A positive offset says that the sound is early.
    return float(sync["offset_frames"]) * _SYNC_FRAME_S if sync["confidence"] >= least else 0.0


def _sample_task(row: dict[str, Any], media: Media, sync: SyncSettings) -> SampleTask:
    picture = row.get("picture") or {}
    margins = picture.get("margins_px") or {}
    caption = row["caption"] or {}
    return SampleTask(
        clip_id=row["clip_id"],
        source_id=row["source_id"],
        uri=row["uri"],
        source=source_format(row, media),
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
        audio_shift_s=audio_shift_s(row, sync),
    )
