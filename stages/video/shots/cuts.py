"""Hard cuts by how much frames change: PySceneDetect's AdaptiveDetector and what it needs besides.

What is shared with other ways to find cuts is here too: `Boundary`, `CutFinder`, the parameters.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from fractions import Fraction
from typing import Literal, Protocol

import cv2
import numpy as np
import pydantic
from scenedetect import FrameTimecode
from scenedetect.common import Timecode
from scenedetect.detectors import AdaptiveDetector

from stages.base.contract import StageParameters
from stages.media.blocks import ByteImage, Frame

BoundaryKind = Literal["cut", "fade", "start"]

_TIME_BASE = Fraction(1, 90_000)
_UNDONE_SHARE = 0.5
"""A change is undone where frames before and after it differ by less than this share of it."""


class ShotsParameters(StageParameters):
    """How shots are told apart; the defaults are those that score best on three public sets."""

    adaptive_threshold: float = pydantic.Field(
        default=3.5, gt=1, description="a cut's change as a multiple of the mean change around it"
    )
    window: int = pydantic.Field(
        default=3, ge=1, description="pictures on either side for that mean"
    )
    min_content: float = pydantic.Field(
        default=2.5,
        ge=0,
        description="least change of a cut, mean of hue, saturation, value (0..255)",
    )
    min_change: float = pydantic.Field(
        default=17.0,
        ge=0,
        description="least change of a cut: mean changes of Y, U and V (0..255), added",
    )
    min_still_change: float = pydantic.Field(
        default=6.0,
        ge=0,
        description="the same where nothing moves on either side, as between slides",
    )
    still_change: float = pydantic.Field(
        default=0.05, ge=0, description="mean change in Y, U, V up to which nothing moves"
    )
    min_shot_s: float = pydantic.Field(
        default=0.3, ge=0, description="boundaries closer than this merge"
    )
    max_flash_s: float = pydantic.Field(
        default=0.1, ge=0, description="a change that is undone within this is a flash, no cut"
    )
    black_luma: float = pydantic.Field(
        default=24.0, ge=0, le=255, description="full-range luma up to which a pixel is black"
    )
    black_share: float = pydantic.Field(
        default=0.98, gt=0, le=1, description="share of black pixels from which a picture is black"
    )
    transnet_threshold: float = pydantic.Field(
        default=0.5, gt=0, lt=1, description="probability from which TransNetV2 sees a transition"
    )


@dataclasses.dataclass(frozen=True)
class Boundary:
    """The presentation time of a new shot's first frame, and how the shot begins."""

    time_s: float
    kind: BoundaryKind


class CutFinder(Protocol):
    """Finds transitions in a row of frames."""

    def frame(self, frame: Frame) -> None:
        """See the next frame."""

    def boundaries(self) -> list[Boundary]:
        """All that was found, in order; called once, at the end."""


class _QuickAdaptiveDetector(AdaptiveDetector):  # type: ignore[misc]  # the package has no types
    """AdaptiveDetector with its score computed in one pass instead of six.

    With the default weights the score is the mean absolute difference over hue, saturation and
    value, which is what the L1 distance of the two HSV frames says.
    """

    _last_hsv: ByteImage | None = None

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: ByteImage) -> float:
        hsv = np.asarray(cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV), dtype=np.uint8)
        last, self._last_hsv = self._last_hsv, hsv
        return 0.0 if last is None else float(cv2.norm(hsv, last, cv2.NORM_L1)) / hsv.size


Planes = tuple[ByteImage, ...]


class AdaptiveCuts:
    """PySceneDetect's AdaptiveDetector, fed with presentation times, and a check on what it says.

    Its score counts hue and saturation, which are noise in dark frames, and a ratio to the change
    around a frame is large wherever little moves: at the start of a fade, or at a key frame of
    poorly coded video. A cut must also change luma and chroma by a least amount, which may be
    small only between frames that stand perfectly still. And it must last: after a flash of a
    photographer's lamp the frame is what it was before.
    """

    def __init__(self, parameters: ShotsParameters, fps: float) -> None:
        self._parameters = parameters
        # Containers round times.
        self._reach_s = parameters.max_flash_s + 1e-3
        # Without a least length: a candidate that is refused must not hide the cut behind it.
        self._detector = _QuickAdaptiveDetector(
            adaptive_threshold=parameters.adaptive_threshold,
            min_scene_len=0,
            window_width=parameters.window,
            min_content_val=parameters.min_content,
        )
        self._fps = fps
        # The detector speaks of the frame in the middle of these.
        length = 2 * parameters.window + 1
        self._times_s: collections.deque[float] = collections.deque(maxlen=length)
        self._changes: collections.deque[float] = collections.deque(maxlen=length)
        self._recent: collections.deque[tuple[float, Planes]] = collections.deque()
        self._waiting: collections.deque[tuple[float, float]] = collections.deque()
        self._found: list[Boundary] = []

    def frame(self, frame: Frame) -> None:
        """See the next frame."""
        planes = (
            frame.every_other_luma,
            frame.chroma_u.copy(),
            frame.chroma_v.copy(),
        )
        before = self._recent[-1][1] if self._recent else planes
        self._recent.append((frame.time_s, planes))
        self._times_s.append(frame.time_s)
        self._changes.append(_difference(planes, before))
        stamp = Timecode(pts=round(frame.time_s / _TIME_BASE), time_base=_TIME_BASE)
        candidate = self._detector.process_frame(FrameTimecode(stamp, self._fps), frame.small_bgr)
        if candidate and self._is_large():
            window = self._parameters.window
            self._waiting.append((self._times_s[window], self._changes[window]))
        while self._waiting and frame.time_s > self._waiting[0][0] + self._reach_s:
            self._decide(*self._waiting.popleft())
        self._forget()

    def boundaries(self) -> list[Boundary]:
        """All cuts, in order; called once, at the end."""
        while self._waiting:
            self._decide(*self._waiting.popleft())
        return self._found

    def _is_large(self) -> bool:
        window = self._parameters.window
        change = self._changes[window]
        if change >= self._parameters.min_change:
            return True
        around = (sum(self._changes) - change) / (2 * window)
        still = around <= self._parameters.still_change
        return still and change >= self._parameters.min_still_change

    def _decide(self, cut_s: float, change: float) -> None:
        """Take the candidate for a cut unless what was on show shortly before it comes back."""
        after = [planes for time_s, planes in self._recent if 0 <= time_s - cut_s <= self._reach_s]
        before = [
            planes
            for (_, planes), (until_s, _) in itertools.pairwise(self._recent)
            if cut_s - self._reach_s < until_s <= cut_s
        ]
        # What remains of it would be no cut of its own: a flash may also hide one.
        undone = min(_UNDONE_SHARE * change, self._parameters.min_change)
        if not any(_difference(new, old) < undone for new in after for old in before):
            self._found.append(Boundary(cut_s, "cut"))

    def _forget(self) -> None:
        """Drop the frames that no candidate, waiting or to come, can be held against."""
        oldest_s = min([self._times_s[0], *(time_s for time_s, _ in self._waiting)])
        while len(self._recent) > 1 and self._recent[1][0] <= oldest_s - self._reach_s:
            self._recent.popleft()


def _difference(first: Planes, second: Planes) -> float:
    """Sum over Y, U and V of the mean absolute difference."""
    return sum(
        float(cv2.norm(one, other, cv2.NORM_L1)) / one.size
        for one, other in zip(first, second, strict=True)
    )
