"""One packed sample: a fragment of a tar file, the same bytes whenever and wherever it is made."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pydantic
from av.video.frame import VideoFrame

from manifests.errors import MediaError
from manifests.fingerprint import fingerprint
from stages.media.audio import audio_length, conformed_audio
from stages.media.blocks import Margins, SourceFormat
from stages.media.conform import conformed_frames, conformed_size
from stages.media.encode import (
    X264_PARAMETERS,
    ByteSink,
    encode_audio,
    raw_header,
    write_mp4,
    write_raw,
)
from stages.media.heartbeat import beat
from stages.packing.shard import TAR_BLOCK_BYTES

PACK_VERSION = 4
"""Raise whenever conforming or encoding changes a sample's bytes."""


class PackProfile(pydantic.BaseModel):
    """What a sample looks like; everything here decides its bytes. The default is Ovi's."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str = pydantic.Field(
        "ovi", pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=32, description="of the profile"
    )
    area_px: int = pydantic.Field(518_400, ge=1024, description="width x height of a frame")
    frames: int = pydantic.Field(121, ge=1, description="length of a sample")
    fps: int = pydantic.Field(24, ge=1, description="frames a second")
    audio_rate_hz: int = pydantic.Field(16_000, ge=1000, description="sample rate")
    audio_channels: Literal[1, 2] = pydantic.Field(1, description="1 is mono, 2 stereo")
    video: Literal["mp4", "raw"] = pydantic.Field(
        "mp4", description="H.264, or uint8 RGB frames as a numpy file"
    )
    audio: Literal["flac", "wav"] = pydantic.Field("flac", description="both hold 16 bits")
    crf: int = pydantic.Field(17, ge=0, le=51, description="x264's constant rate factor")
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"
    ] = pydantic.Field("veryfast", description="x264's preset")

    pad: bool = pydantic.Field(
        True, description="sound alone: fill up to the full length with silence"
    )
    repaired_by: str | None = pydantic.Field(
        None, description="set by sync.repair: fingerprint of what measured the offsets"
    )

    def fingerprint(self) -> str:
        """16 hex digits: what a sample's bytes depend on besides the clip."""
        # Named one by one: a subclass may add settings that the bytes do not depend on.
        settings = {name: getattr(self, name) for name in PackProfile.model_fields}
        if self.video == "raw":
            del settings["crf"], settings["preset"]
        return fingerprint({"version": PACK_VERSION, "x264": X264_PARAMETERS, **settings})

    @property
    def profile_id(self) -> str:
        """A name that a person can read, for folders and tables."""
        return (
            f"{self.name}-{self.area_px}px-{self.fps}fps-{self.frames}f-{self.audio_rate_hz}hz-"
            f"{self.fingerprint()[:8]}"
        )

    @property
    def duration_s(self) -> float:
        """A sample's length in seconds."""
        return self.frames / self.fps


@dataclasses.dataclass(frozen=True)
class SampleTask:
    """A clip to pack, and what is to be said about it.

    `measurements` (the stages' structs) and `provenance` go into the sample's JSON as they are;
    they must not hold times or hosts of this run. `audio_shift_s` is how much later the sound is
    put than the source has it.
    """

    clip_id: str
    source_id: str
    uri: str
    source: SourceFormat
    start_s: float
    end_s: float
    margins_px: Margins
    caption: str | None
    measurements: Mapping[str, Any]
    provenance: Mapping[str, Any]
    audio_shift_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class SampleFragment:
    """A written fragment: what its row in `samples` says of it.

    `size` is in bytes, whole tar blocks; `sha256` is of exactly those. What the source does not
    have is None.
    """

    sample_id: str
    path: Path
    size: int
    sha256: str
    width: int | None
    height: int | None
    frames: int | None
    fps: float | None
    audio_rate_hz: int | None
    audio_samples: int | None


def sample_id_of(clip_id: str, profile: PackProfile) -> str:
    """The id of a clip's sample under a profile; without dots, where WebDataset splits names."""
    return f"{profile.name}-{fingerprint([clip_id, profile.fingerprint()])}"


def made_of(task: SampleTask, profile: PackProfile) -> str:
    """Fingerprint of all that a fragment's bytes depend on: the clip, its words, the profile."""
    return fingerprint([profile.fingerprint(), _plain(task)])


def write_sample(
    task: SampleTask,
    profile: PackProfile,
    destination: Path,
) -> SampleFragment:
    """Conform and encode a clip, and write its members as a fragment of a tar file.

    Members in order: `.mp4` or `.video.npy`, `.flac` or `.wav`, `.json`, `.txt`; a clip without
    frames or without audio has no such member. The fragment appears under its name when whole,
    and holds one raw frame in memory at most.

    Args:
        task: the clip.
        profile: what a sample looks like.
        destination: the file to write; its folder is used for unfinished files.

    Raises:
        MediaError: the clip cannot be read, or `length_mismatch`.
    """
    _check_length(task, profile)
    sample_id = sample_id_of(task.clip_id, profile)
    has_video = task.source.modality == "video" and task.source.video_index is not None
    has_audio = task.source.audio_index is not None and not (has_video and _is_silent(task))
    width: int | None = None
    height: int | None = None
    if has_video:
        width, height = conformed_size(task.source, task.margins_px, profile.area_px)
    samples = _audio_samples(task, profile, alone=not has_video)
    unfinished = destination.with_name(f"{destination.name}.part")
    try:
        with unfinished.open("wb") as file:
            fragment = _FragmentWriter(file, sample_id)
            if width is not None and height is not None:
                frames = _frames(task, profile)
                _write_video(fragment, frames, profile, (width, height), unfinished)
            if has_audio:
                audio = conformed_audio(
                    task.uri,
                    task.source,
                    task.start_s - task.audio_shift_s,
                    task.end_s if not has_video else math.inf,
                    samples=samples,
                    rate_hz=profile.audio_rate_hz,
                    channels=profile.audio_channels,
                )
                beat()
                encoded = encode_audio(audio, profile.audio_rate_hz, profile.audio)
                fragment.add(profile.audio, encoded)
            fragment.add("json", _json_member(task, profile, sample_id, has_video, has_audio))
            fragment.add("txt", (task.caption or "").encode())
        unfinished.replace(destination)
    finally:
        unfinished.unlink(missing_ok=True)
    return SampleFragment(
        sample_id=sample_id,
        path=destination,
        size=fragment.size,
        sha256=fragment.sha256,
        width=width,
        height=height,
        frames=profile.frames if has_video else None,
        fps=float(profile.fps) if has_video else None,
        audio_rate_hz=profile.audio_rate_hz if has_audio else None,
        audio_samples=samples if has_audio else None,
    )


def _is_silent(task: SampleTask) -> bool:
    """Whether the source has no sound in the clip, whose track begins later or ends before it.

    Packed as silence it would pass for a clip with sound, and be trained on as one.
    """
    loudness = task.measurements.get("loudness") or {}
    return bool(loudness.get("status") == "not_applicable")


def _audio_samples(task: SampleTask, profile: PackProfile, *, alone: bool) -> int:
    """The full length; of sound alone that is not to be padded, the clip's own."""
    full = audio_length(profile.frames, profile.fps, profile.audio_rate_hz)
    if not alone or profile.pad:
        return full
    return min(full, round((task.end_s - task.start_s) * profile.audio_rate_hz))


def _check_length(task: SampleTask, profile: PackProfile) -> None:
    """A clip of another length would be cut off or frozen without anyone noticing."""
    surplus_s = task.end_s - task.start_s - profile.duration_s
    half_frame_s = 0.5 / profile.fps
    # Sound alone is padded with silence.
    too_short = surplus_s < -half_frame_s and task.source.modality == "video"
    if too_short or surplus_s > half_frame_s:
        raise MediaError(
            "length_mismatch",
            f"The clip is {task.end_s - task.start_s:.4f} s long, a sample of the profile "
            f"{profile.name} {profile.duration_s:.4f} s.",
            subject=task.uri,
            remedy="Give `clip` and `pack` the same frames and fps.",
        )


def _frames(task: SampleTask, profile: PackProfile) -> Iterator[VideoFrame]:
    return conformed_frames(
        task.uri,
        task.source,
        task.start_s,
        margins_px=task.margins_px,
        area_px=profile.area_px,
        frames=profile.frames,
        fps=profile.fps,
        pixel_format="rgb24" if profile.video == "raw" else "yuv420p",
    )


def _write_video(
    fragment: _FragmentWriter,
    frames: Iterator[VideoFrame],
    profile: PackProfile,
    size: tuple[int, int],
    unfinished: Path,
) -> None:
    width, height = size
    if profile.video == "raw":
        header = raw_header(profile.frames, width, height)
        length = len(header) + profile.frames * height * width * 3
        with fragment.member("video.npy", length) as stream:
            stream.write(header)
            write_raw(stream, frames)
        return
    # Moving the index to the front needs a file that can be read again.
    encoded = unfinished.with_name(f"{unfinished.name}.mp4")
    try:
        write_mp4(
            encoded,
            frames,
            width=width,
            height=height,
            fps=profile.fps,
            crf=profile.crf,
            preset=profile.preset,
        )
        fragment.add("mp4", encoded.read_bytes())
    finally:
        encoded.unlink(missing_ok=True)


def _json_member(
    task: SampleTask, profile: PackProfile, sample_id: str, has_video: bool, has_audio: bool
) -> bytes:
    contents = {
        "sample_id": sample_id,
        "has_video": has_video,
        "has_audio": has_audio,
        "caption": task.caption,
        "measurements": task.measurements,
        "provenance": {
            **task.provenance,
            "uri": task.uri,
            "source_id": task.source_id,
            "clip_id": task.clip_id,
            "start_s": task.start_s,
            "end_s": task.end_s,
            "margins_px": dataclasses.asdict(task.margins_px),
            "audio_shift_s": task.audio_shift_s,
            "profile": profile.profile_id,
        },
    }
    text = json.dumps(_plain(contents), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode()


def _plain(value: object) -> object:
    """JSON's own types: records become objects, and what is not a number becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class _FragmentWriter:
    """Writes members as tar does, and hashes what it writes; ends without an end of archive."""

    def __init__(self, file: BinaryIO, sample_id: str) -> None:
        self._file = file
        self._sample_id = sample_id
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Of everything written so far, as hex digits."""
        return self._hash.hexdigest()

    def add(self, extension: str, data: bytes) -> None:
        with self.member(extension, len(data)) as stream:
            stream.write(data)

    @contextlib.contextmanager
    def member(self, extension: str, length: int) -> Iterator[ByteSink]:
        """Open a member of `length` bytes, all of which must be written."""
        header = tarfile.TarInfo(f"{self._sample_id}.{extension}")
        header.size = length
        header.mode = 0o644
        self.write(header.tobuf(tarfile.USTAR_FORMAT))
        start = self.size
        yield self
        if self.size - start != length:
            raise ValueError(f"{header.name} has {self.size - start} bytes, not {length}")
        self.write(bytes(-length % TAR_BLOCK_BYTES))

    def write(self, data: bytes) -> int:
        """Append to the open member."""
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)
