"""The one decode of a source, and the second look at a clip.

`decode_unit` sends every picture (at proxy size) and every block of sound of a stretch past the
observers. `pictures` and `read_audio` give a clip at full size to what needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from manifests.errors import MediaError
from manifests.records import Span
from stages.media.blocks import AudioBlock, Picture, SourceFormat
from stages.media.open import open_media
from stages.media.probe import is_full_range

PROXY_SHORT_SIDE_PX = 288
_PROXY_LONG_SIDE_LIMIT_PX = 1152
_SEEK_MARGIN_S = 1.0
"""How far before a stretch decoding starts: its sound may lie before its key frame in the file."""

_ROTATIONS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


@dataclasses.dataclass(frozen=True)
class DecodedSpan:
    """What a stretch held: the span its pictures (or, without any, its sound) cover, and damage."""

    start_s: float | None
    end_s: float | None
    pictures: int
    damaged: list[Span]


def upright(image: npt.NDArray[np.generic], rotation_deg: int) -> npt.NDArray[np.generic]:
    """Turn an image clockwise by 0, 90, 180 or 270 degrees: what the display matrix asks for."""
    rotation = _ROTATIONS.get(rotation_deg)
    return image if rotation is None else np.asarray(cv2.rotate(np.asarray(image), rotation))


def proxy_size(source: SourceFormat) -> tuple[int, int]:
    """Width and height of the upright proxy: short side 288 px, both even, the aspect kept."""
    if not source.width or not source.height:
        raise ValueError("only sources with pictures have a proxy")
    short, long = sorted((source.width, source.height))
    scale = min(PROXY_SHORT_SIDE_PX / short, _PROXY_LONG_SIDE_LIMIT_PX / long)
    width, height = (max(16, round(side * scale / 2) * 2) for side in (source.width, source.height))
    return width, height


class ProxyScaler:
    """Turns decoded frames into proxies: full-range 4:2:0 planes, upright, square pixels."""

    def __init__(self, source: SourceFormat) -> None:
        self._rotation_deg = source.rotation_deg
        width, height = proxy_size(source)
        sideways = source.rotation_deg in (90, 270)
        self._width, self._height = (height, width) if sideways else (width, height)
        # One scaler for all pictures: building its tables costs as much as scaling a small picture.
        self._reformatter = VideoReformatter()

    def planes(self, frame: VideoFrame) -> tuple[npt.NDArray[np.uint8], ...]:
        """Luma [height, width] and the two chroma planes [height / 2, width / 2], uint8."""
        proxy = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="yuv420p",
            interpolation=Interpolation.AREA,
            src_color_range=ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
        )
        planes = []
        for plane in proxy.planes:
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(
                plane.height, plane.line_size
            )
            planes.append(upright(pixels[:, : plane.width], self._rotation_deg))
        return tuple(np.asarray(plane, dtype=np.uint8) for plane in planes)


def luma_plane(frame: VideoFrame) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], int]:
    """The luma as the codec stores it [coded height, coded width] and its bits per sample.

    A view of the frame's memory where the format is planar YUV or grey; others are converted.
    """
    name = frame.format.name
    bits = frame.format.components[0].bits
    if not name.startswith(("yuv", "gray", "nv")) or name.startswith(("yuyv", "yuva", "grayf")):
        frame, bits = frame.reformat(format="gray"), 8
    plane = frame.planes[0]
    if bits > 8:
        deep = np.frombuffer(memoryview(plane), np.uint16).reshape(
            plane.height, plane.line_size // 2
        )
        return deep[:, : plane.width], bits
    pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return pixels[:, : plane.width], bits


class _Clock:
    """Presentation times of one stream, in source time, never running backwards."""

    def __init__(self, origin_s: float, interval_s: float) -> None:
        self._origin_s = origin_s
        self._interval_s = interval_s
        self._last_s: float | None = None
        self.disordered = 0

    def time_s(self, frame: VideoFrame) -> float | None:
        """The frame's time, or None for a frame that a player would never get to show."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is not None and frame.time_base:
            time_s = float(stamp * frame.time_base) - self._origin_s
        else:
            time_s = 0.0 if self._last_s is None else self._last_s + self._interval_s
        if self._last_s is not None and time_s <= self._last_s:
            self.disordered += 1
            return None
        self._last_s = time_s
        return time_s


def decode_unit(
    uri: str,
    source: SourceFormat,
    start_s: float,
    end_s: float,
    *,
    on_picture: Callable[[Picture], None],
    on_audio: Callable[[AudioBlock], None],
    on_progress: Callable[[], None],
    thread_count: int = 1,
) -> DecodedSpan:
    """Decode a stretch once: pictures whose time is in `start_s` <= t < `end_s`, and its sound.

    Args:
        uri: the file.
        source: its format, as `probe` found it.
        start_s: -inf for the source's first stretch.
        end_s: inf for its last.
        on_picture: called with every picture, in order.
        on_audio: called with every block of sound, in order, cut to the stretch.
        on_progress: called at least once a packet, so that a parent knows that it goes on.
        thread_count: of the video decoder.

    Raises:
        MediaError: the file cannot be opened, or `no_decodable_frames`.
    """
    with open_media(uri) as container:
        video = container.streams[source.video_index] if source.video_index is not None else None
        audio = container.streams[source.audio_index] if source.audio_index is not None else None
        if video is not None:
            video.codec_context.thread_count = thread_count
            video.codec_context.thread_type = "AUTO" if thread_count > 1 else "NONE"
        watch = (
            _PictureWatch(source, start_s, end_s, on_picture)
            if video is not None and source.modality == "video"
            else None
        )
        ear = _AudioWatch(source, start_s, end_s, on_audio) if audio is not None else None
        streams = [
            stream
            for stream, watcher in ((video, watch), (audio, ear))
            if stream is not None and watcher is not None
        ]
        _seek(container, source, start_s)
        for packet in _packets(container, streams):
            on_progress()
            if watch is not None and packet.stream is video:
                watch.decode(packet)
            elif ear is not None and packet.stream is audio:
                ear.decode(packet)
            if all(watcher.done for watcher in (watch, ear) if watcher is not None):
                break
        if watch is not None:
            span = watch.finish()
        else:
            assert ear is not None
            span = DecodedSpan(ear.start_s, ear.end_s, 0, ear.damaged)
    if span.start_s is None:
        raise MediaError(
            "no_decodable_frames",
            "Nothing in this stretch decodes.",
            subject=uri,
            remedy="It is probably truncated: upload it again.",
        )
    return span


def pictures(
    uri: str,
    source: SourceFormat,
    start_s: float,
    end_s: float,
    *,
    thread_count: int = 1,
) -> Iterator[tuple[float, VideoFrame]]:
    """The pictures on show during a span, at full size, as the codec stores them.

    The first is the one shown at `start_s`, which may have begun before it; its own time is given.

    Raises:
        MediaError: the file cannot be opened, or `no_decodable_frames`.
    """
    shown = False
    with open_media(uri) as container:
        if source.video_index is None:
            raise MediaError("no_video", "It holds no pictures.", subject=uri)
        stream = container.streams[source.video_index]
        stream.codec_context.thread_count = thread_count
        stream.codec_context.thread_type = "AUTO" if thread_count > 1 else "NONE"
        clock = _Clock(source.container_start_s, 1.0 / (source.fps or 25.0))
        _seek(container, source, start_s)
        before: tuple[float, VideoFrame] | None = None
        for packet in _packets(container, [stream]):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    if not isinstance(frame, VideoFrame):
                        continue
                    time_s = clock.time_s(frame)
                    if time_s is None:
                        continue
                    if time_s >= end_s:
                        if before is not None and not shown:
                            yield before
                        return
                    if time_s <= start_s:
                        before = (time_s, frame)
                        continue
                    if before is not None and not shown:
                        yield before
                    shown = True
                    yield time_s, frame
        if before is not None and not shown:
            shown = True
            yield before
    if not shown:
        raise MediaError("no_decodable_frames", "Nothing in this span decodes.", subject=uri)


def read_audio(uri: str, source: SourceFormat, start_s: float, end_s: float) -> AudioBlock:
    """The sound of a span on the source's own time axis: float32 [samples, channels].

    Contiguous; where the source has no sound there is silence. The first sample lies at the
    returned `start_s`, which is within half a sample of the one asked for.

    Raises:
        MediaError: the file cannot be opened, or it has no sound (`no_audio`).
    """
    if source.audio_index is None or not source.audio_rate_hz or not source.audio_channels:
        raise MediaError("no_audio", "It holds no sound.", subject=uri)
    rate_hz = source.audio_rate_hz
    first = round(start_s * rate_hz)
    samples = np.zeros((round(end_s * rate_hz) - first, source.audio_channels), np.float32)

    def place(block: AudioBlock) -> None:
        offset = round(block.start_s * rate_hz) - first
        source_from = max(0, -offset)
        length = min(len(block.samples) - source_from, len(samples) - max(0, offset))
        if length > 0:
            into = max(0, offset)
            samples[into : into + length] = block.samples[source_from : source_from + length]

    with open_media(uri) as container:
        stream = container.streams[source.audio_index]
        ear = _AudioWatch(source, start_s - 1.0 / rate_hz, end_s + 1.0 / rate_hz, place)
        _seek(container, source, start_s)
        for packet in _packets(container, [stream]):
            ear.decode(packet)
            if ear.done:
                break
    return AudioBlock(first / rate_hz, rate_hz, samples)


class _PictureWatch:
    """Decodes video packets of a stretch into proxies, and keeps count of time and damage."""

    def __init__(
        self,
        source: SourceFormat,
        start_s: float,
        end_s: float,
        on_picture: Callable[[Picture], None],
    ) -> None:
        self._start_s, self._end_s = start_s, end_s
        self._interval_s = 1.0 / source.fps if source.fps else 0.04
        self._clock = _Clock(source.container_start_s, self._interval_s)
        self._scaler = ProxyScaler(source)
        self._rotation_deg = source.rotation_deg
        self._on_picture = on_picture
        self._held: tuple[float, VideoFrame, bool] | None = None
        self._intervals: list[float] = []
        self._count = 0
        self._first_s: float | None = None
        self._damaged_since_s: float | None = None
        self._damage_pending = False
        self._damaged: list[Span] = []
        self.done = False

    def decode(self, packet: Packet[Any]) -> None:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self._damage_pending = True
            return
        for frame in frames:
            if isinstance(frame, VideoFrame) and not self.done:
                self._take(frame)

    def _take(self, frame: VideoFrame) -> None:
        disordered = self._clock.disordered
        time_s = self._clock.time_s(frame)
        if frame.is_corrupt or self._clock.disordered > disordered:
            self._damage_pending = True
        if time_s is None:
            return
        if time_s < self._start_s:
            # Damage before the stretch reaches into it only if no key frame has come since.
            self._damage_pending = self._damage_pending and not frame.key_frame
            return
        if time_s >= self._end_s:
            self._emit(until_s=self._end_s)
            self.done = True
            return
        self._emit(until_s=time_s)
        self._track_damage(time_s, clean=frame.key_frame and not frame.is_corrupt)
        self._held = (time_s, frame, self._damaged_since_s is not None)

    def _track_damage(self, time_s: float, *, clean: bool) -> None:
        if self._damage_pending and self._damaged_since_s is None:
            self._damaged_since_s = time_s
        elif clean and self._damaged_since_s is not None and not self._damage_pending:
            self._damaged.append(Span(self._damaged_since_s, time_s))
            self._damaged_since_s = None
        self._damage_pending = False

    def _emit(self, until_s: float) -> None:
        """Pass the held picture on, now that it is known how long it is shown."""
        if self._held is None:
            return
        time_s, frame, damaged = self._held
        self._held = None
        luma, chroma_u, chroma_v = self._scaler.planes(frame)
        source_luma, bits = luma_plane(frame)
        self._first_s = time_s if self._first_s is None else self._first_s
        self._intervals.append(until_s - time_s)
        self._on_picture(
            Picture(
                index=self._count,
                time_s=time_s,
                duration_s=until_s - time_s,
                luma=luma,
                chroma_u=chroma_u,
                chroma_v=chroma_v,
                source_luma=source_luma,
                source_luma_bits=bits,
                full_range=is_full_range(frame),
                rotation_deg=self._rotation_deg,
                damaged=damaged,
            )
        )
        self._count += 1

    def finish(self) -> DecodedSpan:
        end_s: float | None = None
        if self._held is not None:
            time_s, frame, _ = self._held
            end_s = min(time_s + self._last_duration_s(frame), self._end_s)
            self._emit(until_s=end_s)
        elif self.done and self._count:
            end_s = self._end_s
        if self._damaged_since_s is not None and end_s is not None:
            self._damaged.append(Span(self._damaged_since_s, end_s))
        start_s = self._first_s
        if start_s is not None and math.isfinite(self._start_s):
            # The picture that began before the stretch is still on show at its start.
            start_s = self._start_s
        return DecodedSpan(start_s, end_s, self._count, self._damaged)

    def _last_duration_s(self, frame: VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        if self._intervals:
            return float(np.median(self._intervals))
        return self._interval_s


class _AudioWatch:
    """Decodes audio packets of a stretch into float32 blocks of the source's rate and channels."""

    def __init__(
        self,
        source: SourceFormat,
        start_s: float,
        end_s: float,
        on_audio: Callable[[AudioBlock], None],
    ) -> None:
        assert source.audio_rate_hz and source.audio_channels
        self._rate_hz, self._channels = source.audio_rate_hz, source.audio_channels
        self._origin_s = source.container_start_s
        self._span_start_s, self._span_end_s = start_s, end_s
        self._on_audio = on_audio
        self._resampler: AudioResampler | None = None
        self._next_s: float | None = None
        self._damage_from_s: float | None = None
        self.start_s: float | None = None
        self.end_s: float | None = None
        self.damaged: list[Span] = []
        self.done = False

    def decode(self, packet: Packet[Any]) -> None:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self._damage_from_s = self._next_s
            return
        for frame in frames:
            if isinstance(frame, AudioFrame) and not self.done:
                self._take(frame)

    def _take(self, frame: AudioFrame) -> None:
        if frame.pts is not None and frame.time_base:
            start_s = float(frame.pts * frame.time_base) - self._origin_s
        else:
            start_s = self._next_s or 0.0
        samples = self._samples(frame)
        self._next_s = start_s + len(samples) / self._rate_hz
        if self._damage_from_s is not None:
            if start_s > self._damage_from_s:
                self.damaged.append(Span(self._damage_from_s, start_s))
            self._damage_from_s = None
        if start_s >= self._span_end_s:
            self.done = True
            return
        skip = 0
        if start_s < self._span_start_s:
            skip = round((self._span_start_s - start_s) * self._rate_hz)
        keep = len(samples)
        if self._next_s > self._span_end_s:
            keep = round((self._span_end_s - start_s) * self._rate_hz)
        if skip >= keep:
            return
        start_s += skip / self._rate_hz
        block = AudioBlock(start_s, self._rate_hz, samples[skip:keep])
        self.start_s = start_s if self.start_s is None else self.start_s
        self.end_s = start_s + len(block.samples) / self._rate_hz
        self._on_audio(block)

    def _samples(self, frame: AudioFrame) -> npt.NDArray[np.float32]:
        same = frame.sample_rate == self._rate_hz and frame.layout.nb_channels == self._channels
        if not same:
            # A broadcast may switch layout half way: bring all to what the probe found.
            if self._resampler is None:
                layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(self._channels, "stereo")
                self._resampler = AudioResampler("fltp", layout, self._rate_hz)
            parts = [_float_samples(part) for part in self._resampler.resample(frame)]
            return np.concatenate(parts) if parts else np.zeros((0, self._channels), np.float32)
        return _float_samples(frame)


_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 9223372036854775808.0}


def _float_samples(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """A frame's samples as float32 [samples, channels], full scale at +-1."""
    raw = frame.to_ndarray()
    raw = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    kind = frame.format.name.rstrip("p")
    if kind not in _FULL_SCALE:
        return np.ascontiguousarray(raw, dtype=np.float32)
    centred = raw.astype(np.float32) - (128.0 if kind == "u8" else 0.0)
    return np.ascontiguousarray(centred / np.float32(_FULL_SCALE[kind]), dtype=np.float32)


def _seek(container: InputContainer, source: SourceFormat, start_s: float) -> None:
    if not math.isfinite(start_s) or start_s <= _SEEK_MARGIN_S:
        return
    target = int((start_s - _SEEK_MARGIN_S + source.container_start_s) * av.time_base)
    # A container that cannot seek is read from its start; what comes too early is passed over.
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(target, backward=True)


def _packets(container: InputContainer, streams: list[av.stream.Stream]) -> Iterator[Packet[Any]]:
    """Packets of the streams, then the empty ones that flush the decoders; ends at a read error."""
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            # The rest of the file is unreadable; what was decoded so far stands.
            return
        yield packet
