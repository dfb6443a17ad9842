"""The pairs of a clip's frames that RAFT compares, and the size at which it sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from manifests.errors import MediaError
from stages.media.blocks import ByteImage, SourceFormat
from stages.media.sampled_frames import RgbConformer
from stages.models.raft import SIDE_STEP_PX
from stages.video.motion.flow import LONGEST_PAIR_S, STATED_SHORT_SIDE_PX, RaftParameters

_LONG_SIDE_LIMIT_PX = 1024
"""What is wider than 4:1 is squeezed to this: correlations cost by the square of the area."""
_TIME_SLACK_S = 5e-4
"""Containers round times."""


@dataclasses.dataclass(frozen=True)
class FramePairs:
    """A clip's frames as RAFT sees them, and which of them are a pair.

    `frames` is uint8 RGB [frames, height, width, 3]; `pairs` holds indices into it,
    int64 [pairs, 2]; `apart_s` is float64 [pairs]. `shown_px` is the width and height, at a short
    side of 256 px, of what those frames show: the network's sides are rounded.
    """

    frames: ByteImage
    pairs: npt.NDArray[np.int64]
    apart_s: npt.NDArray[np.float64]
    shown_px: tuple[float, float]
    frozen_share: float
    dropped_share: float


def shown_size(source: SourceFormat) -> tuple[float, float]:
    """Width and height of a source's frames at a short side of 256 px.

    Raises:
        MediaError: `no_video`.
    """
    if not source.width or not source.height:
        raise MediaError("no_video", "It holds no pictures.")
    scale = STATED_SHORT_SIDE_PX / min(source.width, source.height)
    return source.width * scale, source.height * scale


def network_size(source: SourceFormat) -> tuple[int, int]:
    """Width and height that the network sees: 256 px the short side, a multiple of 8 the long one.

    Raises:
        MediaError: `no_video`.
    """
    width, height = (
        min(_LONG_SIDE_LIMIT_PX, round(side / SIDE_STEP_PX) * SIDE_STEP_PX)
        for side in shown_size(source)
    )
    return width, height


class PairFinder:
    """Picks pairs out of a clip's frames as they go by, and keeps only what it picks.

    Args:
        settings: how far apart and how many.
        conformer: brings what is kept to size.
        duration_s: of the clip.
    """

    def __init__(
        self, settings: RaftParameters, conformer: RgbConformer, duration_s: float
    ) -> None:
        self._pair_s = settings.pair_s
        self._most = settings.max_pairs
        self._every_s = max(1.0 / settings.pairs_hz, duration_s / settings.max_pairs)
        self._conformer = conformer
        self.images: list[ByteImage] = []
        self.times_s: list[float] = []
        self.pairs: list[tuple[int, int]] = []

    def find(self, timed: Iterable[tuple[float, VideoFrame]]) -> PairFinder:
        """Look at a clip's frames in order.

        A pair's second frame may be the next one's first. A clip that is too short for a pair at
        the distance asked for has its first and last frame compared.
        """
        first: int | None = None
        next_first_s = -np.inf
        last: tuple[float, VideoFrame] | None = None
        for time_s, frame in timed:
            last = time_s, frame
            if first is not None and time_s >= self.times_s[first] + self._pair_s - _TIME_SLACK_S:
                self._add(first, time_s, frame)
                first = None
            if len(self.pairs) == self._most:
                break
            if first is None and time_s >= next_first_s - _TIME_SLACK_S:
                first = self._keep(time_s, frame)
                next_first_s = time_s + self._every_s
        if not self.pairs and first is not None and last is not None:
            self._add(first, *last)
        return self

    def _add(self, first: int, time_s: float, frame: VideoFrame) -> None:
        if 0 < time_s - self.times_s[first] <= LONGEST_PAIR_S + _TIME_SLACK_S:
            self.pairs.append((first, self._keep(time_s, frame)))

    def _keep(self, time_s: float, frame: VideoFrame) -> int:
        if not self.times_s or self.times_s[-1] != time_s:
            self.times_s.append(time_s)
            self.images.append(self._conformer.image(frame))
        return len(self.times_s) - 1
