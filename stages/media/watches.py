"""What a stretch holds while it is decoded: times, damage, frames and blocks of sound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.packet import Packet
from av.video.frame import VideoFrame

from manifests.store.records import Span
from stages.media.blocks import AudioBlock, Frame, SourceFormat
from stages.media.probe import is_full_range
from stages.media.proxy import ProxyScaler, luma_plane
from stages.media.sample_clock import Block, SampleClock

_WITHOUT_PRESENTATION_TIMES = frozenset({"avi"})
"""Containers that tell only in which order packets are decoded."""
_BARE_AUDIO = frozenset({"ac3", "eac3", "dts", "mlp", "truehd"})
"""Containers that are nothing but packets."""
_COUNTED_IN_WAV = ("pcm", "mp2", "mp3", "ac3", "dca")
"""Codecs of which FFmpeg knows the place after a seek in a WAV file, by bytes or by reading."""
_LAYOUTS = {
    1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1",
}  # fmt: skip
"""FFmpeg's default layout for a number of channels."""
_STARTS_OVER_S = 1.0
"""By how much times must fall back to be those of another recording, put behind the first."""


@dataclasses.dataclass(frozen=True)
class DecodedSpan:
    """What a stretch held: the span its frames (or, without any, its sound) cover, and damage.

    `started_over` is how many frames were passed over since their times fall back behind those of
    frames before them, as where two recordings were put behind each other.
    """

    start_s: float | None
    end_s: float | None
    frames: int
    damaged: list[Span]
    started_over: int = 0


class Clock:
    """Presentation times of one stream, in source time, never running backwards.

    Args:
        source: the file's format.
    """

    def __init__(self, source: SourceFormat) -> None:
        self._origin_s = source.container_start_s
        self._interval_s = 1.0 / source.fps if source.fps else 0.04
        # AVI has no presentation times: what FFmpeg makes up for them may be in decoding order.
        self._by_decoding = source.container in _WITHOUT_PRESENTATION_TIMES
        self._lag: int | None = None
        self._last_s: float | None = None
        self.started_over = 0

    def time_s(self, frame: VideoFrame) -> float | None:
        """The frame's time, or None for a frame that a player would never get to show."""
        if self._lag is None and frame.pts is not None and frame.dts is not None:
            self._lag = frame.dts - frame.pts
        told_s, last_s = self._told(frame), self._last_s
        if last_s is None:
            return self._follow(told_s or 0.0)
        if told_s is None:
            return self._follow(last_s + self._interval_s)
        if told_s > last_s:
            self._interval_s = told_s - last_s
            return self._follow(told_s)
        if self._by_decoding or frame.dts is None:
            self.started_over += told_s < last_s - _STARTS_OVER_S
            return None
        # Frames come in the order in which they are shown: the times are those of decoding.
        self._by_decoding = True
        return self.time_s(frame)

    def _follow(self, time_s: float) -> float:
        self._last_s = time_s
        return time_s

    def _told(self, frame: VideoFrame) -> float | None:
        """What the container tells of the frame's time.

        A frame's `dts` is the time of the packet that made the decoder release it: such times come
        in order, later than the frame's own by as much as the decoder holds back.
        """
        stamp = frame.pts
        if stamp is None or (self._by_decoding and self._last_s is not None):
            # What the decoder releases at the end has no such time: it follows the one before.
            stamp = None if frame.dts is None else frame.dts - (self._lag or 0)
        if stamp is None or not frame.time_base:
            return None
        return seconds(stamp, frame.time_base) - self._origin_s


class VideoDecoder:
    """Decodes video packets of a stretch into proxies, and keeps count of time and damage."""

    def __init__(
        self,
        source: SourceFormat,
        start_s: float,
        end_s: float,
        on_frame: Callable[[Frame], None],
    ) -> None:
        self._start_s, self._end_s = start_s, end_s
        self._interval_s = 1.0 / source.fps if source.fps else 0.04
        self._clock = Clock(source)
        self._scaler = ProxyScaler(source)
        self._rotation_deg = source.rotation_deg
        self._on_frame = on_frame
        self._held: tuple[float, VideoFrame, bool] | None = None
        self._intervals: list[float] = []
        self._count = 0
        self._first_s: float | None = None
        self._damaged_since_s: float | None = None
        self._damage_pending = False
        self._damaged: list[Span] = []
        self.done = False

    def decode(self, packet: Packet[Any]) -> None:
        """Take the next packet; an empty one flushes the decoder."""
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self._damage_pending = True
            return
        for frame in frames:
            if isinstance(frame, VideoFrame) and not self.done:
                self._take(frame)

    def _take(self, frame: VideoFrame) -> None:
        time_s = self._clock.time_s(frame)
        # Damage is what the decoder says: times out of order are a matter of the container.
        self._damage_pending = self._damage_pending or frame.is_corrupt
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
        """Pass the held frame on, now that it is known how long it is shown."""
        if self._held is None:
            return
        time_s, frame, damaged = self._held
        self._held = None
        luma, chroma_u, chroma_v = self._scaler.planes(frame)
        source_luma, bits = luma_plane(frame)
        self._first_s = time_s if self._first_s is None else self._first_s
        self._intervals.append(until_s - time_s)
        self._on_frame(
            Frame(
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
        """Pass the last frame on; what the stretch held."""
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
            # The frame that began before the stretch is still on show at its start.
            start_s = self._start_s
        started_over = self._clock.started_over
        return DecodedSpan(start_s, end_s, self._count, self._damaged, started_over)

    def _last_duration_s(self, frame: VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return seconds(frame.duration, frame.time_base)
        if self._intervals:
            return float(np.median(self._intervals))
        return self._interval_s


class AudioDecoder:
    """Decodes audio packets of a stretch into float32 blocks of the source's rate and channels.

    Blocks come in order, without overlaps; where the stream has a gap there is one between blocks.

    Args:
        source: the file's format.
        start_s: start of the stretch, or -inf.
        end_s: its end, or inf.
        on_audio: called with every block.
        clock: where blocks lie.
    """

    def __init__(
        self,
        source: SourceFormat,
        start_s: float,
        end_s: float,
        on_audio: Callable[[AudioBlock], None],
        clock: SampleClock,
    ) -> None:
        assert source.audio_rate_hz and source.audio_channels
        self._rate_hz, self._channels = source.audio_rate_hz, source.audio_channels
        self._origin_s = source.container_start_s
        self._span_start = _sample_at(start_s, self._rate_hz)
        self._span_end = _sample_at(end_s, self._rate_hz)
        self._on_audio = on_audio
        self._clock = clock
        self._has_times = not has_guessed_audio_times(source)
        self._resampler: AudioResampler | None = None
        self._format: tuple[int, str, str] | None = None
        self._layout: str | None = None
        self._damage_pending = False
        self._heard_until: int | None = None
        self.start_s: float | None = None
        self.end_s: float | None = None
        self.damaged: list[Span] = []
        self.done = False

    def decode(self, packet: Packet[Any]) -> None:
        """Take the next packet; an empty one flushes the decoder."""
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self._damage_pending = True
            return
        for frame in frames:
            if isinstance(frame, AudioFrame) and not self.done:
                self._take(frame)

    def finish(self) -> None:
        """Pass on what is still held at the end of the stream."""
        if not self.done:
            self._deliver(self._clock.push(Block(None, self._resampled(None))))
        self._deliver(self._clock.finish())

    def _take(self, frame: AudioFrame) -> None:
        time_s = frame_time_s(frame, self._origin_s) if self._has_times else None
        block = Block(time_s, self._samples(frame), self._damage_pending)
        if len(block.samples):
            self._damage_pending = False
        self._deliver(self._clock.push(block))

    def _deliver(self, placed: Iterator[tuple[int, Block]]) -> None:
        for first, block in placed:
            end = first + len(block.samples)
            before = self._heard_until
            if block.after_damage and before is not None:
                lost = max(before, self._span_start), min(first, self._span_end)
                if lost[0] < lost[1]:
                    self.damaged.append(Span(lost[0] / self._rate_hz, lost[1] / self._rate_hz))
            self._heard_until = end if before is None else max(before, end)
            if first >= self._span_end:
                self.done = True
                return
            # Of what lies before the stretch, or overlaps what has been heard, nothing is passed.
            start = max(first, self._span_start, first if before is None else before)
            kept = block.samples[int(start - first) : int(min(end, self._span_end) - first)]
            if start >= end or not len(kept):
                continue
            self._on_audio(AudioBlock(start / self._rate_hz, self._rate_hz, kept))
            self.start_s = start / self._rate_hz if self.start_s is None else self.start_s
            self.end_s = (start + len(kept)) / self._rate_hz

    def _samples(self, frame: AudioFrame) -> npt.NDArray[np.float32]:
        """The frame's samples in the format that the probe found, which a broadcast may leave."""
        found = frame.sample_rate, frame.layout.name, frame.format.name
        is_known = frame.sample_rate == self._rate_hz and frame.layout.nb_channels == self._channels
        if is_known:
            self._layout = self._layout or frame.layout.name
        if found == self._format:
            return _float_samples(frame) if is_known else self._resampled(frame)
        rest = self._resampled(None)
        self._format = found
        if is_known:
            return np.concatenate([rest, _float_samples(frame)])
        layout = self._layout or _LAYOUTS.get(self._channels, "stereo")
        self._resampler = AudioResampler("fltp", layout, self._rate_hz)
        return np.concatenate([rest, self._resampled(frame)])

    def _resampled(self, frame: AudioFrame | None) -> npt.NDArray[np.float32]:
        """What the resampler makes of a frame; of None, what it still holds, at its end."""
        nothing = np.zeros((0, self._channels), np.float32)
        if self._resampler is None:
            return nothing
        parts = [_float_samples(part) for part in self._resampler.resample(frame)]
        if frame is None:
            self._resampler = None
        return np.concatenate([nothing, *parts])


def has_guessed_audio_times(source: SourceFormat) -> bool:
    """Whether a file's sound has no times but what FFmpeg adds up from rounded lengths.

    These drift, and after a seek they are off by what they have drifted: such files, which hold
    nothing but sound, are counted from their start.
    """
    in_wav = source.container in ("wav", "w64")
    is_counted = (source.audio_codec or "").startswith(_COUNTED_IN_WAV)
    return source.container in _BARE_AUDIO or (in_wav and not is_counted)


def frame_time_s(frame: AudioFrame, origin_s: float) -> float | None:
    """A block's presentation time in source time, None if it has none."""
    if frame.pts is None or not frame.time_base:
        return None
    return seconds(frame.pts, frame.time_base) - origin_s


def seconds(ticks: int, time_base: Fraction) -> float:
    """Ticks as seconds, rounded once; arithmetic with fractions would take ten times as long."""
    return ticks * time_base.numerator / time_base.denominator


def _sample_at(time_s: float, rate_hz: int) -> float:
    return round(time_s * rate_hz) if math.isfinite(time_s) else time_s


_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 9223372036854775808.0}


def _float_samples(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """A frame's samples as float32 [samples, channels], full scale at +-1.

    What is not a finite number is silence.
    """
    raw = frame.to_ndarray()
    raw = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    kind = frame.format.name.rstrip("p")
    if kind not in _FULL_SCALE:
        samples = np.ascontiguousarray(raw, dtype=np.float32)
        # One of them would spoil every sum and every filter that it meets.
        return samples if np.isfinite(samples).all() else np.where(np.isfinite(samples), samples, 0)
    centred = raw.astype(np.float32) - (128.0 if kind == "u8" else 0.0)
    return np.ascontiguousarray(centred / np.float32(_FULL_SCALE[kind]), dtype=np.float32)
