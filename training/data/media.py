"""A sample's bytes as frames and audio of the size that a model trains on."""

from __future__ import annotations

import dataclasses
import io

import av
import numpy as np
import soundfile
import torch
from av.video.reformatter import Interpolation
from torch import Tensor

from manifests.errors import MediaError
from manifests.store.storage import Storage
from stages.media.open import open_container
from training.data.order import Shape
from training.data.samples import KeptSample, read_members


@dataclasses.dataclass(frozen=True)
class Media:
    """A sample's frames [3, frames, height, width] and waveform [samples], None where it has none.

    Both float32 in [-1, 1].
    """

    frames: Tensor | None
    waveform: Tensor | None


def read_media(storage: Storage, sample: KeptSample, shape: Shape, rate_hz: int) -> Media:
    """A sample out of its shard, brought to a shape; sound is as long as it is, at most.

    Args:
        storage: where the shards lie.
        sample: which one.
        shape: what is used of it.
        rate_hz: the sample rate that its audio must have.

    Raises:
        StorageError: `storage_missing` or `sample_corrupt`.
        MediaError: `sample_unreadable`.
    """
    members = read_members(storage, sample)
    subject = f"{storage.url(sample.shard)} ({sample.sample_id})"
    frames = waveform = None
    if shape.frames:
        extension = "video.npy" if "video.npy" in members else "mp4"
        frames = read_frames(
            members[extension],
            extension,
            frames=shape.frames,
            width=shape.width,
            height=shape.height,
            subject=subject,
        )
    if shape.audio_samples and sample.audio_samples:
        waveform = read_waveform(
            members["flac"] if "flac" in members else members["wav"],
            samples=min(shape.audio_samples, sample.audio_samples),
            rate_hz=rate_hz,
            subject=subject,
        )
    return Media(frames, waveform)


def read_frames(
    data: bytes, extension: str, *, frames: int, width: int, height: int, subject: str
) -> Tensor:
    """The first `frames` of a sample, scaled to cover width x height and cropped at the middle.

    Args:
        data: an `mp4`, or a `video.npy` of uint8 [frames, rows, columns, 3].
        extension: which of the two.
        frames: how many.
        width: columns to come to.
        height: rows to come to.
        subject: what an error names.

    Returns:
        float32 [3, frames, height, width], RGB in [-1, 1].

    Raises:
        MediaError: `sample_unreadable`.
    """
    try:
        if extension == "video.npy":
            stored = np.load(io.BytesIO(data))[:frames]
            video = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in stored]
            decoded = [fit_frame(frame, width, height) for frame in video]
        else:
            with open_container(io.BytesIO(data), subject) as container:
                decoded = []
                for frame in container.decode(video=0):
                    decoded.append(fit_frame(frame, width, height))
                    if len(decoded) == frames:
                        break
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise _unreadable(subject, str(error)) from error
    if len(decoded) < frames:
        raise _unreadable(subject, f"{len(decoded)} frames instead of {frames}")
    return torch.from_numpy(np.stack(decoded)).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def fit_frame(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """One frame scaled to cover width x height and cropped at the middle, uint8 RGB."""
    scale = max(width / frame.width, height / frame.height)
    columns = max(width, round(frame.width * scale))
    rows = max(height, round(frame.height * scale))
    scaled = frame.reformat(columns, rows, format="rgb24", interpolation=Interpolation.AREA)
    left, top = (columns - width) // 2, (rows - height) // 2
    return scaled.to_ndarray()[top : top + height, left : left + width]


def read_waveform(data: bytes, *, samples: int, rate_hz: int, subject: str) -> Tensor:
    """The first `samples` of a `flac` or `wav`, channels averaged: float32 [samples] in [-1, 1].

    Raises:
        MediaError: `sample_unreadable`.
    """
    try:
        waveform, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise _unreadable(subject, str(error)) from error
    if rate != rate_hz:
        raise _unreadable(subject, f"audio at {rate} Hz instead of {rate_hz} Hz")
    if len(waveform) < samples:
        raise _unreadable(subject, f"{len(waveform)} samples of audio instead of {samples}")
    return torch.from_numpy(waveform[:samples].mean(axis=1))


def _unreadable(subject: str, what: str) -> MediaError:
    return MediaError(
        "sample_unreadable",
        f"The sample does not hold what its row says ({what}).",
        subject=subject,
        remedy="Check it with `twinreel verify`, and pack it again.",
    )
