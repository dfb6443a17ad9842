"""From a source's frames to those a model is trained on: one geometry, one rate, one colour space.

Margins off, upright, square pixels, one area, progressive, BT.709, 8 bits, a constant frame rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

from av.filter import Graph
from av.video.frame import VideoFrame

from manifests.errors import MediaError
from stages.media.blocks import Margins, SourceFormat
from stages.media.decode import decode_frames
from stages.media.heartbeat import beat
from stages.media.probe import is_full_range

PixelFormat = Literal["yuv420p", "rgb24"]
Shown = TypeVar("Shown")

_TIME_TOLERANCE_S = 1e-6
"""Presentation times are floats made of ticks: a frame this close to a border lies on it."""
_DEINTERLACE_LEAD_FRAMES = 2
"""bwdif looks at the frame before: without one the first frame of a clip would be a guess."""
_SCALER_FLAGS = "bicubic+full_chroma_int+accurate_rnd+bitexact"
"""The last two make the scaler give the same pixels whatever vector instructions a machine has."""

# Numbers are those of ITU-T H.273, which FFmpeg and the containers use.
_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
_TRANSFERS = {14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 18: "arib-std-b67"}
_BT2020_PRIMARIES = 9
_HDR_TRANSFERS = frozenset({16, 18})
_HD_LONG_SIDE_PX = 1280
_SD_SHORT_SIDE_PX = 576


def conformed_size(source: SourceFormat, margins_px: Margins, area_px: int) -> tuple[int, int]:
    """Width and height of a conformed frame: both even, the aspect ratio kept.

    Raises:
        MediaError: `no_picture_left`, the margins are as large as the frame.
    """
    if not source.width or not source.height:
        raise ValueError("only sources with pictures have a size")
    left_width = source.width - margins_px.left - margins_px.right
    left_height = source.height - margins_px.top - margins_px.bottom
    if left_width < 2 or left_height < 2:
        raise MediaError("no_picture_left", "The margins leave nothing of the picture.")
    aspect = left_width / left_height
    width, height = math.sqrt(area_px * aspect), math.sqrt(area_px / aspect)
    return max(2, round(width / 2) * 2), max(2, round(height / 2) * 2)


def conformed_frames(
    uri: str,
    source: SourceFormat,
    start_s: float,
    *,
    margins_px: Margins,
    area_px: int,
    frames: int,
    fps: int,
    pixel_format: PixelFormat,
    thread_count: int = 1,
) -> Iterator[VideoFrame]:
    """Exactly `frames` of them at `fps` from `start_s` on, of `conformed_size`.

    A frame that stays for several ticks comes as the same object again. `yuv420p` is limited
    range BT.709, `rgb24` its full-range counterpart.

    Args:
        uri: the file.
        source: its format, as `probe` found it.
        start_s: source time of the first tick.
        margins_px: bars to take off.
        area_px: width x height of what comes out.
        frames: how many.
        fps: ticks a second.
        pixel_format: of what comes out.
        thread_count: of the video decoder.

    Raises:
        MediaError: the file cannot be read, `no_decodable_frames` or `no_picture_left`.
    """
    conformer = FrameConformer(source, margins_px, area_px, pixel_format)
    lead_s = _DEINTERLACE_LEAD_FRAMES / (source.fps or 25.0) if source.interlaced else 0.0
    # Nothing later than half a tick after the last one can be the nearest to it.
    end_s = start_s + (frames - 0.5) / fps
    timed = decode_frames(uri, source, start_s - lead_s, end_s, thread_count=thread_count)
    last: VideoFrame | None = None
    conformed: VideoFrame | None = None
    for frame in sample_and_hold(deinterlaced(timed), start_s, frames=frames, fps=fps):
        if conformed is None or frame is not last:
            last, conformed = frame, conformer.conform(frame)
        beat()
        yield conformed


def sample_and_hold(
    timed: Iterable[tuple[float, Shown]], start_s: float, *, frames: int, fps: float
) -> Iterator[Shown]:
    """What each of `frames` output ticks shows.

    Every frame belongs to the tick nearest to its presentation time; of several the last wins,
    and a tick that none belongs to repeats the one before. So an instant of the source moves by
    half a tick at most. Ticks before the first frame show that one.

    Args:
        timed: frames with their times in seconds, in presentation order, not empty.
        start_s: time of the first tick.
        frames: how many ticks.
        fps: ticks a second.
    """
    shown: list[Shown] = []
    tick = 0
    for time_s, frame in timed:
        while shown and tick < frames and time_s > _half_tick_after(tick, start_s, fps):
            yield shown[0]
            tick += 1
        if tick == frames:
            return
        shown = [frame]
    while shown and tick < frames:
        yield shown[0]
        tick += 1


def _half_tick_after(tick: int, start_s: float, fps: float) -> float:
    return start_s + (2 * tick + 1) / (2 * fps) - _TIME_TOLERANCE_S


def deinterlaced(timed: Iterable[tuple[float, VideoFrame]]) -> Iterator[tuple[float, VideoFrame]]:
    """The frames with interlaced ones made progressive (bwdif), at the same times and rate.

    Progressive frames pass as they are, also between interlaced ones.
    """
    deinterlacer: _Deinterlacer | None = None
    for time_s, frame in timed:
        if deinterlacer is not None and not deinterlacer.fits(frame):
            yield from deinterlacer.finish()
            deinterlacer = None
        if deinterlacer is None and frame.interlaced_frame:
            deinterlacer = _Deinterlacer(frame)
        if deinterlacer is None:
            yield time_s, frame
        else:
            yield from deinterlacer.push(time_s, frame)
    if deinterlacer is not None:
        yield from deinterlacer.finish()


class _Deinterlacer:
    """bwdif on frames of one shape; it holds one frame back."""

    def __init__(self, frame: VideoFrame) -> None:
        self._shape = (frame.width, frame.height, frame.format.name)
        self._graph = _filter_graph(frame, [("bwdif", "mode=send_frame:deint=interlaced")])
        self._times_s: list[float] = []

    def fits(self, frame: VideoFrame) -> bool:
        return self._shape == (frame.width, frame.height, frame.format.name)

    def push(self, time_s: float, frame: VideoFrame) -> Iterator[tuple[float, VideoFrame]]:
        # Presentation times may lie unevenly: the filter gets numbers, which find the time again.
        frame.pts = len(self._times_s)
        self._times_s.append(time_s)
        self._graph.vpush(frame)
        return self._pull()

    def finish(self) -> Iterator[tuple[float, VideoFrame]]:
        self._graph.vpush(None)
        return self._pull()

    def _pull(self) -> Iterator[tuple[float, VideoFrame]]:
        while True:
            try:
                frame = self._graph.vpull()
            except (BlockingIOError, EOFError):
                return
            assert frame.pts is not None
            # The filter's clock runs at twice the rate, to have a tick for every field.
            yield self._times_s[frame.pts // 2], frame


class FrameConformer:
    """Turns progressive frames as the codec stores them into conformed frames.

    Args:
        source: the format that the margins speak of.
        margins_px: bars to take off.
        area_px: width x height of what comes out.
        pixel_format: of what comes out.
    """

    def __init__(
        self, source: SourceFormat, margins_px: Margins, area_px: int, pixel_format: PixelFormat
    ) -> None:
        self._source = source
        self._margins_px = margins_px
        self._pixel_format = pixel_format
        self.width, self.height = conformed_size(source, margins_px, area_px)
        self._key: tuple[object, ...] | None = None
        self._graph: Graph | None = None

    def conform(self, frame: VideoFrame) -> VideoFrame:
        """One frame of `width` x `height`, of the conformer's pixel format."""
        frame.pts = 0
        key = (frame.width, frame.height, frame.format.name, _colour_arguments(frame))
        if self._graph is None or key != self._key:
            # A stream may change its size or its tags on the way.
            self._key = key
            self._graph = _filter_graph(frame, self._filters(frame))
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _filters(self, frame: VideoFrame) -> list[tuple[str, str]]:
        rotation_deg = self._source.rotation_deg
        sideways = rotation_deg in (90, 270)
        width, height = (self.height, self.width) if sideways else (self.width, self.height)
        left, top, kept_width, kept_height = _coded_crop(self._source, self._margins_px, frame)
        rgb = self._pixel_format == "rgb24"
        out = "out_range=pc" if rgb else "out_range=tv:out_color_matrix=bt709"
        scale = f"{width}:{height}:flags={_SCALER_FLAGS}:{_colour_arguments(frame)}:{out}"
        turns = {
            90: [("transpose", "clock")],
            180: [("hflip", ""), ("vflip", "")],
            270: [("transpose", "cclock")],
        }
        return [
            ("crop", f"{kept_width}:{kept_height}:{left}:{top}:exact=1"),
            ("scale", scale),
            ("format", self._pixel_format),
            *turns.get(rotation_deg, []),
        ]


def _coded_crop(
    source: SourceFormat, margins_px: Margins, frame: VideoFrame
) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is kept, in pixels as the codec stores them.

    Where there is a margin the border moves inwards to the next whole chroma sample: a pixel of the
    frame less is better than a line of the bar.
    """
    assert source.width and source.height
    shares = {  # of the displayed picture
        "top": margins_px.top / source.height,
        "right": margins_px.right / source.width,
        "bottom": margins_px.bottom / source.height,
        "left": margins_px.left / source.width,
    }
    # Turning clockwise carries the stored left side to the top, the top to the right, and so on.
    clockwise = ["left", "top", "right", "bottom"]
    quarter_turns = source.rotation_deg // 90
    coded = {
        side: shares[clockwise[(position + quarter_turns) % 4]]
        for position, side in enumerate(clockwise)
    }
    step_x = 16 // max(1, frame.format.chroma_width(16))
    step_y = 16 // max(1, frame.format.chroma_height(16))
    left = _inwards(coded["left"] * frame.width, step_x)
    top = _inwards(coded["top"] * frame.height, step_y)
    right, bottom = frame.width, frame.height
    if coded["right"] > 0:
        right = _outwards((1 - coded["right"]) * frame.width, step_x)
    if coded["bottom"] > 0:
        bottom = _outwards((1 - coded["bottom"]) * frame.height, step_y)
    if right - left < step_x or bottom - top < step_y:
        raise MediaError("no_picture_left", "The margins leave nothing of the picture.")
    return left, top, right - left, bottom - top


def _inwards(position_px: float, step_px: int) -> int:
    return math.ceil(position_px / step_px - 1e-6) * step_px


def _outwards(position_px: float, step_px: int) -> int:
    return math.floor(position_px / step_px + 1e-6) * step_px


def _colour_arguments(frame: VideoFrame) -> str:
    """What the scaler has to know of a frame's colours, as arguments of FFmpeg's filter `scale`.

    Matrix and range are converted for every source. Primaries and transfer only where they matter
    much, for wide gamut and HDR sources (tone-mapped): building those tables takes two seconds.
    """
    long_side, short_side = max(frame.width, frame.height), min(frame.width, frame.height)
    high_definition = long_side >= _HD_LONG_SIDE_PX or short_side > _SD_SHORT_SIDE_PX
    matrix = _MATRICES.get(int(frame.colorspace), "bt709" if high_definition else "bt601")
    full_range = is_full_range(frame)
    arguments = f"in_color_matrix={matrix}:in_range={'pc' if full_range else 'tv'}"
    transfer = int(frame.color_trc)
    if int(frame.color_primaries) == _BT2020_PRIMARIES or transfer in _HDR_TRANSFERS:
        arguments += (
            f":in_primaries=bt2020:in_transfer={_TRANSFERS.get(transfer, 'bt709')}"
            ":out_primaries=bt709:out_transfer=bt709"
        )
    return arguments


def _filter_graph(frame: VideoFrame, filters: list[tuple[str, str]]) -> Graph:
    graph = Graph()
    graph.threads = 1
    last = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
        ":time_base=1/1000:pixel_aspect=1/1",
    )
    for name, arguments in [*filters, ("buffersink", "")]:
        following = graph.add(name, arguments or None)
        last.link_to(following)
        last = following
    graph.configure()
    return graph
