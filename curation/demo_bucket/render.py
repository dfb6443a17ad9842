"""Write frames and samples of known times into media files, the same bytes every time.

Presentation times are exact: a frame shown at t seconds gets pts = t / time_base, so that variable
rates, gaps, late starts and repeated pictures come out as they were asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from curation.demo_bucket.sounds import FloatArray

Picture = NDArray[np.uint8]

# 1/90000 holds every common frame time exactly: 24, 25, 30, 50, 60 and 30000/1001 fps.
VIDEO_TIME_BASE = Fraction(1, 90_000)

# One thread and no macroblock tree: with either, x264 gives different bytes for equal pixels on
# machines with and without AVX-512.
_CODEC_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "superfast", "crf": "22", "x264-params": "mbtree=0:threads=1"},
    "libx265": {
        "preset": "ultrafast",
        "crf": "23",
        "x265-params": "pools=none:frame-threads=1:log-level=error",
    },
    "libvpx-vp9": {
        "deadline": "realtime",
        "cpu-used": "8",
        "crf": "30",
        "b": "0",
        "row-mt": "0",
    },
}


@dataclass(frozen=True)
class VideoFormat:
    """How pictures are encoded.

    Attributes:
        codec: encoder name: libx264, libx265 or libvpx-vp9.
        pixel_format: what the encoder is given, such as yuv420p or yuv420p10le.
        frame_rate: nominal rate in frames per second; sets rate control and the last frame's
            duration, never a presentation time.
        time_base: unit of presentation times, in seconds.
        pixel_aspect: width / height of one pixel.
        rotation_deg: counter-clockwise turn that a player applies (0, 90, 180, 270).
        full_range: luma spans 0-255 rather than 16-235.
        keyframe_interval: frames between key frames at most.
        options: encoder options laid over the defaults of the codec.
        container_options: options of the container's writer, such as movflags.
    """

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    frame_rate: Fraction = Fraction(25)
    time_base: Fraction = VIDEO_TIME_BASE
    pixel_aspect: Fraction = Fraction(1)
    rotation_deg: int = 0
    full_range: bool = False
    keyframe_interval: int = 48
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AudioTrack:
    """Samples and how they are encoded.

    Attributes:
        samples: float32 `[samples]` or `[samples, channels]` with one or two channels.
        rate_hz: sample rate.
        start_s: presentation time of the first sample, not negative.
        codec: encoder name: aac, libopus, flac, pcm_s16le.
        bits_per_s: target rate of lossy codecs.
    """

    samples: FloatArray
    rate_hz: int = 48_000
    start_s: float = 0.0
    codec: str = "aac"
    bits_per_s: int = 128_000


def render_video(
    path: Path,
    frames: Iterable[tuple[float, Picture]],
    *,
    video: VideoFormat | None = None,
    audio: AudioTrack | None = None,
) -> int:
    """Encode pictures, and samples if there are any, into the container that `path` names.

    Args:
        path: .mp4, .mov, .mkv or .webm file to write; overwritten.
        frames: (presentation time in seconds, RGB uint8 `[height, width, 3]`), times rising,
            sides even.
        video: how pictures are encoded; H.264 at 25 fps by default.
        audio: the sound track; none by default.

    Returns:
        The number of frames written.
    """
    video = video or VideoFormat()
    count = 0
    # Bit-exact: Matroska would else draw random identifiers.
    container_options = {"fflags": "+bitexact", **video.container_options}
    with av.open(str(path), "w", options=container_options) as container:
        stream: av.VideoStream | None = None
        sound = _AudioWriter(container, audio) if audio is not None else None
        for time_s, picture in frames:
            if stream is None:
                stream = _video_stream(container, video, picture.shape[1], picture.shape[0])
            if sound is not None:
                # Kept just ahead of the picture, so that the file is interleaved like any other.
                sound.write_until(time_s + 0.5)
            container.mux(stream.encode(_video_frame(picture, time_s, video)))
            count += 1
        if stream is not None:
            container.mux(stream.encode(None))
        if sound is not None:
            sound.finish()
    return count


def render_audio(path: Path, audio: AudioTrack) -> None:
    """Encode samples alone into the container that `path` names (.wav, .flac, .m4a, .ogg)."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        _AudioWriter(container, audio).finish()


def _video_stream(
    container: av.container.OutputContainer, video: VideoFormat, width: int, height: int
) -> av.VideoStream:
    options = {**_CODEC_OPTIONS.get(video.codec, {}), **video.options}
    stream = container.add_stream(video.codec, rate=video.frame_rate, options=options)
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = width, height
    stream.pix_fmt = video.pixel_format
    stream.time_base = video.time_base
    context = stream.codec_context
    context.time_base = video.time_base
    context.framerate = video.frame_rate
    context.sample_aspect_ratio = video.pixel_aspect
    context.gop_size = video.keyframe_interval
    context.thread_count = 1
    context.color_range = 2 if video.full_range else 1
    # BT.709 throughout: stated in the file, so that no reader has to guess it from the size.
    context.colorspace = context.color_primaries = context.color_trc = 1
    if video.rotation_deg:
        stream.set_display_rotation(video.rotation_deg)
    return stream


def _video_frame(picture: Picture, time_s: float, video: VideoFormat) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = rgb.reformat(
        format=video.pixel_format,
        dst_colorspace="ITU709",
        dst_color_range="JPEG" if video.full_range else "MPEG",
    )
    frame.pts = round(Fraction(time_s).limit_denominator(10**9) / video.time_base)
    frame.time_base = video.time_base
    frame.duration = round(1 / video.frame_rate / video.time_base)
    return frame


class _AudioWriter:
    """Encodes a track in pieces, as far as it is asked to."""

    def __init__(self, container: av.container.OutputContainer, audio: AudioTrack) -> None:
        self._container = container
        self._audio = audio
        samples = audio.samples if audio.samples.ndim == 2 else audio.samples[:, None]
        self._samples = np.ascontiguousarray(samples, dtype=np.float32)
        self._layout = "mono" if samples.shape[1] == 1 else "stereo"
        self._written = 0
        stream = container.add_stream(audio.codec, rate=audio.rate_hz, layout=self._layout)
        assert isinstance(stream, av.AudioStream)
        if audio.codec in ("aac", "libopus"):
            stream.codec_context.bit_rate = audio.bits_per_s
        self._stream = stream

    def write_until(self, time_s: float) -> None:
        """Encode the samples that sound before `time_s`."""
        end = min(len(self._samples), round((time_s - self._audio.start_s) * self._audio.rate_hz))
        for first, last in _pieces(self._written, end, 4096):
            planes = np.ascontiguousarray(self._samples[first:last].T)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=self._layout)
            frame.sample_rate = self._audio.rate_hz
            frame.time_base = Fraction(1, self._audio.rate_hz)
            frame.pts = first + round(self._audio.start_s * self._audio.rate_hz)
            self._container.mux(self._stream.encode(frame))
            self._written = last

    def finish(self) -> None:
        """Encode what is left and flush the encoder."""
        self.write_until(self._audio.start_s + len(self._samples) / self._audio.rate_hz + 1.0)
        self._container.mux(self._stream.encode(None))


def _pieces(start: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    for first in range(start, end, length):
        yield first, min(first + length, end)


def mp4_boxes(data: bytes) -> dict[str, tuple[int, int]]:
    """Return {type: (start, end)} in bytes of the top-level boxes of an mp4 file."""
    boxes: dict[str, tuple[int, int]] = {}
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = len(data) if size == 0 else min(position + size, len(data))
        boxes[kind.decode("latin-1")] = (position, end)
        if end <= position:
            break
        position = end
    return boxes
