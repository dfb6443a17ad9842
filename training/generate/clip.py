"""A generated clip, and the file it is written to."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from manifests.errors import MediaError, UsageError
from stages.media.encode import add_h264, encode_frames, encode_mono, open_mp4

_CRF, _PRESET = 16, "veryfast"


@dataclasses.dataclass(frozen=True)
class Clip:
    """What came out, as far as it was asked for.

    Attributes:
        frames: uint8 RGB [frames, rows, columns, 3], sides even, or None.
        audio: float32 [samples] in [-1, 1], or None.
        fps: frames a second.
        rate_hz: of the audio.
    """

    frames: np.ndarray | None
    audio: np.ndarray | None
    fps: float
    rate_hz: int


def write_clip(clip: Clip, out: Path, *, scale: int = 1) -> None:
    """Write a clip as an mp4 that any player plays: H.264 and AAC, whichever of the two there is.

    Args:
        clip: what is written.
        out: the file, in a folder that exists; overwritten, and whole or not there.
        scale: columns and rows written for each generated one, to see small models' frames.

    Raises:
        UsageError: `not_an_mp4` or `folder_missing`.
        MediaError: `not_written`.
    """
    check_out(out)
    frames = clip.frames
    if frames is not None and scale > 1:
        frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    try:
        partial = out.with_name(f"{out.name}.partial")
        try:
            _write(partial, frames, clip)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise MediaError(
            "not_written", f"The clip cannot be written ({error}).", subject=str(out)
        ) from error


def check_out(out: Path) -> None:
    """See that a file is to be an mp4 in a folder that exists, before time is spent on it.

    Raises:
        UsageError: `not_an_mp4` or `folder_missing`.
    """
    if out.suffix.lower() != ".mp4":
        raise UsageError(
            "not_an_mp4",
            "Clips are written as mp4.",
            subject=str(out),
            remedy="Give it a name that ends in .mp4.",
        )
    if not out.parent.is_dir():
        raise UsageError(
            "folder_missing",
            "There is no such folder to write the clip to.",
            subject=str(out.parent),
            remedy="Make it, or look for a slip in its name.",
        )


def _write(out: Path, frames: np.ndarray | None, clip: Clip) -> None:
    with open_mp4(out) as container:
        video = audio = None
        if frames is not None:
            height, width = frames.shape[1:3]
            fps = Fraction(clip.fps).limit_denominator(1001)
            video = add_h264(
                container, width=width, height=height, fps=fps, crf=_CRF, preset=_PRESET
            )
        if clip.audio is not None:
            audio = container.add_stream("aac", rate=clip.rate_hz, layout="mono")
        if video is not None and frames is not None:
            encode_frames(container, video, map(_video_frame, frames))
        if audio is not None and clip.audio is not None:
            encode_mono(container, audio, clip.audio)


def _video_frame(rgb: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
