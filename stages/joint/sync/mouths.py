"""The mouths of a clip's faces, cut out of its frames along the tracks of the stage `faces`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.base.clip import ClipTask
from stages.media.blocks import ByteImage, FloatArray, SourceFormat
from stages.media.decode import decode_frames
from stages.media.proxy import luma_plane

_CROP_PX = 64
_CROP_SHARE = 0.7
"""Side of the square around the mouth, as a share of the face's size."""
_MOUTH_IN_BOX = 0.79
"""Where in a face box the mouth is, from its top, if the detector does not say."""
_MAX_FRAME_RATE_HZ = 35.0
_STEADY_SIZE_SHARE = 0.3
_TRACK_REACH_S = 0.5
"""How far a track reaches beyond its first and last detection, which come about twice a second."""


@dataclasses.dataclass(frozen=True)
class Mouth:
    """A mouth over time: float64 `times_s` [frames], uint8 luma `crops` [frames, 64, 64].

    The mouth is in the middle of a crop, which is 0.7 face sizes wide. `track` is the face track's
    index in its unit.
    """

    track: int
    times_s: FloatArray
    crops: npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class _Square:
    """A square of the displayed picture by its centre and side, in pixels."""

    x_px: float
    y_px: float
    side_px: float


@dataclasses.dataclass(frozen=True)
class _MouthPath:
    """A mouth's centre and its face's size in displayed pixels, by time."""

    track: int
    times_s: FloatArray
    x_px: FloatArray
    y_px: FloatArray
    size_px: FloatArray

    def at(self, time_s: float) -> _Square:
        x_px, y_px, size_px = (
            float(np.interp(time_s, self.times_s, values))
            for values in (self.x_px, self.y_px, self.size_px)
        )
        return _Square(x_px, y_px, size_px * _CROP_SHARE)

    def covers(self, time_s: float) -> bool:
        return bool(self.times_s[0] - _TRACK_REACH_S <= time_s <= self.times_s[-1] + _TRACK_REACH_S)


def mouths(
    clip: ClipTask, *, min_track_s: float, min_face_px: float, max_tracks: int
) -> list[Mouth]:
    """The mouths of the usable tracks, largest face first, from one decode of the clip.

    Args:
        clip: it has video.
        min_track_s: faces followed for less of the clip are passed over.
        min_face_px: smaller faces are, too.
        max_tracks: how many faces.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    paths = _usable_tracks(clip, min_track_s, min_face_px, max_tracks)
    if not paths:
        return []
    times: list[list[float]] = [[] for _ in paths]
    crops: list[list[ByteImage]] = [[] for _ in paths]
    last_s = -np.inf
    for time_s, frame in decode_frames(clip.uri, clip.source, clip.start_s, clip.end_s):
        if time_s - last_s < 1.0 / _MAX_FRAME_RATE_HZ:
            continue
        last_s = time_s
        luma, bits = luma_plane(frame)
        for index, path in enumerate(paths):
            if path.covers(time_s):
                times[index].append(time_s)
                crops[index].append(_crop(luma, bits, clip.source, path.at(time_s)))
    return [
        Mouth(path.track, np.array(times[index]), np.array(crops[index], dtype=np.uint8))
        for index, path in enumerate(paths)
        if crops[index]
    ]


def _usable_tracks(
    clip: ClipTask, min_track_s: float, min_face_px: float, max_tracks: int
) -> list[_MouthPath]:
    """Paths of the faces that are followed long enough and are large enough, largest first."""
    paths = []
    for row in clip.side_rows.get("face_tracks", ()):
        path = _mouth_path(row, clip.source)
        first_s = max(clip.start_s, float(path.times_s[0]) - _TRACK_REACH_S)
        last_s = min(clip.end_s, float(path.times_s[-1]) + _TRACK_REACH_S)
        if last_s - first_s < min_track_s:
            continue
        if float(np.median(path.size_px)) >= min_face_px:
            paths.append(path)
    paths.sort(key=lambda path: -float(np.median(path.size_px)))
    return paths[:max_tracks]


def _mouth_path(row: Mapping[str, Any], source: SourceFormat) -> _MouthPath:
    assert source.width and source.height
    left, top, width, height = (
        np.asarray(row[name], dtype=np.float64) for name in ("left", "top", "width", "height")
    )
    x = _known_or(row["mouth_x"], left + width / 2)
    y = _known_or(row["mouth_y"], top + _MOUTH_IN_BOX * height)
    size = np.sqrt(width * source.width * height * source.height)
    # Boxes breathe; a head seldom comes closer within a clip. Only a real approach is followed.
    steady = float(np.ptp(size)) < _STEADY_SIZE_SHARE * float(np.median(size))
    return _MouthPath(
        int(row["track_index"]),
        np.asarray(row["times_s"], dtype=np.float64),
        _smoothed(x * source.width),
        _smoothed(y * source.height),
        np.full_like(size, np.median(size)) if steady else _smoothed(size),
    )


def _known_or(values: Sequence[float | None], fallback: FloatArray) -> FloatArray:
    known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isfinite(known), known, fallback)


def _smoothed(values: FloatArray) -> FloatArray:
    padded = np.pad(values, 1, mode="edge")
    return np.asarray((padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0)


def _crop(
    luma: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    bits: int,
    source: SourceFormat,
    square: _Square,
) -> ByteImage:
    """The upright square around a mouth: uint8 [64, 64], out of the luma as it is coded."""
    # Sampled at about the frame's own resolution, then averaged: sampling at once would alias.
    factor = max(1, round(square.side_px / _CROP_PX))
    matrix = _crop_to_coded(luma.shape, source, square, _CROP_PX * factor)
    crop = cv2.warpAffine(
        luma,
        matrix,
        (_CROP_PX * factor, _CROP_PX * factor),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if factor > 1:
        crop = cv2.resize(crop, (_CROP_PX, _CROP_PX), interpolation=cv2.INTER_AREA)
    if bits > 8:
        return (np.asarray(crop, dtype=np.uint16) >> (bits - 8)).astype(np.uint8)
    return np.asarray(crop, dtype=np.uint8)


def _crop_to_coded(
    coded_shape: tuple[int, ...], source: SourceFormat, square: _Square, crop_px: int
) -> FloatArray:
    """The affine map [2, 3] from a crop's pixels to the coded frame's, rotation included."""
    assert source.width and source.height
    step_px = square.side_px / crop_px
    origin_px = -(crop_px - 1) / 2 * step_px
    to_share = np.array(
        [
            [step_px / source.width, 0.0, (square.x_px + origin_px) / source.width],
            [0.0, step_px / source.height, (square.y_px + origin_px) / source.height],
            [0.0, 0.0, 1.0],
        ]
    )
    height, width = coded_shape
    # Pixel centres lie half a pixel inside.
    to_pixel = np.array([[width, 0.0, -0.5], [0.0, height, -0.5]])
    return np.asarray(to_pixel @ _TURN_BACK[source.rotation_deg] @ to_share)


# From shares of the displayed picture to shares of the coded one, by the clockwise turn between.
_TURN_BACK: dict[int, FloatArray] = {
    0: np.eye(3),
    90: np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
    180: np.array([[-1.0, 0.0, 1.0], [0.0, -1.0, 1.0], [0.0, 0.0, 1.0]]),
    270: np.array([[0.0, -1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
}
