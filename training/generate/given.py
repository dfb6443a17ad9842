"""What a user gives to a generation: an image, a video or audio, brought to the model's shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests.errors import MediaError
from stages.media.audio import conformed_audio
from stages.media.blocks import Margins, SourceFormat
from stages.media.conform import sample_and_hold
from stages.media.probe import probe
from stages.media.sampled_frames import RgbConformer, progressive_frames


def displayed_size(path: Path) -> tuple[int, int]:
    """Columns and rows of an image or a video, upright and in square pixels.

    Raises:
        MediaError: `image_unreadable`.
    """
    with _as_image(path):
        source = probe(str(path))
        return _size(source)


def read_image(path: Path, *, width: int, height: int) -> Tensor:
    """An image (or the first frame of a video), scaled to cover a size and cropped at the middle.

    Returns:
        float32 [3, 1, height, width], RGB in [-1, 1].

    Raises:
        MediaError: `image_unreadable`.
    """
    with _as_image(path):
        return _frames(path, frames=1, fps=1.0, width=width, height=height)


def read_video(path: Path, *, frames: int, fps: float, width: int, height: int) -> Tensor:
    """A video's frames at a constant rate from its start, scaled and cropped to a size.

    A video that is shorter holds its last frame.

    Returns:
        float32 [3, frames, height, width], RGB in [-1, 1].

    Raises:
        MediaError: `video_unreadable`.
    """
    remedy = "Give any video file with at least one frame."
    with _as_error("video_unreadable", "It cannot be read as a video", path, remedy):
        return _frames(path, frames=frames, fps=fps, width=width, height=height)


def read_audio(path: Path, *, samples: int, rate_hz: int) -> Tensor:
    """The audio of any media file from its start, in one channel; silence where it has ended.

    Returns:
        float32 [samples], full scale at +-1.

    Raises:
        MediaError: `sound_unreadable`.
    """
    remedy = "Give a WAV, FLAC, MP3 or any media file with an audio track."
    with _as_error("sound_unreadable", "It cannot be read as audio", path, remedy):
        source = probe(str(path))
        audio = conformed_audio(
            str(path), source, 0.0, np.inf, samples=samples, rate_hz=rate_hz, channels=1
        )
        return torch.from_numpy(audio[:, 0].copy())


def _frames(path: Path, *, frames: int, fps: float, width: int, height: int) -> Tensor:
    source = probe(str(path))
    margins_px = _beyond_aspect(*_size(source), width, height)
    conformer = RgbConformer(source, margins_px, width, height)
    start_s = source.video_start_s or 0.0
    timed = progressive_frames(str(path), source, start_s, start_s + (frames - 0.5) / fps)
    conformed = (
        (time_s, torch.from_numpy(conformer.image(frame).copy())) for time_s, frame in timed
    )
    held = list(sample_and_hold(conformed, start_s, frames=frames, fps=fps))
    return torch.stack(held).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def _size(source: SourceFormat) -> tuple[int, int]:
    if not source.width or not source.height:
        raise MediaError("no_video", "It holds no frames.")
    return source.width, source.height


def _beyond_aspect(width: int, height: int, to_width: int, to_height: int) -> Margins:
    """What lies beyond the middle of a frame that has another aspect, in pixels of the frame."""
    scale = max(to_width / width, to_height / height)
    columns = max(0, width - round(to_width / scale))
    rows = max(0, height - round(to_height / scale))
    return Margins(
        top=rows // 2, bottom=rows - rows // 2, left=columns // 2, right=columns - columns // 2
    )


def _as_image(path: Path) -> contextlib.AbstractContextManager[None]:
    remedy = "Give a PNG, JPEG or WebP file, or a video whose first frame is wanted."
    return _as_error("image_unreadable", "It cannot be read as an image", path, remedy)


@contextlib.contextmanager
def _as_error(code: str, what: str, path: Path, remedy: str) -> Iterator[None]:
    """A reader's errors as what they mean for the option that named the file."""
    try:
        yield
    except MediaError as error:
        raise MediaError(
            code, f"{what} ({error.message})", subject=str(path), remedy=remedy
        ) from error
