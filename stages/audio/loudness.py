"""How loud the sound is: level, integrated loudness, peak, clipping, silence and bandwidth.

Loudness is that of `stages.audio.bs1770`, bandwidth that of `stages.audio.bandwidth`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import scipy.signal

from stages.audio.bandwidth import BandwidthMeter, span_bandwidth
from stages.audio.bs1770 import (
    RATE_HZ,
    channel_weights,
    decibels,
    integrated_loudness,
    k_weighting_sections,
)
from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import AudioBlock, FloatArray, SourceFormat

Samples = npt.NDArray[np.float32]

MEAN_VOLUME_FLOOR_DB = -91.0
"""What ffmpeg's `volumedetect` reports for digital silence: the quietest 16-bit sample is there."""
JOINT_TOLERANCE_S = 0.005
"""Containers round block times, to a millisecond at worst; only what is further off is a gap."""


class LoudnessParameters(StageParameters):
    """What counts as silence and as clipped."""

    silence_db: float = pydantic.Field(
        -60.0, le=0.0, description="a 50 ms bin whose level (dBFS RMS) is below this is silent"
    )
    clip_level: float = pydantic.Field(
        0.999, gt=0.0, description="a sample at or above this magnitude counts as clipped"
    )


@dataclasses.dataclass(frozen=True)
class LoudnessRecord:
    """The sound of a clip.

    `mean_volume_db` is the RMS over all samples of all channels in dBFS, as ffmpeg's
    `volumedetect` gives it, never below -91. `integrated_lufs` is BS.1770's integrated loudness;
    -70 where nothing passes the absolute gate, digital silence included. `peak_db` is the largest
    sample in dBFS (not oversampled; above 0 in floating-point and lossy sources), never below -91.
    `clipping_ratio` is the share of samples at full scale, `silence_ratio` the share of the clip's
    time that is silent or has no sound. `bandwidth_hz` is the highest frequency within 50 dB of the
    spectrum's peak, exceeded a tenth of the audible time; null where all is silent.
    """

    mean_volume_db: float
    integrated_lufs: float
    peak_db: float
    clipping_ratio: float
    silence_ratio: float
    bandwidth_hz: float | None


class LoudnessStage(SignalStage[LoudnessParameters]):
    """Level, loudness, peak, clipping, silence and bandwidth of the sound."""

    name = "loudness"
    version = 2
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (BackendDeclaration("embedded"),)
    Parameters = LoudnessParameters
    Record = LoudnessRecord
    media: ClassVar[Literal["video", "audio"]] = "audio"
    series = ("samples", "square_sum", "weighted_square", "peak", "clipped", "bandwidth_hz")

    def observer(self, source: SourceFormat) -> Observer:
        """An observer for one unit's sound."""
        return _LoudnessObserver(self.parameters.clip_level)

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> LoudnessRecord | NotApplicable:
        """The clip's sound; not applicable where the span has none."""
        weights = signals.weights(start_s, end_s)
        series = signals.series
        counts = weights * series["samples"]
        count = float(counts.sum())
        if count <= 0:
            return NotApplicable("no sound in this span")
        inside = (weights > 0) & (series["samples"] > 0)
        squares = series["square_sum"] / np.maximum(series["samples"], 1.0)
        sounding = inside & (decibels(squares) >= self.parameters.silence_db)
        sounding_s = float(weights[sounding].sum()) / signals.rate_hz
        return LoudnessRecord(
            mean_volume_db=_floored_db(float((weights * series["square_sum"]).sum()) / count),
            integrated_lufs=integrated_loudness(_span_squares(signals, start_s, end_s)),
            peak_db=_floored_db(float(series["peak"][inside].max()) ** 2),
            clipping_ratio=float((weights * series["clipped"]).sum()) / count,
            silence_ratio=round(float(np.clip(1.0 - sounding_s / (end_s - start_s), 0.0, 1.0)), 9),
            bandwidth_hz=span_bandwidth(series["bandwidth_hz"], squares, sounding),
        )


def _floored_db(power: float) -> float:
    return max(MEAN_VOLUME_FLOOR_DB, float(decibels(power)))


def _span_squares(signals: Signals, start_s: float, end_s: float) -> FloatArray:
    """The weighted squares of a span in bins that start with it; silence where there is no sound.

    Within a bin of the source the power counts as constant.
    """
    squares = np.nan_to_num(signals.series["weighted_square"])
    energy = np.concatenate([[0.0], np.cumsum(squares)])
    bins = max(1, round((end_s - start_s) * signals.rate_hz))
    edges = (start_s - signals.start_s) * signals.rate_hz + np.arange(bins + 1)
    return np.diff(np.interp(edges, np.arange(len(energy)), energy))


class _LoudnessObserver(Observer):
    """Keeps the running sums of every bin; holds about a second of samples at a time.

    Samples are counted from the start of the first bin on. A gap between blocks leaves bins with
    fewer samples, or none; of an overlap the later block's part is dropped.
    """

    def __init__(self, clip_level: float) -> None:
        self._clip_level = clip_level
        self._sums: _BinSums | None = None
        self._next_sample = 0
        self._pending: list[Samples] = []
        self._pending_samples = 0

    def audio(self, block: AudioBlock) -> None:
        """Take in the next block of samples."""
        samples = block.samples
        if not len(samples):
            return
        if self._sums is None:
            # Bins start with the sound, as the blocks of any meter that is fed the file do.
            channels = samples.shape[1]
            self._sums = _BinSums(block.start_s, block.rate_hz, channels, self._clip_level)
        position = round((block.start_s - self._sums.start_s) * block.rate_hz)
        off = position - (self._next_sample + self._pending_samples)
        if off > JOINT_TOLERANCE_S * block.rate_hz:
            self._flush(everything=True)
            self._next_sample = position
        elif off < -JOINT_TOLERANCE_S * block.rate_hz:
            samples = samples[-off:]
        self._pending.append(samples)
        self._pending_samples += len(samples)
        if self._pending_samples >= block.rate_hz:
            self._flush(everything=False)

    def finish(self, start_s: float, end_s: float) -> Observation:
        """The series over all bins from the first sound to the last."""
        if self._sums is None:
            empty = {name: np.zeros(0) for name in LoudnessStage.series}
            return Observation(Signals(start_s, float(RATE_HZ), empty))
        self._flush(everything=True)
        return Observation(Signals(self._sums.start_s, float(RATE_HZ), self._sums.series()))

    def _flush(self, *, everything: bool) -> None:
        """Sum up the pending samples: whole bins, or all of them before a gap and at the end."""
        if self._sums is None or not self._pending_samples:
            return
        samples = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        end = self._next_sample + len(samples)
        if not everything:
            end = self._sums.first_sample(self._sums.bin_of(end))
        taken, held = np.split(samples, [end - self._next_sample])
        self._sums.add(taken, self._next_sample)
        self._next_sample = end
        self._pending, self._pending_samples = [held], len(held)


class _BinSums:
    """Sums over the bins of one stream of samples at one rate; sample 0 opens bin 0."""

    def __init__(self, start_s: float, rate_hz: int, channels: int, clip_level: float) -> None:
        self.start_s = start_s
        self._rate_hz = rate_hz
        self._channels = channels
        self._clip_level = clip_level
        self._weights = channel_weights(channels)
        self._sections = k_weighting_sections(rate_hz)
        self._state = np.zeros((len(self._sections), channels, 2))
        self._spectrum = BandwidthMeter(rate_hz)
        # Columns: samples, sum of squares, K-weighted sum of squares, clipped samples, peak.
        self._table = np.zeros((0, 5))

    def bin_of(self, sample: int) -> int:
        return sample * RATE_HZ // self._rate_hz

    def first_sample(self, index: int) -> int:
        return -(-index * self._rate_hz // RATE_HZ)

    def add(self, samples: Samples, first_sample: int) -> None:
        """Count in `samples` [samples, channels], the first of which has the given number."""
        if not len(samples):
            return
        first, end = self.bin_of(first_sample), self.bin_of(first_sample + len(samples) - 1) + 1
        starts = [max(0, self.first_sample(index) - first_sample) for index in range(first, end)]
        counts = np.diff([*starts, len(samples)])
        # Along the last axis everything below runs several times faster.
        by_channel = np.ascontiguousarray(samples.T)
        if not np.isfinite(by_channel.sum()):
            # Floating-point files may hold NaN, and one would never leave the filters again.
            by_channel = np.nan_to_num(by_channel, posinf=0.0, neginf=0.0)
        magnitudes = np.abs(by_channel)
        weighted, self._state = scipy.signal.sosfilt(self._sections, by_channel, zi=self._state)
        per_sample = np.empty((3, len(samples)))
        per_sample[0] = np.einsum("ij,ij->j", by_channel, by_channel)
        per_sample[1] = self._weights @ np.square(weighted)
        per_sample[2] = (magnitudes >= self._clip_level).sum(axis=0)
        self._grow(end)
        table = self._table[first:end]
        table[:, 0] += counts * self._channels
        table[:, 1:4] += np.add.reduceat(per_sample, starts, axis=1).T
        table[:, 4] = np.maximum(table[:, 4], np.maximum.reduceat(magnitudes.max(axis=0), starts))
        for index, start in zip(range(first, end), starts, strict=True):
            self._spectrum.add(by_channel[:, start:], index)

    def series(self) -> dict[str, FloatArray]:
        """The stage's series: float64 [bins] each, NaN where a bin has no samples."""
        counts, squares, weighted, clipped, peaks = self._table.T
        heard = counts > 0
        means = np.divide(
            weighted * self._channels, counts, out=np.full(len(counts), np.nan), where=heard
        )
        return {
            "samples": counts,
            "square_sum": squares,
            "weighted_square": means,
            "peak": np.where(heard, peaks, np.nan),
            "clipped": clipped,
            "bandwidth_hz": np.where(heard, self._spectrum.readings(len(counts)), np.nan),
        }

    def _grow(self, bins: int) -> None:
        missing = bins - len(self._table)
        if missing > 0:
            self._table = np.concatenate([self._table, np.zeros((missing, 5))])
