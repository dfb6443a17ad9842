"""Integrated loudness as in ITU-R BS.1770-4 and EBU R 128.

K-weighting, channels summed with their weights (rears 1.41, LFE not at all), the mean square of
400 ms blocks every 100 ms, an absolute gate at -70 LUFS and a relative one 10 LU below what passes
it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyloudnorm

from stages.media.blocks import FloatArray

RATE_HZ = 20
"""Bins a second: the gating hop of 100 ms is two of them, the block of 400 ms eight."""
INTEGRATED_FLOOR_LUFS = -70.0
"""The absolute gate, reported where nothing passes it."""

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
    blocks = blocks[_K_OFFSET_DB + decibels(blocks) >= INTEGRATED_FLOOR_LUFS]
    if not len(blocks):
        return INTEGRATED_FLOOR_LUFS
    # A relative gate of -10 LU is a tenth of the mean power.
    blocks = blocks[blocks > blocks.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
    return max(INTEGRATED_FLOOR_LUFS, _K_OFFSET_DB + float(decibels(blocks.mean())))


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


def decibels(power: npt.ArrayLike) -> FloatArray:
    """Power in dB, never below -200."""
    return np.asarray(10.0 * np.log10(np.maximum(power, 1e-20)))
