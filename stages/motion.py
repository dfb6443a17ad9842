"""Motion: how fast the picture moves, how much of it is the camera, and pictures that stand still
or are missing.

Dense optical flow by DIS (Kroeger et al. 2016, arXiv:1603.03590) between two pictures a fraction of
a second apart, a few times a second. Speeds are in pixels per second of a picture whose short side
is 256 px, whatever the source's size. The camera's motion is an affine field fitted to the flow by
reweighted least squares; what it leaves over is the subject's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pydantic

from manifests.errors import UsageError
from stages.contract import (
    Backend,
    FloatArray,
    NotApplicable,
    Observation,
    Observer,
    Signals,
    SignalStage,
    StageParameters,
)
from stages.media.blocks import ByteImage, Picture, SourceFormat
from stages.series import VIDEO_BIN_RATE_HZ, BinGrid, observed_weights, weighted_mean

STATED_SHORT_SIDE_PX = 256
"""Speeds are given at this size."""
_FLOW_SHORT_SIDE_PX = 144
_GRID_STEP_PX = 8
_FIT_ROUNDS = 6
_LEAST_TRUST = 0.02
_SLOPE_PRIOR = 0.002
_LONGEST_PAIR_S = 1.0
"""Pictures further apart than this are not compared: nothing says what was between them."""
_DROPPED_FROM_INTERVALS = 1.7
"""An interval of at least this many typical ones lacks pictures; shorter ones are jitter."""

FlowField = npt.NDArray[np.float32]


class MotionParameters(StageParameters):
    """How often motion is looked at, and what counts as standing still."""

    pairs_hz: float = pydantic.Field(
        default=2.0, gt=0, le=10, description="pairs of pictures per second"
    )
    pair_s: float = pydantic.Field(
        default=0.1, gt=0, le=0.5, description="seconds between a pair's pictures, at least"
    )
    static_px_s: float = pydantic.Field(
        default=2.0, ge=0, description="speed below which a picture counts as static"
    )
    unexplained_share: float = pydantic.Field(
        default=0.38,
        gt=0,
        description="a pair is no motion but a cut if its warped difference exceeds this share of "
        "what unrelated pictures differ by",
    )
    frozen_change: float = pydantic.Field(
        default=0.15,
        ge=0,
        description="mean change of luma (0..255) of a repeated picture, at most",
    )
    frozen_cell_change: float = pydantic.Field(
        default=1.0,
        ge=0,
        description="the same in any of 16 x 9 cells: a moving mouth is a small part",
    )


@dataclasses.dataclass(frozen=True)
class MotionRecord:
    """A clip's motion; speeds in px/s at a short side of 256 px, None where none could be measured.

    `score_px_s` is the mean flow, `camera_px_s` the mean of the fitted affine field, `subject_px_s`
    the mean of what is left over. Shares are 0..1: `static_share` of the time, `frozen_share` of
    the pictures (they repeat the one before), `dropped_share` of the pictures that should be there.
    """

    score_px_s: float | None
    camera_px_s: float | None
    subject_px_s: float | None
    static_share: float | None
    frozen_share: float
    dropped_share: float


class MotionStage(SignalStage[MotionParameters]):
    """Backend `dis` (`auto`), which needs no weights."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = 1
    media: ClassVar[Literal["video", "audio"]] = "video"
    series: ClassVar[tuple[str, ...]] = (
        "pictures",
        "repeated",
        "missing",
        "pairs",
        "score_px_s",
        "camera_px_s",
        "subject_px_s",
    )
    Parameters: ClassVar[type[StageParameters]] = MotionParameters
    Record: ClassVar[type] = MotionRecord

    def resolve_backend(self) -> Backend:
        """The only backend.

        Raises:
            UsageError: `unknown_backend`.
        """
        if self.parameters.backend in ("auto", "dis"):
            return Backend("dis")
        raise UsageError(
            "unknown_backend",
            f"There is no backend {self.parameters.backend!r}.",
            subject="stages.motion.backend",
            remedy="Use auto or dis.",
        )

    def observer(self, source: SourceFormat) -> Observer:
        """A fresh watch over one unit."""
        return _MotionObserver(self.parameters)

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> MotionRecord | NotApplicable:
        """Means over the clip's pairs and pictures."""
        series = {name: np.asarray(values) for name, values in signals.series.items()}
        spread = signals.weights(start_s, end_s)
        # A bin's sums count by the share of the bin that lies inside the clip.
        pictures, repeated, missing = (
            float(np.dot(spread, np.nan_to_num(series[name])))
            for name in ("pictures", "repeated", "missing")
        )
        if pictures + missing <= 0:
            return NotApplicable("no picture in this span")
        pairs = np.nan_to_num(series["pairs"])
        weights = observed_weights(pairs > 0, spread) * pairs
        score = series["score_px_s"]
        static = np.where(np.isnan(score), np.nan, score < self.parameters.static_px_s)
        return MotionRecord(
            score_px_s=weighted_mean(score, weights),
            camera_px_s=weighted_mean(series["camera_px_s"], weights),
            subject_px_s=weighted_mean(series["subject_px_s"], weights),
            static_share=weighted_mean(static, weights),
            frozen_share=repeated / pictures if pictures > 0 else 0.0,
            dropped_share=missing / (pictures + missing),
        )


@dataclasses.dataclass(frozen=True)
class FlowSpeeds:
    """Mean speeds of one flow field, in the field's own unit."""

    score: float
    camera: float
    subject: float


class _MotionObserver(Observer):
    def __init__(self, parameters: MotionParameters) -> None:
        self._parameters = parameters
        self._flow = FlowMeter(parameters.unexplained_share)
        self._half: ByteImage | None = None
        self._times_s: list[float] = []
        self._last_duration_s = 0.0
        self._repeated: list[bool] = []
        self._first: tuple[float, ByteImage] | None = None
        self._next_pair_s = -np.inf
        self._pair_times_s: list[float] = []
        self._speeds: list[FlowSpeeds] = []

    def picture(self, picture: Picture) -> None:
        half = np.ascontiguousarray(picture.luma[::2, ::2])
        before, self._half = self._half, half
        self._repeated.append(before is not None and self._repeats(half, before))
        self._times_s.append(picture.time_s)
        self._last_duration_s = picture.duration_s
        self._watch_pair(picture)

    def finish(self, start_s: float, end_s: float) -> Observation:
        grid = BinGrid(start_s, end_s, VIDEO_BIN_RATE_HZ)
        missing_s = missing_times(np.asarray(self._times_s), self._last_duration_s)
        series = {
            "pictures": grid.counts(self._times_s),
            "repeated": grid.sums(self._times_s, self._repeated),
            "missing": grid.counts(missing_s[missing_s < end_s]),
            "pairs": grid.counts(self._pair_times_s),
        }
        for name in ("score", "camera", "subject"):
            values = [getattr(speeds, name) for speeds in self._speeds]
            series[f"{name}_px_s"] = grid.means(self._pair_times_s, values)
        return Observation(Signals(start_s, grid.rate_hz, series))

    def _repeats(self, half: ByteImage, before: ByteImage) -> bool:
        """Whether a picture shows nothing, anywhere, that the one before did not."""
        mean_change = float(cv2.norm(half, before, cv2.NORM_L1)) / half.size
        if mean_change > self._parameters.frozen_change:
            return False
        difference = cv2.absdiff(half, before)
        cells = cv2.resize(difference, (16, 9), interpolation=cv2.INTER_AREA)
        return float(cells.max()) <= self._parameters.frozen_cell_change

    def _watch_pair(self, picture: Picture) -> None:
        if self._first is not None:
            first_s, first = self._first
            apart_s = picture.time_s - first_s
            # Half a millisecond of slack: containers round times.
            if apart_s < self._parameters.pair_s - 5e-4:
                return
            self._first = None
            if apart_s <= _LONGEST_PAIR_S:
                speeds = self._flow.speeds(first, _flow_luma(picture.luma))
                if speeds is not None:
                    scale = STATED_SHORT_SIDE_PX / (min(first.shape) * apart_s)
                    self._pair_times_s.append(first_s)
                    self._speeds.append(
                        FlowSpeeds(
                            speeds.score * scale, speeds.camera * scale, speeds.subject * scale
                        )
                    )
        if picture.time_s >= self._next_pair_s - 1e-6:
            self._first = (picture.time_s, _flow_luma(picture.luma))
            self._next_pair_s = picture.time_s + 1.0 / self._parameters.pairs_hz


def missing_times(times_s: FloatArray, last_duration_s: float) -> FloatArray:
    """When the pictures were due that a row of presentation times lacks.

    The typical interval is the median, so a source of a low or an uneven rate lacks nothing; a gap
    of about n intervals lacks n - 1 pictures.

    Args:
        times_s: presentation times in order.
        last_duration_s: how long the last picture is on show.
    """
    intervals_s = np.append(np.diff(times_s), last_duration_s)
    if len(intervals_s) < 3:
        return np.empty(0)
    typical_s = float(np.median(intervals_s))
    gaps = intervals_s >= _DROPPED_FROM_INTERVALS * typical_s
    due = [
        start_s + gap_s * np.arange(1, count) / count
        for start_s, gap_s in zip(times_s[gaps], intervals_s[gaps], strict=True)
        if (count := round(gap_s / typical_s)) > 1
    ]
    return np.concatenate(due) if due else np.empty(0)


def _flow_luma(luma: ByteImage) -> ByteImage:
    """Luma with a short side of 144 px."""
    height, width = luma.shape
    scale = _FLOW_SHORT_SIDE_PX / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class FlowMeter:
    """DIS flow between two pictures, and its split into camera and subject."""

    def __init__(self, unexplained_share: float) -> None:
        self._unexplained_share = unexplained_share
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def speeds(self, first: ByteImage, second: ByteImage) -> FlowSpeeds | None:
        """Mean displacements in pixels, or None where flow does not explain the second picture.

        Args:
            first: luma, uint8 [height, width].
            second: luma of the same size.
        """
        nothing = np.zeros((*first.shape, 2), np.float32)
        flow = np.asarray(self._flow.calc(first, second, nothing), dtype=np.float32)
        if self._is_cut(first, second, flow):
            return None
        step = _GRID_STEP_PX
        points = np.mgrid[step // 2 : first.shape[0] : step, step // 2 : first.shape[1] : step]
        rows, columns = (axis.ravel() for axis in points)
        moved = flow[rows, columns].astype(np.float64)
        texture = _texture(first)[rows, columns]
        # Origin in the middle and unit-sized coordinates keep the fit well conditioned.
        scale = max(first.shape) / 2.0
        x = (columns - first.shape[1] / 2.0) / scale
        y = (rows - first.shape[0] / 2.0) / scale
        camera = affine_field(x, y, moved, texture)
        return FlowSpeeds(
            score=float(np.hypot(flow[..., 0], flow[..., 1]).mean()),
            camera=float(np.hypot(*camera.T).mean()),
            subject=float(np.hypot(*(moved - camera).T).mean()),
        )

    def _is_cut(self, first: ByteImage, second: ByteImage, flow: FlowField) -> bool:
        """Whether the second picture, moved back along the flow, still is another picture."""
        height, width = first.shape
        columns, rows = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )
        back = cv2.remap(
            second,
            columns + flow[..., 0],
            rows + flow[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        left = float(cv2.norm(first, back, cv2.NORM_L1)) / first.size
        spread = (float(first.std()) + float(second.std())) / 2.0
        # Two unrelated pictures of that spread differ by about 1.13 of it (2 / sqrt(pi)).
        means_apart = abs(float(first.mean()) - float(second.mean()))
        return left > self._unexplained_share * (1.13 * spread + means_apart) + 1.0


def _texture(luma: ByteImage) -> FloatArray:
    """How well flow can be known at every pixel: local gradient energy, 0..1."""
    across = cv2.Sobel(luma, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(luma, cv2.CV_32F, 0, 1)
    energy = cv2.blur(across * across + down * down, (9, 9))
    # Sobel gives 8 times the gradient: 2 luma steps a pixel are texture enough.
    return np.asarray(energy / (energy + 256.0), dtype=np.float64)


def affine_field(
    x: FloatArray, y: FloatArray, moved: FloatArray, weights: FloatArray
) -> FloatArray:
    """The affine motion that most of a flow field follows, at the field's points.

    Least squares, reweighted with Geman and McClure's function so that a moving subject does not
    pull at the camera.

    Args:
        x: horizontal places [points].
        y: vertical places [points].
        moved: flow vectors [points, 2].
        weights: how much to trust every point [points], 0..1.

    Returns:
        float64 [points, 2].
    """
    places = np.stack([np.ones_like(x), x, y], axis=1)
    trust = floored = weights + _LEAST_TRUST
    prior = _SLOPE_PRIOR * len(x)
    field = np.zeros_like(moved)
    for _ in range(_FIT_ROUNDS):
        weighted = places * trust[:, None]
        # The slopes are drawn to 0: they must not be extrapolated from one textured corner.
        normal = weighted.T @ places + np.diag([0.0, prior, prior])
        field = places @ np.linalg.solve(normal, weighted.T @ moved)
        residual = np.hypot(*(moved - field).T)
        spread = max(0.1, 1.5 * float(np.median(residual)))
        trust = floored / (1.0 + (residual / spread) ** 2) ** 2
    return field
