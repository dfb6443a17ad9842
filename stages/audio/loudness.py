"""How loud the sound is: level, integrated loudness, peak, clipping, silence and bandwidth.

Loudness follows ITU-R BS.1770-4 and EBU R 128: K-weighting, channels summed with their weights
(rears 1.41, LFE not at all), the mean square of 400 ms blocks every 100 ms, an absolute gate at
-70 LUFS and a relative one 10 LU below what passes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import pyloudnorm
import scipy.fft
import scipy.signal

from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import AudioBlock, FloatArray, SourceFormat

Samples = npt.NDArray[np.float32]

RATE_HZ = 20
"""Bins a second: BS.1770's gating hop of 100 ms is two of them, its block of 400 ms eight."""
MEAN_VOLUME_FLOOR_DB = -91.0
"""What ffmpeg's `volumedetect` reports for digital silence: the quietest 16-bit sample is there."""
INTEGRATED_FLOOR_LUFS = -70.0
"""The absolute gate, reported where nothing passes it."""
JOINT_TOLERANCE_S = 0.005
"""Containers round block times, to a millisecond at worst; only what is further off is a gap."""

_BLOCK_BINS, _HOP_BINS = 8, 2
_RELATIVE_GATE_LU = -10.0
_K_OFFSET_DB = -0.691
_REAR = 1.41
# Orders of channels as FFmpeg's default layouts have them; beyond 7.1 all count alike.
_CHANNEL_WEIGHTS: dict[int, tuple[float, ...]] = {
    3: (1.0, 1.0, 0.0),
    4: (1.0, 1.0, 1.0, _REAR),
    5: (1.0, 1.0, 1.0, _REAR, _REAR),
    6: (1.0, 1.0, 1.0, 0.0, _REAR, _REAR),
    7: (1.0, 1.0, 1.0, 0.0, _REAR, _REAR, _REAR),
    8: (1.0, 1.0, 1.0, 0.0, _REAR, _REAR, _REAR, _REAR),
}
_LEAST_SHELF_RATE_HZ = 4000
_SPECTRUM_BINS = 10
"""Bins whose spectra are averaged for one reading of the bandwidth: half a second."""
_BANDWIDTH_RANGE_DB = 50.0
_LOWEST_HZ = 20.0
"""Offsets and rumble below hearing are no peak to measure from."""
_AUDIBLE_RANGE_DB = 30.0
"""Pauses are left out of the bandwidth: in them, noise as wide as the format is all there is."""
_BANDWIDTH_QUANTILE = 0.9


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
        sounding = inside & (_decibels(squares) >= self.parameters.silence_db)
        sounding_s = float(weights[sounding].sum()) / signals.rate_hz
        return LoudnessRecord(
            mean_volume_db=_floored_db(float((weights * series["square_sum"]).sum()) / count),
            integrated_lufs=integrated_loudness(_span_squares(signals, start_s, end_s)),
            peak_db=_floored_db(float(series["peak"][inside].max()) ** 2),
            clipping_ratio=float((weights * series["clipped"]).sum()) / count,
            silence_ratio=round(float(np.clip(1.0 - sounding_s / (end_s - start_s), 0.0, 1.0)), 9),
            bandwidth_hz=_span_bandwidth(series["bandwidth_hz"], squares, sounding),
        )


def integrated_loudness(weighted_squares: FloatArray) -> float:
    """Integrated loudness in LUFS (BS.1770-4, equations 3 to 7) of consecutive 50 ms bins.

    Args:
        weighted_squares: float64 [bins]; each bin's K-weighted mean square summed over channels
            with their weights. Fewer than eight bins (400 ms) make one shorter block.

    Returns:
        -70 where no block passes the absolute gate.
    """
    if len(weighted_squares) < _BLOCK_BINS:
        blocks = weighted_squares.mean(keepdims=True) if len(weighted_squares) else np.zeros(0)
    else:
        totals = np.concatenate([[0.0], np.cumsum(weighted_squares)])
        blocks = (totals[_BLOCK_BINS:] - totals[:-_BLOCK_BINS])[::_HOP_BINS] / _BLOCK_BINS
    blocks = blocks[_K_OFFSET_DB + _decibels(blocks) >= INTEGRATED_FLOOR_LUFS]
    if not len(blocks):
        return INTEGRATED_FLOOR_LUFS
    # A relative gate of -10 LU is a tenth of the mean power.
    blocks = blocks[blocks > blocks.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
    return max(INTEGRATED_FLOOR_LUFS, _K_OFFSET_DB + float(_decibels(blocks.mean())))


def channel_weights(channels: int) -> FloatArray:
    """BS.1770's weight of each channel in FFmpeg's default layout for their number."""
    return np.array(_CHANNEL_WEIGHTS.get(channels, (1.0,) * channels))


def k_weighting_sections(rate_hz: int) -> FloatArray:
    """BS.1770's two filters at any sampling rate: second-order sections, float64 [2, 6].

    Below 4 kHz the shelf is left out: [1, 6].
    """
    # pyloudnorm's default rounds the prototype's frequencies; the set named after De Man has them
    # exact, and gives the Recommendation's own coefficients at 48 kHz.
    filters = pyloudnorm.Meter(rate_hz, filter_class="DeMan")._filters.values()
    sections = np.array([[*section.b, *section.a] for section in filters])
    # The shelf rises around 1.7 kHz: below twice that rate there is nothing for it to lift.
    return sections if rate_hz >= _LEAST_SHELF_RATE_HZ else sections[1:]


def _decibels(power: npt.ArrayLike) -> FloatArray:
    return np.asarray(10.0 * np.log10(np.maximum(power, 1e-20)))


def _floored_db(power: float) -> float:
    return max(MEAN_VOLUME_FLOOR_DB, float(_decibels(power)))


def _span_squares(signals: Signals, start_s: float, end_s: float) -> FloatArray:
    """The weighted squares of a span in bins that start with it; silence where there is no sound.

    Within a bin of the source the power counts as constant.
    """
    squares = np.nan_to_num(signals.series["weighted_square"])
    energy = np.concatenate([[0.0], np.cumsum(squares)])
    bins = max(1, round((end_s - start_s) * signals.rate_hz))
    edges = (start_s - signals.start_s) * signals.rate_hz + np.arange(bins + 1)
    return np.diff(np.interp(edges, np.arange(len(energy)), energy))


def _span_bandwidth(
    bandwidth_hz: FloatArray, squares: FloatArray, sounding: npt.NDArray[np.bool_]
) -> float | None:
    readings = sounding & np.isfinite(bandwidth_hz)
    if not readings.any():
        return None
    loudest = squares[readings].max()
    readings &= squares >= loudest * 10 ** (-_AUDIBLE_RANGE_DB / 10)
    return float(np.quantile(bandwidth_hz[readings], _BANDWIDTH_QUANTILE))


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
        self._spectrum = _BandwidthMeter(rate_hz)
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


class _BandwidthMeter:
    """Reads the bandwidth off power spectra averaged over half a second: one transform a bin."""

    def __init__(self, rate_hz: int) -> None:
        # The longest power of two that fits into a bin.
        self._length = 1 << int(math.log2(max(64, rate_hz / RATE_HZ)))
        self._window = scipy.signal.get_window("hann", self._length).astype(np.float32)
        self._frequencies_hz = scipy.fft.rfftfreq(self._length, 1.0 / rate_hz)
        self._power = np.zeros(len(self._frequencies_hz))
        self._group = -1
        self._bandwidth_hz: dict[int, float] = {}

    def add(self, samples: Samples, index: int) -> None:
        """Look at the start of a bin's samples [channels, samples]; too few are passed over."""
        if samples.shape[1] < self._length:
            return
        if index // _SPECTRUM_BINS != self._group:
            self._close()
            self._group = index // _SPECTRUM_BINS
        # Channels are averaged as powers: what is in opposite phase must not cancel.
        spectra = scipy.fft.rfft(samples[:, : self._length] * self._window, axis=1)
        self._power += np.square(np.abs(spectra)).sum(axis=0)

    def readings(self, bins: int) -> FloatArray:
        """Bandwidth in Hz by bin: float64 [bins], NaN where there is no sound."""
        self._close()
        groups = np.arange(bins) // _SPECTRUM_BINS
        return np.array([self._bandwidth_hz.get(int(group), np.nan) for group in groups])

    def _close(self) -> None:
        power = np.where(self._frequencies_hz >= _LOWEST_HZ, self._power, 0.0)
        peak = float(power.max())
        if peak > 0:
            within = np.flatnonzero(power >= peak * 10 ** (-_BANDWIDTH_RANGE_DB / 10))
            self._bandwidth_hz[self._group] = float(self._frequencies_hz[within[-1]])
        self._power[:] = 0.0
