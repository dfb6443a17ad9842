"""A few upright frames of a clip, as arrays, at the times one asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from av.video.frame import VideoFrame

from manifests.errors import MediaError
from stages.media.blocks import ByteImage, Margins, SourceFormat
from stages.media.conform import FrameConformer, deinterlaced
from stages.media.decode import decode_frames

_TIME_TOLERANCE_S = 1e-6
"""Presentation times are floats made of ticks: a frame this close to a border lies on it."""
_DEINTERLACE_LEAD_FRAMES = 2
"""The deinterlacer looks at the frame before."""
_NO_MARGINS = Margins()


def sampled_frames(
    uri: str,
    source: SourceFormat,
    start_s: float,
    end_s: float,
    times_s: Sequence[float],
    *,
    margins_px: Margins = _NO_MARGINS,
    short_side_px: int | None = None,
    max_long_side_px: int | None = None,
) -> list[ByteImage]:
    """What a clip shows at given times: upright, square pixels, progressive, full-range BT.709.

    Where the clip has no frame yet, or none any more, the nearest one is given.

    Args:
        uri: the file.
        source: its format, as `probe` found it.
        start_s: the clip's start.
        end_s: the clip's end; no frame from there on is looked at.
        times_s: of the source, in any order.
        margins_px: bars to take off.
        short_side_px: of what comes out, larger or smaller than the source; the source's if None.
        max_long_side_px: a limit to what comes out, whatever `short_side_px` says.

    Returns:
        uint8 [height, width, 3] in RGB per time.

    Raises:
        MediaError: the file cannot be read, `no_video`, `no_decodable_frames` or `no_picture_left`.
    """
    if not times_s:
        return []
    width, height = scaled_size(
        source, margins_px, short_side_px=short_side_px, max_long_side_px=max_long_side_px
    )
    conformer = RgbConformer(source, margins_px, width, height)
    inside_s = [min(max(time_s, start_s), end_s) for time_s in times_s]
    timed = progressive_frames(uri, source, min(inside_s), end_s - _TIME_TOLERANCE_S)
    order = sorted(range(len(times_s)), key=inside_s.__getitem__)
    shown = _on_show(timed, [inside_s[position] for position in order])
    found: dict[int, ByteImage] = {}
    last: tuple[VideoFrame, ByteImage] | None = None
    for position, frame in zip(order, shown, strict=False):
        if last is None or frame is not last[0]:
            last = frame, conformer.image(frame)
        found[position] = last[1]
    if not found:
        raise MediaError("no_decodable_frames", "No picture begins before its end.", subject=uri)
    return [found[position] for position in range(len(times_s))]


def scaled_size(
    source: SourceFormat,
    margins_px: Margins = _NO_MARGINS,
    *,
    short_side_px: int | None = None,
    max_long_side_px: int | None = None,
) -> tuple[int, int]:
    """Width and height in pixels of what is left inside the margins, scaled; see `sampled_frames`.

    Raises:
        MediaError: `no_video`, or `no_picture_left`: the margins are as large as the frame.
    """
    if source.video_index is None or not source.width or not source.height:
        raise MediaError("no_video", "It holds no pictures.")
    width = source.width - margins_px.left - margins_px.right
    height = source.height - margins_px.top - margins_px.bottom
    short, long = sorted((width, height))
    if short < 2:
        raise MediaError("no_picture_left", "The margins leave nothing of the picture.")
    scale = 1.0 if short_side_px is None else short_side_px / short
    if max_long_side_px is not None:
        scale = min(scale, max_long_side_px / long)
    return max(1, round(width * scale)), max(1, round(height * scale))


class RgbConformer(FrameConformer):
    """Turns progressive frames as the codec stores them into upright RGB frames of one size.

    Args:
        source: the format that the margins speak of.
        margins_px: bars to take off.
        width: of what comes out, in pixels.
        height: the same.
    """

    def __init__(self, source: SourceFormat, margins_px: Margins, width: int, height: int) -> None:
        super().__init__(source, margins_px, width * height, "rgb24")
        self.width, self.height = width, height

    def image(self, frame: VideoFrame) -> ByteImage:
        """One frame: uint8 [height, width, 3] in RGB."""
        return np.asarray(self.conform(frame).to_ndarray(), dtype=np.uint8)


def progressive_frames(
    uri: str, source: SourceFormat, start_s: float, end_s: float
) -> Iterator[tuple[float, VideoFrame]]:
    """The frames on show during a span as `decode_frames` gives them, interlaced ones deinterlaced.

    Raises:
        MediaError: the file cannot be opened, or `no_decodable_frames`.
    """
    lead_s = _DEINTERLACE_LEAD_FRAMES / (source.fps or 25.0) if source.interlaced else 0.0
    before: tuple[float, VideoFrame] | None = None
    for time_s, frame in deinterlaced(decode_frames(uri, source, start_s - lead_s, end_s)):
        if time_s <= start_s + _TIME_TOLERANCE_S:
            before = time_s, frame
            continue
        if before is not None:
            yield before
            before = None
        yield time_s, frame
    if before is not None:
        yield before


def _on_show(
    timed: Iterable[tuple[float, VideoFrame]], times_s: Sequence[float]
) -> Iterator[VideoFrame]:
    """The frame on show at every one of some times in rising order; the first before it begins.

    Args:
        timed: frames with their times, in order, not empty.
        times_s: rising.
    """
    rising = iter(times_s)
    wanted_s = next(rising)
    shown: VideoFrame | None = None
    for time_s, frame in itertools.chain(timed, [(np.inf, None)]):
        while shown is not None and time_s > wanted_s + _TIME_TOLERANCE_S:
            yield shown
            following_s = next(rising, None)
            if following_s is None:
                return
            wanted_s = following_s
        shown = frame
