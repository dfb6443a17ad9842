"""Audio packets decoded into blocks of samples, each in its place, and where there is damage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.packet import Packet

from manifests.store.records import Span
from stages.media.blocks import AudioBlock, SourceFormat, seconds
from stages.media.sample_clock import Block, SampleClock

_BARE_AUDIO = frozenset({"ac3", "eac3", "dts", "mlp", "truehd"})
"""Containers that are nothing but packets."""
_COUNTED_IN_WAV = ("pcm", "mp2", "mp3", "ac3", "dca")
"""Codecs of which FFmpeg knows the place after a seek in a WAV file, by bytes or by reading."""
_LAYOUTS = {
    1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1",
}  # fmt: skip
"""FFmpeg's default layout for a number of channels."""
_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 9223372036854775808.0}
"""The magnitude of full scale in FFmpeg's integer sample formats."""


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
        time_s = _frame_time_s(frame, self._origin_s) if self._has_times else None
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


def _frame_time_s(frame: AudioFrame, origin_s: float) -> float | None:
    """A block's presentation time in source time, None if it has none."""
    if frame.pts is None or not frame.time_base:
        return None
    return seconds(frame.pts, frame.time_base) - origin_s


def _sample_at(time_s: float, rate_hz: int) -> float:
    return round(time_s * rate_hz) if math.isfinite(time_s) else time_s


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
