"""How fast a run trains: tokens a second, seconds a step, and the wait for data in them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from training.data.geometry import Geometry
from training.data.loader import RankBatch
from training.data.order import GlobalBatch


class ThroughputMeter:
    """Rates since they were last read."""

    def __init__(self) -> None:
        self.skip()

    def next(self, batches: Iterator[RankBatch]) -> RankBatch:
        """The next batch, the wait for it counted."""
        before = time.perf_counter()
        batch = next(batches)
        self._wait_s += time.perf_counter() - before
        return batch

    def count(self, batch: GlobalBatch, geometry: Geometry) -> None:
        """Note a step."""
        tokens = geometry.video_tokens(batch.shape) + geometry.audio_tokens(batch.shape)
        self._tokens += tokens * len(batch.samples)
        self._steps += 1

    def skip(self) -> None:
        """Forget what has passed: it was no training."""
        self._tokens, self._wait_s, self._steps = 0, 0.0, 0
        self._since = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Rates since the last reading."""
        elapsed_s, steps = time.perf_counter() - self._since, max(1, self._steps)
        values = {
            "tokens_per_s": self._tokens / elapsed_s,
            "step_s": elapsed_s / steps,
            "data_wait_s": self._wait_s / steps,
        }
        self.skip()
        return values
