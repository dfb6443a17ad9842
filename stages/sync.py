"""Whether a mouth moves with the voice: offset and confidence of a clip's best face.

The backend `embedded` has no learned weights. It measures how open and how busy the mouth of every
face track is, and correlates that with the loudness of the speech band at offsets of up to 15
frames of 25 fps, as SyncNet does with its features (Chung and Zisserman 2016). Its confidence has
a scale of its own: gates on it must name the backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import pydantic
import scipy.ndimage
import scipy.signal

from manifests.errors import UsageError
from stages.contract import (
    Backend,
    ClipStage,
    ClipTask,
    FloatArray,
    NotApplicable,
    StageParameters,
)
from stages.media.blocks import AudioBlock, ByteImage, SourceFormat
from stages.media.decode import luma_plane, pictures, read_audio

SYNC_FPS = 25.0
MAX_OFFSET_FRAMES = 15

_CROP_PX = 64
_CROP_SHARE = 0.7
"""Side of the square around the mouth, as a share of the face's size."""
_MOUTH_IN_BOX = 0.79
"""Where in a face box the mouth is, from its top, if the detector does not say."""
_MAX_PICTURE_RATE_HZ = 35.0
_TREND_FRAMES = 25
"""What changes more slowly than this (a turning head, a swelling voice) tells nothing of sync."""
_SMOOTHING_FRAMES = 0.8
_MIN_OVERLAP_FRAMES = 40
_AUTOCORRELATION_FRAMES = 20
_LEAST_CHANCE_VARIANCE = 0.3
_SPEECH_BAND_HZ = (200.0, 4000.0)
_DARK_SHARE = 0.62
_STEADY_SIZE_SHARE = 0.3
_TRACK_REACH_S = 0.5
"""How far a track reaches beyond its first and last detection, which come about twice a second."""

# Where things are in a crop whose centre is the mouth's: rows, columns.
_MOUTH = (slice(22, 50), slice(18, 46))
_LIPS_COLUMN = (slice(14, 58), slice(24, 40))
_MOVING_MOUTH = (slice(22, 52), slice(16, 48))
_NOSE = (slice(2, 16), slice(16, 48))


class SyncParameters(StageParameters):
    """Which faces are looked at, and where the stage applies at all."""

    min_speech_ratio: float = pydantic.Field(
        0.1, ge=0, le=1, description="clips with less speech than this are not measured"
    )
    min_track_s: float = pydantic.Field(
        2.0, gt=0, description="faces followed for less of the clip than this are passed over"
    )
    min_face_px: float = pydantic.Field(
        40.0, gt=0, description="smaller faces (mean side in source pixels) are passed over"
    )
    max_tracks: int = pydantic.Field(6, ge=1, description="how many faces, largest first")


@dataclasses.dataclass(frozen=True)
class SyncRecord:
    """The clip's best-confidence face against its sound.

    `offset_frames` counts frames of 25 fps (40 ms); positive: the sound is early, negative: late.
    `confidence` is how far the correlation at that offset stands out over the other offsets, in
    multiples of what chance would give; the backend `embedded` puts clips whose mouth has nothing
    to do with the sound mostly below 3. `track` is the face track's index in its unit.
    """

    offset_frames: float
    confidence: float
    track: int


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Where a mouth and a voice fit best; see `SyncRecord`."""

    offset_frames: float
    confidence: float


class SyncStage(ClipStage[SyncParameters]):
    """Offset between mouth and voice, by the backend `embedded`."""

    name: ClassVar[str] = "sync"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("faces", "speech")
    Parameters: ClassVar[type[StageParameters]] = SyncParameters
    Record: ClassVar[type] = SyncRecord

    def resolve_backend(self) -> Backend:
        """The one backend there is, `embedded`.

        Raises:
            UsageError: `unknown_backend`.
        """
        if self.parameters.backend not in ("auto", "embedded"):
            raise UsageError(
                "unknown_backend",
                f"There is no backend {self.parameters.backend!r}.",
                subject="stages.sync.backend",
                remedy="Use auto or embedded.",
            )
        return Backend("embedded")

    @property
    def precondition(self) -> str:
        """Somebody speaks and a face is to be seen."""
        return (
            f"speech.speech_ratio > {self.parameters.min_speech_ratio!r} AND faces.kind <> 'none'"
        )

    def measure(self, clip: ClipTask) -> SyncRecord | NotApplicable:
        """Decode the clip's mouths and sound, and align them.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        if clip.source.audio_index is None or clip.source.video_index is None:
            return NotApplicable("sync needs pictures and sound")
        tracks = _usable_tracks(clip, self.parameters)
        if not tracks:
            return NotApplicable("no face is large enough for long enough")
        best: SyncRecord | None = None
        sound = _sound_around(clip)
        for track, times_s, crops in _mouths(clip, tracks):
            if len(times_s) < 2 or times_s[-1] - times_s[0] < self.parameters.min_track_s:
                continue
            grid_s = _grid(times_s)
            measures = np.stack(
                [np.interp(grid_s, times_s, measure) for measure in mouth_measures(crops)]
            )
            envelope = speech_envelope(sound, _with_margins(grid_s), *_sounding(clip.source))
            found = align(measures, envelope)
            if found is not None and (best is None or found.confidence > best.confidence):
                best = SyncRecord(found.offset_frames, found.confidence, track)
        return best or NotApplicable("no face is large enough for long enough")


def mouth_measures(crops: npt.NDArray[np.uint8]) -> FloatArray:
    """Four measures of an open or moving mouth: float64 [4, frames].

    The contrast of the vertical profile through the lips, the contrast of the mouth's region, the
    share of it that is dark, and how much it changes beyond what the nose above it does.

    Args:
        crops: uint8 luma [frames, 64, 64], the mouth in the middle and 0.7 face sizes wide.
    """
    luma = crops.astype(np.float32)
    mouth = luma[:, *_MOUTH].reshape(len(luma), -1)
    profile = luma[:, *_LIPS_COLUMN].mean(axis=2).std(axis=1)
    contrast = mouth.std(axis=1)
    dark = (mouth < _DARK_SHARE * np.median(mouth, axis=1, keepdims=True)).mean(axis=1)
    change = np.abs(np.diff(luma, axis=0))
    motion = change[:, *_MOVING_MOUTH].mean(axis=(1, 2)) - change[:, *_NOSE].mean(axis=(1, 2))
    # The first picture has none before it: as much changes as at the next one.
    motion = np.concatenate([motion[:1], motion])
    return np.stack([profile, contrast, dark, motion]).astype(np.float64)


def speech_envelope(
    sound: AudioBlock, times_s: FloatArray, sounding_from_s: float, sounding_to_s: float
) -> FloatArray:
    """Loudness of the speech band around points in time: float64 [times], NaN where unknown.

    The power between 200 and 4000 Hz over 40 ms, to the power 0.3, about as loudness is felt.

    Args:
        sound: any number of channels, at least 40 ms more than `times_s` at both ends.
        times_s: float64 [times].
        sounding_from_s: the source has no sound before this.
        sounding_to_s: and none from this on.
    """
    mono = sound.samples.mean(axis=1, dtype=np.float64)
    high_hz = min(_SPEECH_BAND_HZ[1], 0.45 * sound.rate_hz)
    band = (_SPEECH_BAND_HZ[0], high_hz)
    sections = scipy.signal.butter(2, band, "bandpass", fs=sound.rate_hz, output="sos")
    filtered = scipy.signal.sosfiltfilt(sections, mono)
    energy = np.concatenate([[0.0], np.cumsum(np.square(filtered))])
    half_s = 0.5 / SYNC_FPS
    edges = [
        np.clip(np.rint((times_s + side - sound.start_s) * sound.rate_hz), 0, len(mono)).astype(int)
        for side in (-half_s, half_s)
    ]
    power = np.maximum(energy[edges[1]] - energy[edges[0]], 0.0)
    loudness = (power / max(float(power.max()), 1e-12)) ** 0.3
    known = (times_s >= sounding_from_s) & (times_s < sounding_to_s)
    return np.where(known, loudness, np.nan)


def align(measures: FloatArray, envelope: FloatArray) -> Alignment | None:
    """The offset at which mouth and voice correlate best, or None where too little is known.

    The measures are brought to one scale and averaged: chance peaks of one seldom coincide with
    those of another. At each offset only frames whose sound is known count, and an offset with
    fewer of them needs a higher correlation to win. Correlations are given in multiples of their
    standard deviation under chance (Bartlett 1946: two series that change slowly agree by chance
    more often than their number of frames suggests).

    Args:
        measures: float64 [measures, frames] at 25 fps; higher is more open.
        envelope: float64 [frames + 30], from 15 frames before the first frame on; NaN is unknown.
    """
    frames = measures.shape[1]
    mouth = np.mean([_standardised(_smooth_change(measure)) for measure in measures], axis=0)
    voice = _without_trend(envelope)
    offsets = np.arange(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)
    scores = np.full(len(offsets), np.nan)
    for index, offset in enumerate(offsets):
        # A mouth at frame n belongs to a voice that came `offset` frames before it.
        first = MAX_OFFSET_FRAMES - offset
        heard = voice[first : first + frames]
        known = np.isfinite(heard)
        if known.sum() >= min(_MIN_OVERLAP_FRAMES, frames):
            correlation = np.mean(_standardised(mouth[known]) * _standardised(heard[known]))
            scores[index] = correlation * np.sqrt(known.sum())
    if not np.isfinite(scores).any():
        return None
    scores /= np.sqrt(_chance_variance(mouth, voice[np.isfinite(voice)]))
    peak = int(np.nanargmax(scores))
    confidence = float(scores[peak] - np.nanmedian(scores))
    return Alignment(float(offsets[peak] + _vertex(scores, peak)), confidence)


def _smooth_change(measure: FloatArray) -> FloatArray:
    smooth = scipy.ndimage.gaussian_filter1d(_without_trend(measure), _SMOOTHING_FRAMES)
    return np.asarray(smooth, dtype=np.float64)


def _without_trend(series: FloatArray) -> FloatArray:
    """A series less its moving mean over what is known of it."""
    known = np.isfinite(series)
    totals = scipy.ndimage.uniform_filter1d(
        np.where(known, series, 0.0), _TREND_FRAMES, mode="constant"
    )
    shares = scipy.ndimage.uniform_filter1d(known.astype(float), _TREND_FRAMES, mode="constant")
    return np.asarray(series - totals / np.maximum(shares, 1e-9), dtype=np.float64)


def _standardised(series: FloatArray) -> FloatArray:
    """Mean 0 and deviation 1; all 0 where nothing changes."""
    deviation = float(series.std())
    if deviation < 1e-9:
        return np.zeros_like(series)
    return np.asarray((series - series.mean()) / deviation)


def _chance_variance(one: FloatArray, other: FloatArray) -> float:
    """Variance of the correlation of two unrelated series, times their number of frames.

    The sum over all shifts of the product of their autocorrelations (Bartlett 1946); 1 for noise.
    """
    products = _autocorrelation(one) * _autocorrelation(other)
    return max(_LEAST_CHANCE_VARIANCE, 1.0 + 2.0 * float(products[1:].sum()))


def _autocorrelation(series: FloatArray) -> FloatArray:
    series = _standardised(series)
    shifts = range(min(_AUTOCORRELATION_FRAMES, len(series)))
    sums = [float(series[: len(series) - shift] @ series[shift:]) for shift in shifts]
    padded = np.zeros(_AUTOCORRELATION_FRAMES)
    padded[: len(sums)] = np.array(sums) / len(series)
    return padded


def _vertex(scores: FloatArray, peak: int) -> float:
    """Where between its neighbours a peak lies, by the parabola through the three: -0.5..0.5."""
    if not 0 < peak < len(scores) - 1:
        return 0.0
    before, top, after = scores[peak - 1 : peak + 2]
    curvature = before - 2 * top + after
    if not np.isfinite(curvature) or curvature >= 0:
        return 0.0
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5))


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


def _usable_tracks(clip: ClipTask, parameters: SyncParameters) -> list[_MouthPath]:
    """Paths of the faces that are followed long enough and are large enough, largest first."""
    paths = []
    for row in clip.side_rows.get("face_tracks", ()):
        path = _mouth_path(row, clip.source)
        first_s = max(clip.start_s, float(path.times_s[0]) - _TRACK_REACH_S)
        last_s = min(clip.end_s, float(path.times_s[-1]) + _TRACK_REACH_S)
        if last_s - first_s < parameters.min_track_s:
            continue
        if float(np.median(path.size_px)) >= parameters.min_face_px:
            paths.append(path)
    paths.sort(key=lambda path: -float(np.median(path.size_px)))
    return paths[: parameters.max_tracks]


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


def _mouths(
    clip: ClipTask, paths: Sequence[_MouthPath]
) -> list[tuple[int, FloatArray, npt.NDArray[np.uint8]]]:
    """Every track's crops with their presentation times, from one decode of the clip."""
    times: list[list[float]] = [[] for _ in paths]
    crops: list[list[ByteImage]] = [[] for _ in paths]
    last_s = -np.inf
    for time_s, frame in pictures(clip.uri, clip.source, clip.start_s, clip.end_s):
        if time_s - last_s < 1.0 / _MAX_PICTURE_RATE_HZ:
            continue
        last_s = time_s
        luma, bits = luma_plane(frame)
        for index, path in enumerate(paths):
            if path.covers(time_s):
                times[index].append(time_s)
                crops[index].append(_crop(luma, bits, clip.source, path.at(time_s)))
    return [
        (path.track, np.array(times[index]), np.array(crops[index], dtype=np.uint8))
        for index, path in enumerate(paths)
        if crops[index]
    ]


def _crop(
    luma: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    bits: int,
    source: SourceFormat,
    square: _Square,
) -> ByteImage:
    """The upright square around a mouth: uint8 [64, 64], out of the luma as it is coded."""
    # Sampled at about the picture's own resolution, then averaged: sampling at once would alias.
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
    """The affine map [2, 3] from a crop's pixels to the coded picture's, rotation included."""
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


def _grid(times_s: FloatArray) -> FloatArray:
    """The points of the 25 fps grid between the first and the last picture."""
    first, last = np.ceil(times_s[0] * SYNC_FPS - 1e-6), np.floor(times_s[-1] * SYNC_FPS + 1e-6)
    return np.asarray(np.arange(first, last + 1) / SYNC_FPS)


def _with_margins(grid_s: FloatArray) -> FloatArray:
    frames = np.arange(-MAX_OFFSET_FRAMES, len(grid_s) + MAX_OFFSET_FRAMES)
    return np.asarray(grid_s[0] + frames / SYNC_FPS)


def _sound_around(clip: ClipTask) -> AudioBlock:
    """The clip's sound and what lies up to the largest offset beside it."""
    margin_s = (MAX_OFFSET_FRAMES + _TREND_FRAMES) / SYNC_FPS
    return read_audio(clip.uri, clip.source, clip.start_s - margin_s, clip.end_s + margin_s)


def _sounding(source: SourceFormat) -> tuple[float, float]:
    """From when to when the source may have sound."""
    return max(0.0, source.audio_start_s or 0.0), source.duration_s
