"""Motion: how fast the picture moves, how much of it is the camera, and frames that stand still
or are missing.

Dense optical flow by DIS (Kroeger et al. 2016, arXiv:1603.03590) between two frames a fraction of
a second apart, a few times a second, or by RAFT (see `raft` beside this) on the clip decoded again.
Speeds are in pixels per second of a frame whose short side is 256 px, whatever the source's size.
How a flow field is split into camera and subject is in `stages.video.motion.flow`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import ModelStage, SignalStage, StageParameters
from stages.base.series import VIDEO_BIN_RATE_HZ, BinGrid, observed_weights, weighted_mean
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import ByteImage, FloatArray, Frame, SourceFormat
from stages.video.motion.flow import (
    LONGEST_PAIR_S,
    MOTION_VERSION,
    SPLIT_SHORT_SIDE_PX,
    STATED_SHORT_SIDE_PX,
    FlowSpeeds,
    MotionParameters,
    MotionRecord,
    is_cut,
    split_flow,
)
from stages.video.motion.raft import RaftStage

_DROPPED_FROM_INTERVALS = 1.7
"""An interval of at least this many typical ones lacks frames; shorter ones are jitter."""


class MotionStage(SignalStage[MotionParameters]):
    """Backends `dis` (`auto`: it needs neither weights nor a GPU), `raft_large`, `raft_small`."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = MOTION_VERSION
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
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("dis"),
        *RaftStage.backends,
    )
    Parameters: ClassVar[type[StageParameters]] = MotionParameters
    Record: ClassVar[type] = MotionRecord

    def observer(self, source: SourceFormat) -> Observer:
        """A fresh observer for one unit."""
        return _MotionObserver(self.parameters, with_flow=self.backend.name == "dis")

    def model_stage(self) -> ModelStage[Any, Any, Any] | None:
        """RAFT, where it is the backend: it measures the speeds."""
        if self.backend.name == "dis":
            return None
        return RaftStage(self.parameters, self.backend)

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> MotionRecord | NotApplicable:
        """Means over the clip's pairs and frames; no speeds where RAFT is to measure them."""
        series = {name: np.asarray(values) for name, values in signals.series.items()}
        spread = signals.weights(start_s, end_s)
        # A bin's sums count by the share of the bin that lies inside the clip.
        frames, repeated, missing = (
            float(np.dot(spread, np.nan_to_num(series[name])))
            for name in ("pictures", "repeated", "missing")
        )
        if frames + missing <= 0:
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
            frozen_share=repeated / frames if frames > 0 else 0.0,
            dropped_share=missing / (frames + missing),
        )


class _MotionObserver(Observer):
    def __init__(self, parameters: MotionParameters, *, with_flow: bool) -> None:
        self._parameters = parameters
        self._flow = FlowMeter(parameters.unexplained_share) if with_flow else None
        self._half: ByteImage | None = None
        self._times_s: list[float] = []
        self._last_duration_s = 0.0
        self._repeated: list[bool] = []
        self._first: tuple[float, ByteImage] | None = None
        self._next_pair_s = -np.inf
        self._pair_times_s: list[float] = []
        self._speeds: list[FlowSpeeds] = []

    def frame(self, frame: Frame) -> None:
        half = frame.every_other_luma
        before, self._half = self._half, half
        self._repeated.append(before is not None and self._repeats(half, before))
        self._times_s.append(frame.time_s)
        self._last_duration_s = frame.duration_s
        if self._flow is not None:
            self._watch_pair(frame, self._flow)

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
        """Whether a frame shows nothing, anywhere, that the one before did not."""
        mean_change = float(cv2.norm(half, before, cv2.NORM_L1)) / half.size
        if mean_change > self._parameters.frozen_change:
            return False
        difference = cv2.absdiff(half, before)
        cells = cv2.resize(difference, (16, 9), interpolation=cv2.INTER_AREA)
        return float(cells.max()) <= self._parameters.frozen_cell_change

    def _watch_pair(self, frame: Frame, flow: FlowMeter) -> None:
        if self._first is not None:
            first_s, first = self._first
            apart_s = frame.time_s - first_s
            # Half a millisecond of slack: containers round times.
            if apart_s < self._parameters.pair_s - 5e-4:
                return
            self._first = None
            if apart_s <= LONGEST_PAIR_S:
                speeds = flow.speeds(first, _flow_luma(frame.luma))
                if speeds is not None:
                    scale = STATED_SHORT_SIDE_PX / (min(first.shape) * apart_s)
                    self._pair_times_s.append(first_s)
                    self._speeds.append(speeds.scaled(scale))
        if frame.time_s >= self._next_pair_s - 1e-6:
            self._first = (frame.time_s, _flow_luma(frame.luma))
            self._next_pair_s = frame.time_s + 1.0 / self._parameters.pairs_hz


def missing_times(times_s: FloatArray, last_duration_s: float) -> FloatArray:
    """When the frames were due that a row of presentation times lacks.

    The typical interval is the median, so a source of a low or an uneven rate lacks nothing; a gap
    of about n intervals lacks n - 1 frames.

    Args:
        times_s: presentation times in order.
        last_duration_s: how long the last frame is on show.
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
    scale = SPLIT_SHORT_SIDE_PX / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class FlowMeter:
    """DIS flow between two frames, and its split into camera and subject."""

    def __init__(self, unexplained_share: float) -> None:
        self._unexplained_share = unexplained_share
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def speeds(self, first: ByteImage, second: ByteImage) -> FlowSpeeds | None:
        """Mean displacements in pixels, or None where flow does not explain the second frame.

        Args:
            first: luma, uint8 [height, width].
            second: luma of the same size.
        """
        nothing = np.zeros((*first.shape, 2), np.float32)
        flow = np.asarray(self._flow.calc(first, second, nothing), dtype=np.float32)
        if is_cut(first, second, flow, self._unexplained_share):
            return None
        return split_flow(first, flow)
