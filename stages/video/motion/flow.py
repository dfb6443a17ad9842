"""What all measures of motion share: settings, record, and the split of a flow field.

A flow field says of every pixel where it has gone between two frames. The camera's motion is an
affine field fitted to it by reweighted least squares; what that leaves over is the subject's.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import cv2
import numpy as np
import pydantic

from stages.base.contract import StageParameters
from stages.media.blocks import ByteImage, FloatArray
from stages.models.raft import FlowField

MOTION_VERSION = 1
"""Raise whenever equal inputs may give another result, by whichever backend."""
STATED_SHORT_SIDE_PX = 256
"""Speeds are given at this size."""
SPLIT_SHORT_SIDE_PX = 144
"""Flow is split into camera and subject at this size."""
LONGEST_PAIR_S = 1.0
"""Frames further apart than this are not compared: nothing says what was between them."""
_GRID_STEP_PX = 8
_FIT_ROUNDS = 6
_LEAST_TRUST = 0.02
_SLOPE_PRIOR = 0.002
_LEAST_INSIDE_SHARE = 0.1
"""Less of a frame than this that stays inside it says nothing about the pair."""


def check_pairs(pairs_hz: float, pair_s: float) -> None:
    """Make sure that pairs do not overlap: the next begins when the last has ended.

    Raises:
        ValueError: they would.
    """
    if pairs_hz * pair_s > 1.0 + 1e-9:
        raise ValueError("pairs_hz must not be more than 1 / pair_s: pairs do not overlap")


class RaftParameters(pydantic.BaseModel):
    """How RAFT looks at a clip; of no effect with the backend `dis`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    pair_s: float = pydantic.Field(
        default=0.5,
        gt=0,
        le=LONGEST_PAIR_S,
        description="seconds between a pair's pictures, at least; shorter in shorter clips",
    )
    pairs_hz: float = pydantic.Field(
        default=2.0, gt=0, le=10, description="pairs of pictures per second"
    )
    max_pairs: int = pydantic.Field(
        default=40, ge=1, description="pairs of a clip, at most: spread over the longer ones"
    )
    flow_updates: int = pydantic.Field(
        default=12, ge=1, le=64, description="times that the network improves on its flow"
    )
    precision: Literal["auto", "full", "half"] = pydantic.Field(
        default="auto",
        description="of the arithmetic on a GPU, where auto is half; a CPU's is always full",
    )

    @pydantic.model_validator(mode="after")
    def _pairs_do_not_overlap(self) -> RaftParameters:
        check_pairs(self.pairs_hz, self.pair_s)
        return self


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
    raft: RaftParameters = RaftParameters()

    @pydantic.model_validator(mode="after")
    def _pairs_do_not_overlap(self) -> MotionParameters:
        check_pairs(self.pairs_hz, self.pair_s)
        return self


@dataclasses.dataclass(frozen=True)
class MotionRecord:
    """A clip's motion; speeds in px/s at a short side of 256 px, None where none could be measured.

    `score_px_s` is the mean flow, `camera_px_s` the mean of the fitted affine field, `subject_px_s`
    the mean of what is left over. Shares are 0..1: `static_share` of the time, `frozen_share` of
    the frames (they repeat the one before), `dropped_share` of the frames that should be there.
    """

    score_px_s: float | None
    camera_px_s: float | None
    subject_px_s: float | None
    static_share: float | None
    frozen_share: float
    dropped_share: float


@dataclasses.dataclass(frozen=True)
class FlowSpeeds:
    """Mean speeds of one flow field, in the field's own unit."""

    score: float
    camera: float
    subject: float

    def scaled(self, scale: float) -> FlowSpeeds:
        """The same in another unit."""
        return FlowSpeeds(self.score * scale, self.camera * scale, self.subject * scale)


def split_flow(first: ByteImage, flow: FlowField) -> FlowSpeeds:
    """Mean displacements of a flow field, of its camera and of its subject, in pixels.

    Args:
        first: luma of the first frame, uint8 [height, width], the short side 144 px.
        flow: float32 [height, width, 2], to the right and down.
    """
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


def is_cut(
    first: ByteImage,
    second: ByteImage,
    flow: FlowField,
    unexplained_share: float,
    *,
    only_inside: bool = False,
) -> bool:
    """Whether the second frame, moved back along the flow, still is another frame.

    Args:
        first: luma, uint8 [height, width].
        second: luma of the same size.
        flow: float32 [height, width, 2], from the first to the second.
        unexplained_share: see `MotionParameters`.
        only_inside: leave out what has moved out of the frame: of frames far apart that is much.
    """
    height, width = first.shape
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    to_x, to_y = columns + flow[..., 0], rows + flow[..., 1]
    back = cv2.remap(second, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = None
    pixels = first.size
    if only_inside:
        stays = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        pixels = int(stays.sum())
        if pixels < _LEAST_INSIDE_SHARE * first.size:
            return False
        inside = stays.astype(np.uint8)
    left = float(cv2.norm(first, back, cv2.NORM_L1, mask=inside)) / pixels
    spread = (float(first.std()) + float(second.std())) / 2.0
    # Two unrelated frames of that spread differ by about 1.13 of it (2 / sqrt(pi)).
    means_apart = abs(float(first.mean()) - float(second.mean()))
    return left > unexplained_share * (1.13 * spread + means_apart) + 1.0


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
