"""Offset and confidence without learned weights: the mouth's openness against the voice's loudness.

How open the mouth of every face track is, and how much it moves, is correlated with the loudness of
the speech band at offsets of up to 15 frames of 25 fps, as SyncNet does with its features (Chung
and Zisserman 2016).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal

from stages.base.clip import ClipTask
from stages.joint.sync.mouths import mouths
from stages.media.blocks import AudioBlock, FloatArray, SourceFormat
from stages.media.decode import read_audio

SYNC_FPS = 25.0
MAX_OFFSET_FRAMES = 15

_TREND_FRAMES = 25
"""What changes more slowly than this (a turning head, a swelling voice) tells nothing of sync."""
_SMOOTHING_FRAMES = 0.8
_MIN_OVERLAP_FRAMES = 40
_AUTOCORRELATION_FRAMES = 20
_LEAST_CHANCE_VARIANCE = 0.3
_SPEECH_BAND_HZ = (200.0, 4000.0)
_DARK_SHARE = 0.62

# Where things are in a crop whose centre is the mouth's: rows, columns.
_MOUTH = (slice(22, 50), slice(18, 46))
_LIPS_COLUMN = (slice(14, 58), slice(24, 40))
_MOVING_MOUTH = (slice(22, 52), slice(16, 48))
_NOSE = (slice(2, 16), slice(16, 48))


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Where a mouth and a voice fit best.

    `offset_frames` counts frames of 25 fps; positive: the sound is early. `confidence` is how far
    the correlation there stands out over other offsets', in multiples of what chance would give.
    """

    offset_frames: float
    confidence: float


def best_aligned_face(
    clip: ClipTask, *, min_track_s: float, min_face_px: float, max_tracks: int
) -> tuple[int, Alignment] | None:
    """Decode the clip's mouths and sound: the track with the highest confidence, and its alignment.

    Args:
        clip: it has video and audio.
        min_track_s: faces followed for less of the clip are passed over.
        min_face_px: smaller faces are, too.
        max_tracks: how many faces, largest first.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    seen = mouths(clip, min_track_s=min_track_s, min_face_px=min_face_px, max_tracks=max_tracks)
    if not seen:
        return None
    best: tuple[int, Alignment] | None = None
    audio = _audio_around(clip)
    for mouth in seen:
        times_s = mouth.times_s
        if len(times_s) < 2 or times_s[-1] - times_s[0] < min_track_s:
            continue
        grid_s = _grid(times_s)
        measures = np.stack(
            [np.interp(grid_s, times_s, measure) for measure in mouth_measures(mouth.crops)]
        )
        envelope = speech_envelope(audio, _with_margins(grid_s), *_sounding(clip.source))
        found = align(measures, envelope)
        if found is not None and (best is None or found.confidence > best[1].confidence):
            best = mouth.track, found
    return best


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
    # The first frame has none before it: as much changes as at the next one.
    motion = np.concatenate([motion[:1], motion])
    return np.stack([profile, contrast, dark, motion]).astype(np.float64)


def speech_envelope(
    audio: AudioBlock, times_s: FloatArray, sounding_from_s: float, sounding_to_s: float
) -> FloatArray:
    """Loudness of the speech band around points in time: float64 [times], NaN where unknown.

    The power between 200 and 4000 Hz over 40 ms, to the power 0.3, about as loudness is felt.

    Args:
        sound: any number of channels, at least 40 ms more than `times_s` at both ends.
        times_s: float64 [times].
        sounding_from_s: the source has no sound before this.
        sounding_to_s: and none from this on.
    """
    mono = audio.samples.mean(axis=1, dtype=np.float64)
    high_hz = min(_SPEECH_BAND_HZ[1], 0.45 * audio.rate_hz)
    band = (_SPEECH_BAND_HZ[0], high_hz)
    sections = scipy.signal.butter(2, band, "bandpass", fs=audio.rate_hz, output="sos")
    filtered = scipy.signal.sosfiltfilt(sections, mono)
    energy = np.concatenate([[0.0], np.cumsum(np.square(filtered))])
    half_s = 0.5 / SYNC_FPS
    edges = [
        np.clip(np.rint((times_s + side - audio.start_s) * audio.rate_hz), 0, len(mono)).astype(int)
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


def _grid(times_s: FloatArray) -> FloatArray:
    """The points of the 25 fps grid between the first and the last frame."""
    first, last = np.ceil(times_s[0] * SYNC_FPS - 1e-6), np.floor(times_s[-1] * SYNC_FPS + 1e-6)
    return np.asarray(np.arange(first, last + 1) / SYNC_FPS)


def _with_margins(grid_s: FloatArray) -> FloatArray:
    frames = np.arange(-MAX_OFFSET_FRAMES, len(grid_s) + MAX_OFFSET_FRAMES)
    return np.asarray(grid_s[0] + frames / SYNC_FPS)


def _audio_around(clip: ClipTask) -> AudioBlock:
    """The clip's sound and what lies up to the largest offset beside it."""
    margin_s = (MAX_OFFSET_FRAMES + _TREND_FRAMES) / SYNC_FPS
    return read_audio(clip.uri, clip.source, clip.start_s - margin_s, clip.end_s + margin_s)


def _sounding(source: SourceFormat) -> tuple[float, float]:
    """From when to when the source may have sound."""
    return max(0.0, source.audio_start_s or 0.0), source.duration_s
