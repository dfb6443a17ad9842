"""Writers that give equal bytes for equal frames and samples, on any machine, at any time."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import av
import numpy as np
import numpy.typing as npt
import soundfile
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

X264_PARAMETERS = "cpu-independent=1"
"""Without it the macroblock tree's costs, and so the bytes, depend on the processor's vectors."""

AudioContainer = Literal["flac", "wav"]


class ByteSink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> int:
        """Append `data`."""


def write_mp4(
    path: Path,
    frames: Iterable[VideoFrame],
    *,
    width: int,
    height: int,
    fps: int,
    crf: int,
    preset: str,
) -> int:
    """Encode limited-range BT.709 frames as H.264 in an mp4 that starts to play at once.

    One thread, no creation time, a constant frame rate whose first frame lies at 0.

    Args:
        path: the file to write; overwritten.
        frames: in `yuv420p`; the same object may come again.
        width: of every frame, even.
        height: of every frame, even.
        fps: frames a second.
        crf: x264's constant rate factor, lower is better.
        preset: x264's preset, slower is smaller.

    Returns:
        How many frames were written.
    """
    with open_mp4(path) as container:
        stream = add_h264(container, width=width, height=height, fps=fps, crf=crf, preset=preset)
        return encode_frames(container, stream, frames)


def open_mp4(path: Path) -> OutputContainer:
    """An mp4 to write, overwritten; it starts to play at once, and has no creation time."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    return av.open(str(path), "w", format="mp4", options=options)


def add_h264(
    container: OutputContainer,
    *,
    width: int,
    height: int,
    fps: int | Fraction,
    crf: int,
    preset: str,
) -> VideoStream:
    """A stream of limited-range BT.709 video, encoded by one thread; arguments as `write_mp4`'s."""
    stream = container.add_stream("libx264", rate=fps)
    assert isinstance(stream, VideoStream)
    _configure(stream, width, height, fps)
    stream.codec_context.options = {
        "crf": str(crf),
        "preset": preset,
        "x264-params": X264_PARAMETERS,
    }
    return stream


def encode_frames(
    container: OutputContainer, stream: VideoStream, frames: Iterable[VideoFrame]
) -> int:
    """Encode `yuv420p` frames at the stream's rate, the first at 0; returns how many there were."""
    time_base = stream.codec_context.time_base
    count = 0
    for frame in frames:
        frame.pts = count
        frame.time_base = time_base
        # The decoder's choice of frame type must not become the encoder's.
        frame.pict_type = PictureType.NONE
        container.mux(stream.encode(frame))
        count += 1
    container.mux(stream.encode(None))
    return count


def encode_mono(
    container: OutputContainer, stream: AudioStream, samples: npt.NDArray[np.float32]
) -> None:
    """Encode float32 [samples], full scale at +-1, at the rate of a stream of one channel."""
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "fltp", "mono")
    frame.sample_rate = stream.codec_context.sample_rate
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _configure(stream: VideoStream, width: int, height: int, fps: int | Fraction) -> None:
    context = stream.codec_context
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.time_base = 1 / Fraction(fps)
    context.framerate = Fraction(fps)
    context.sample_aspect_ratio = Fraction(1)
    context.thread_count = 1
    context.flags |= Flags.bitexact
    context.colorspace = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709


def raw_header(frames: int, width: int, height: int) -> bytes:
    """The `.npy` header of uint8 [frames, height, width, 3]."""
    header = io.BytesIO()
    shape = (frames, height, width, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def write_raw(stream: ByteSink, frames: Iterable[VideoFrame]) -> int:
    """Write `rgb24` frames after `raw_header`, one at a time; returns how many."""
    count = 0
    for frame in frames:
        stream.write(np.ascontiguousarray(frame.to_ndarray()).tobytes())
        count += 1
    return count


def encode_audio(
    samples: npt.NDArray[np.float32], rate_hz: int, container: AudioContainer
) -> bytes:
    """Samples as a 16-bit FLAC or WAV file, without loss beyond the rounding to 16 bits.

    Args:
        samples: float32 [samples, channels], full scale at +-1.
        rate_hz: their rate.
        container: which of the two.
    """
    # The scale of decoders (32768), so that what is read is within half a step of what was given.
    whole = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, whole, rate_hz, format=container.upper(), subtype="PCM_16")
    return file.getvalue()
