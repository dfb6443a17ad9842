"""What a signal stage makes of a source that is decoded once: an observer, and its time series."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.media.blocks import AudioBlock, FloatArray, Frame


@dataclasses.dataclass(frozen=True)
class Signals:
    """A stage's time series over one unit.

    Bin i covers `start_s + i / rate_hz` to `start_s + (i + 1) / rate_hz`. Each series is one
    float64 array [bins]; NaN where a bin has no observation.
    """

    start_s: float
    rate_hz: float
    series: Mapping[str, FloatArray]

    def weights(self, start_s: float, end_s: float) -> FloatArray:
        """The share (0..1) of every bin that lies inside `start_s`..`end_s`: float64 [bins].

        A span's sums are then weighted sums, right to a fraction of a bin at its ends.
        """
        bins = len(next(iter(self.series.values())))
        edges = self.start_s + np.arange(bins + 1) / self.rate_hz
        overlap = np.minimum(edges[1:], end_s) - np.maximum(edges[:-1], start_s)
        return np.clip(overlap * self.rate_hz, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Observation:
    """What an observer leaves behind: its signals, and rows for side tables by table name.

    Side rows are dicts without `source_id`, `unit_index` and `fingerprint`, which the caller adds.
    """

    signals: Signals
    side_rows: Mapping[str, Sequence[dict[str, Any]]] = dataclasses.field(default_factory=dict)


class Observer(abc.ABC):
    """Watches one unit go by; decodes nothing itself. Overrides `frame`, `audio` or both."""

    def frame(self, frame: Frame) -> None:  # noqa: B027 - need not be overridden
        """See the next frame, in presentation order."""

    def audio(self, block: AudioBlock) -> None:  # noqa: B027 - need not be overridden
        """Hear the next block of samples, in presentation order."""

    @abc.abstractmethod
    def finish(self, start_s: float, end_s: float) -> Observation:
        """The unit's signals over its decoded span."""
