"""When the frames of a video stream are shown: their presentation times, in order."""

from __future__ import annotations

from av.video.frame import VideoFrame

from stages.media.blocks import SourceFormat, seconds

_WITHOUT_PRESENTATION_TIMES = frozenset({"avi"})
"""Containers that tell only in which order packets are decoded."""
_STARTS_OVER_S = 1.0
"""Times that fall back by more belong to another recording, joined to the first."""


class FrameClock:
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
