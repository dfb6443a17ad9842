"""Video packets decoded into frames of proxy size, with their times, and where there is damage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from manifests.store.records import Span
from stages.media.blocks import DecodedSpan, Frame, SourceFormat, seconds
from stages.media.frame_clock import FrameClock
from stages.media.probe import is_full_range
from stages.media.proxy import ProxyScaler, luma_plane


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
        self._clock = FrameClock(source)
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
