"""How fast an endpoint may be asked, and how much it may cost.

Both belong to one event loop: nothing here is safe between threads.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Awaitable, Callable

_WINDOW_S = 60.0
_TOKENS_PER_MILLION = 1_000_000
_NEWEST_WEIGHT = 0.1
"""Weight of the newest request in the running mean of tokens."""


@dataclasses.dataclass
class Admission:
    """One request that was let through: when, and the tokens it is booked with."""

    at_s: float
    tokens: float
    counts: bool = True
    """Whether it still lies in the window."""


class RateLimiter:
    """Lets requests through so that no 60 s see more of them, or more tokens, than allowed.

    How many tokens a request takes is known only afterwards: it is booked with the mean of those
    before it and corrected by `settle`. Requests are let through in the order they came.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: None for no limit. A request larger than the limit waits for an empty
            window, then goes alone.
        first_tokens: what a request is booked with as long as none has been settled.
        clock: seconds.
        sleep: waits for so many seconds of that clock.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        *,
        first_tokens: float = 4000.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._mean_tokens: float | None = None
        self._first_tokens = first_tokens
        self._clock = clock
        self._sleep = sleep
        self._admitted: collections.deque[Admission] = collections.deque()
        self._tokens = 0.0
        self._held_until_s = float("-inf")
        self._turn = asyncio.Lock()

    async def admit(self) -> Admission:
        """Wait until one more request may be sent."""
        async with self._turn:
            while (wait_s := self._wait_s()) > 0:
                await self._sleep(wait_s)
            admission = Admission(self._clock(), self._expected_tokens())
            self._admitted.append(admission)
            self._tokens += admission.tokens
            return admission

    def settle(self, admission: Admission, tokens: int) -> None:
        """Correct what a request was booked with by the tokens it took (0: it was not served)."""
        if admission.counts:
            self._tokens += tokens - admission.tokens
            admission.tokens = tokens
        if tokens:
            mean = self._mean_tokens if self._mean_tokens is not None else float(tokens)
            self._mean_tokens = mean + _NEWEST_WEIGHT * (tokens - mean)

    def hold(self, seconds: float) -> None:
        """Let nothing through for so long: the endpoint asked for it, of whichever request."""
        self._held_until_s = max(self._held_until_s, self._clock() + seconds)

    def _expected_tokens(self) -> float:
        return self._first_tokens if self._mean_tokens is None else self._mean_tokens

    def _wait_s(self) -> float:
        now_s = self._clock()
        self._forget(now_s)
        waits_s = [self._held_until_s - now_s]
        if self._full():
            waits_s.append(self._admitted[0].at_s + _WINDOW_S - now_s)
        return max(0.0, *waits_s)

    def _full(self) -> bool:
        if not self._admitted:
            return False
        requests, tokens = self._requests_per_minute, self._tokens_per_minute
        return (requests is not None and len(self._admitted) >= requests) or (
            tokens is not None and self._tokens + self._expected_tokens() > tokens
        )

    def _forget(self, now_s: float) -> None:
        while self._admitted and self._admitted[0].at_s + _WINDOW_S <= now_s:
            oldest = self._admitted.popleft()
            oldest.counts = False
            self._tokens -= oldest.tokens


class CostMeter:
    """What the tokens cost so far.

    Args:
        input_price: for a million tokens read.
        output_price: for a million tokens written.
        max_cost: in the same currency; None for no limit.
    """

    def __init__(
        self, input_price: float = 0.0, output_price: float = 0.0, max_cost: float | None = None
    ) -> None:
        self._input_price = input_price
        self._output_price = output_price
        self._max_cost = max_cost
        self.cost = 0.0

    @property
    def reached(self) -> bool:
        """Whether nothing more may be asked. What is in flight by then is still paid for."""
        return self._max_cost is not None and self.cost >= self._max_cost

    def charge(self, input_tokens: int, output_tokens: int) -> float:
        """Add a request's tokens; gives what it cost."""
        cost = (
            input_tokens * self._input_price + output_tokens * self._output_price
        ) / _TOKENS_PER_MILLION
        self.cost += cost
        return cost
