"""Picture quality: sharpness, exposure, contrast, and black margins.

Blur is the variance of the Laplacian (Pech-Pacheco et al. 2000) at the proxy's size, so that
it does not depend on the source's. Everything but the margins is measured inside the margins: bars
are neither dark content nor sharp edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pydantic

from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.series import (
    VIDEO_BIN_RATE_HZ,
    BinGrid,
    inner_bins,
    observed_weights,
    weighted_mean,
)
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import ByteImage, FloatArray, Frame, Margins, SourceFormat
from stages.video.letterbox import bar_margins, thinned_lines

_SIDES = ("top", "bottom", "left", "right")
_CLIPPED_DARK_LUMA = 3
_CLIPPED_BRIGHT_LUMA = 252
_BLACK_LIMITED_RANGE = 16
_EDGE_AGREEMENT_PX = 2.0


class PictureParameters(StageParameters):
    """What counts as a margin."""

    bar_luma: float = pydantic.Field(
        default=18.0, ge=0, description="a bar's luma above black at most, in 8 bit steps"
    )
    bar_tolerance: float = pydantic.Field(
        default=8.0, gt=0, description="luma that compression may add inside a bar, in 8 bit steps"
    )
    edge_share: float = pydantic.Field(
        default=0.4,
        ge=0,
        le=1,
        description="share of a margin's edge that must be lit at some time: a straight edge",
    )


@dataclasses.dataclass(frozen=True)
class PictureRecord:
    """A clip's picture quality.

    Means over the clip, at proxy size: `blur` is the variance of the Laplacian (higher is sharper),
    `contrast` the difference of the 95th and 5th percentile of luma (0..255), `mean_luma` is
    0..255, `dark_clipped` and `bright_clipped` are shares (0..1) of pixels with luma <= 3 and
    >= 252. `margins_px` are constant over the clip; `active_*` is what lies between them.
    They are None where every frame is black.
    """

    blur: float
    contrast: float
    mean_luma: float
    dark_clipped: float
    bright_clipped: float
    margins_px: Margins | None
    active_width_px: int | None
    active_height_px: int | None


class PictureStage(SignalStage[PictureParameters]):
    """Backend `opencv` (`auto`), which needs no weights."""

    name: ClassVar[str] = "picture"
    version: ClassVar[int] = 1
    media: ClassVar[Literal["video", "audio"]] = "video"
    series: ClassVar[tuple[str, ...]] = (
        "samples",
        "blur",
        "contrast",
        "mean_luma",
        "dark_clipped",
        "bright_clipped",
        "width_px",
        "height_px",
        *(f"margin_{side}_px" for side in _SIDES),
        *(f"edge_{side}" for side in _SIDES),
    )
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (BackendDeclaration("opencv"),)
    Parameters: ClassVar[type[StageParameters]] = PictureParameters
    Record: ClassVar[type] = PictureRecord

    def observer(self, source: SourceFormat) -> Observer:
        """A fresh observer for one unit."""
        return _PictureObserver(self.parameters, source.sample_aspect_ratio)

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> PictureRecord | NotApplicable:
        """Means over the clip, and the margins that hold at all times."""
        series = signals.series
        samples = np.nan_to_num(series["samples"])
        spread = signals.weights(start_s, end_s)
        weights = observed_weights(samples > 0, spread) * samples
        means = {
            name: weighted_mean(series[name], weights)
            for name in ("blur", "contrast", "mean_luma", "dark_clipped", "bright_clipped")
        }
        if any(mean is None for mean in means.values()):
            return NotApplicable("no picture was looked at in this span")
        margins = self._margins(series, inner_bins(weights / np.maximum(samples, 1.0)))
        seen = weights > 0
        width_px = round(float(np.nanmin(series["width_px"][seen])))
        height_px = round(float(np.nanmin(series["height_px"][seen])))
        return PictureRecord(
            **{name: mean for name, mean in means.items() if mean is not None},
            margins_px=margins,
            active_width_px=width_px - margins.left - margins.right if margins else None,
            active_height_px=height_px - margins.top - margins.bottom if margins else None,
        )

    def _margins(
        self, series: Mapping[str, FloatArray], bins: npt.NDArray[np.bool_]
    ) -> Margins | None:
        """The least margin seen on every side, where a straight lit edge was seen at it."""
        margins: dict[str, int] = {}
        for side in _SIDES:
            margin_px = series[f"margin_{side}_px"][bins]
            edge = series[f"edge_{side}"][bins]
            seen = ~np.isnan(margin_px)
            if not seen.any():
                return None
            least_px = float(margin_px[seen].min())
            there = seen & (np.nan_to_num(margin_px, nan=np.inf) <= least_px + _EDGE_AGREEMENT_PX)
            straight = float(edge[there].max()) >= self.parameters.edge_share
            # Rounded up: better a line of the picture lost than a line of bar kept.
            margins[side] = int(np.ceil(least_px - 1e-3)) if straight else 0
        return Margins(**margins)


class _PictureObserver(Observer):
    """Looks at one frame per bin."""

    def __init__(self, parameters: PictureParameters, sample_aspect_ratio: float) -> None:
        self._parameters = parameters
        self._sample_aspect_ratio = sample_aspect_ratio
        self._next_s = -np.inf
        self._times_s: list[float] = []
        self._rows: list[dict[str, float]] = []

    def frame(self, frame: Frame) -> None:
        if frame.time_s < self._next_s:
            return
        self._next_s = frame.time_s + 1.0 / VIDEO_BIN_RATE_HZ - 1e-6
        self._times_s.append(frame.time_s)
        self._rows.append(self._look(frame))

    def finish(self, start_s: float, end_s: float) -> Observation:
        grid = BinGrid(start_s, end_s, VIDEO_BIN_RATE_HZ)
        series = {"samples": grid.counts(self._times_s)}
        for name in PictureStage.series[1:]:
            values = [row[name] for row in self._rows]
            series[name] = grid.means(self._times_s, values)
        return Observation(Signals(start_s, grid.rate_hz, series))

    def _look(self, frame: Frame) -> dict[str, float]:
        coded_height, coded_width = frame.source_luma.shape
        margins = bar_margins(
            thinned_lines(frame),
            black=0 if frame.full_range else _BLACK_LIMITED_RANGE,
            bar_luma=self._parameters.bar_luma,
            tolerance=self._parameters.bar_tolerance,
        )
        width_px, height_px = coded_width * self._sample_aspect_ratio, float(coded_height)
        row = {f"margin_{side}_px": np.nan for side in _SIDES}
        row |= {f"edge_{side}": np.nan for side in _SIDES}
        upright: dict[str, tuple[float, float]] = {}
        if margins is not None:
            scale = {"left": self._sample_aspect_ratio, "right": self._sample_aspect_ratio}
            coded = {
                side: (margin.lines * scale.get(side, 1.0), margin.edge)
                for side, margin in margins.items()
            }
            upright = {_displayed_side(side, frame.rotation_deg): coded[side] for side in _SIDES}
        for side, (margin_px, edge) in upright.items():
            row[f"margin_{side}_px"], row[f"edge_{side}"] = margin_px, edge
        if frame.rotation_deg in (90, 270):
            width_px, height_px = height_px, width_px
        row |= {"width_px": round(width_px), "height_px": round(height_px)}
        inside = {side: margin_px for side, (margin_px, _) in upright.items()}
        return row | frame_quality(_between(frame.luma, inside, width_px, height_px))


def frame_quality(luma: ByteImage) -> dict[str, float]:
    """Blur, contrast, mean and clipped shares of one frame.

    Args:
        luma: uint8 [height, width], full range.
    """
    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S, ksize=1))
    histogram = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    shares = histogram / histogram.sum()
    low, high = np.searchsorted(np.cumsum(shares), (0.05, 0.95))
    return {
        "blur": float(deviation[0, 0]) ** 2,
        "contrast": float(high - low),
        "mean_luma": float(np.dot(shares, np.arange(256))),
        "dark_clipped": float(shares[: _CLIPPED_DARK_LUMA + 1].sum()),
        "bright_clipped": float(shares[_CLIPPED_BRIGHT_LUMA:].sum()),
    }


def _displayed_side(coded_side: str, rotation_deg: int) -> str:
    """Where a side of the coded frame lies once it has been turned clockwise."""
    clockwise = ("top", "right", "bottom", "left")
    return clockwise[(clockwise.index(coded_side) + rotation_deg // 90) % 4]


def _between(
    luma: ByteImage, margins_px: Mapping[str, float], width_px: float, height_px: float
) -> ByteImage:
    """The part of the proxy inside the margins; all of it where there are none."""
    height, width = luma.shape
    down, across = height / height_px, width / width_px
    edges = (
        # One proxy line more: scaling mixes the bar into the line at its edge.
        [int(np.ceil(margins_px.get(side, 0.0) * scale + 0.5)) if margins_px.get(side) else 0]
        for side, scale in (("top", down), ("bottom", down), ("left", across), ("right", across))
    )
    top, bottom, left, right = (edge for (edge,) in edges)
    inner = luma[top : height - bottom, left : width - right]
    return inner if min(inner.shape) >= 8 else luma
