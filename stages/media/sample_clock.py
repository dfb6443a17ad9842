"""Where the blocks of an audio stream lie: samples are counted, and times are followed at gaps.

Most containers round a block's presentation time (Matroska, FLV and ASF to a millisecond, MPEG to
1/90000 s). Placing every block by its own rounded time would open or close a gap of some samples at
every joint. So blocks follow each other without a joint until their times leave the count for good.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from manifests.errors import MediaError

Samples = npt.NDArray[np.float32]

_LEAVES_COUNT_S = 0.004
"""By how much times may differ from the count: rounding takes one millisecond, rarely two."""
_SETTLED_S = 0.75
_SETTLED_BLOCKS = 4
"""How much sound is asked for its place: one late time is no gap, and many that are rounded, each
differently, tell the place to a sample or two."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A decoded block before its place is known: float32 [samples, channels].

    `time_s` is its presentation time, if it has one; `after_damage` says that what came before it
    did not decode.
    """

    time_s: float | None
    samples: Samples
    after_damage: bool = False


@dataclasses.dataclass(frozen=True)
class StreamStart:
    """How a stream begins: the presentation time of its first block, and how many samples it has.

    The first block of most codecs is shorter than the others: what the codec needs to get going is
    cut off. `is_whole` says that it is not cut but of a length that may come again (Vorbis).
    """

    time_s: float
    samples: int
    is_whole: bool


class SampleClock:
    """Gives every block of a stream its place, in samples since time 0 of the source.

    Args:
        rate_hz: of the samples.
        tick_s: unit of the container's presentation times.
        start: how the stream begins, where decoding begins further on: the place is then found from
            the times of several blocks, and from the lengths of blocks, which the way from the
            start is made of. None where decoding begins at the start.
        from_start: whether decoding begins where the stream does.
    """

    def __init__(
        self, rate_hz: int, tick_s: float, *, start: StreamStart | None, from_start: bool
    ) -> None:
        self._rate_hz = rate_hz
        self._tick = tick_s * rate_hz
        self._from_start = from_start
        # Where a block ends, somewhere before: later blocks lie a sum of block lengths further on.
        self._joint = None if start is None else round(start.time_s * rate_hz) + start.samples
        self._other_length = start.samples if start is not None and start.is_whole else 0
        self._next: int | None = None
        self._pushed = 0
        self._held: collections.deque[_Held] = collections.deque()
        self._known_off = 0

    def push(self, block: Block) -> Iterator[tuple[int, Block]]:
        """Take the next block; the blocks whose places are known now, with their first samples'."""
        if len(block.samples):
            said = None
            if block.time_s is not None:
                said = block.time_s * self._rate_hz - self._pushed
            self._held.append(_Held(block, self._pushed, said))
            self._pushed += len(block.samples)
        return self._settle(final=False)

    def finish(self) -> Iterator[tuple[int, Block]]:
        """The blocks that are left at the end of the stream.

        Raises:
            MediaError: `no_presentation_times`; so does `push`.
        """
        return self._settle(final=True)

    def _settle(self, *, final: bool) -> Iterator[tuple[int, Block]]:
        while self._held:
            if self._next is None:
                if self._from_start:
                    self._next = round((self._held[0].block.time_s or 0.0) * self._rate_hz)
                elif final or self._is_enough():
                    self._next = self._place_of_held(after_seek=True)
                else:
                    return
            elif self._leaves_count():
                if not (final or self._is_enough()):
                    return
                if not self._is_stray():
                    self._joint = self._next
                    self._next = self._place_of_held(after_seek=False)
            block = self._held.popleft().block
            self._known_off = 0
            yield self._next, block
            self._next += len(block.samples)

    def _is_enough(self) -> bool:
        """Whether enough is held to tell a place."""
        held = self._pushed - self._held[0].count
        return len(self._held) >= _SETTLED_BLOCKS and held >= _SETTLED_S * self._rate_hz

    def _leaves_count(self) -> bool:
        """Whether the first held block's time leaves the count, and no later time is back at it."""
        if self._held[0].said is None:
            return False
        unasked = itertools.islice(self._held, self._known_off, None)
        self._known_off = len(self._held)
        return not any(map(self._agrees, unasked))

    def _agrees(self, held: _Held) -> bool:
        off = self._off(held)
        # Where a tick is as long as a block (MP3 in AVI), times are not rounded but counted.
        rounding = min(1.5 * self._tick, 0.5 * len(held.block.samples))
        return off is not None and abs(off) <= max(_LEAVES_COUNT_S * self._rate_hz, rounding)

    def _off(self, held: _Held) -> float | None:
        """How many samples a held block's time lies after the count; None if it has no time."""
        assert self._next is not None
        return None if held.said is None else held.said - (self._next - self._held[0].count)

    def _is_stray(self) -> bool:
        """Whether what is left at the end is too little to call a gap.

        Blocks whose times do not agree with each other, or one that is off by its length at most.
        """
        offs = [off for off in map(self._off, self._held) if off is not None]
        if len(offs) == 1:
            return abs(offs[0]) <= len(self._held[0].block.samples) + self._tick
        return not self._is_enough() and max(offs) - min(offs) > 2 * self._tick + 1

    def _place_of_held(self, *, after_seek: bool) -> int:
        """The place of the first held block, by the times of all of them."""
        lengths = [len(held.block.samples) for held in self._held]
        # Decoders cut the first block after a seek, and may not know its time.
        skip = 1 if after_seek and len(lengths) > 1 else 0
        said = [held.said for held in list(self._held)[skip:] if held.said is not None]
        if not said:
            if self._next is None:
                raise MediaError(
                    "no_presentation_times",
                    "Its sound has no times from which to tell where in the file one is.",
                    remedy="Remux it, for example: ffmpeg -i IN -c copy OUT.mkv",
                )
            return self._next
        middle, spread = _middle(said, self._tick)
        place = middle + self._held[0].count
        if self._joint is None:
            return round(place)
        step = math.gcd(self._other_length, *lengths[skip:])
        # Where blocks end before and here, mod the step, are the same unless a gap lies between
        # that is not made of lost blocks: the times tell which, as far as they are exact.
        joint = self._joint - (lengths[0] if skip else 0)
        near = joint + round((place - joint) / step) * step
        # Half a tick for the time of the start, and for muxers that round down; times that are
        # spread over a whole tick leave no more doubt than that.
        doubt = max(0.0, self._tick - spread / 2) + 1.0
        return near if abs(near - place) <= doubt and step > 2 * doubt else round(place)


@dataclasses.dataclass(frozen=True)
class _Held:
    """A block that waits for its place.

    `count` is how many samples were pushed before it, `said` the place that its time gives to the
    first sample ever pushed.
    """

    block: Block
    count: int
    said: float | None


def _middle(said: Sequence[float], tick: float) -> tuple[float, float]:
    """The place that the first times speak of while they differ by rounding alone; by how much.

    Where they scatter from the first on, the median of all.
    """
    low = high = said[0]
    count = 0
    for place in said:
        if max(high, place) - min(low, place) > 2 * tick + 1:
            break
        low, high, count = min(low, place), max(high, place), count + 1
    if count < min(2, len(said)):
        return float(np.median(said)), 0.0
    return (low + high) / 2, high - low
