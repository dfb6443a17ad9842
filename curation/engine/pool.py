"""Actors that are up: one joins when it first answers, leaves when it dies, and joins again.

Actors that find no place in the cluster never join, and no task waits for them. One that is of no
use on its node is left out; the others go on without it.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from manifests.errors import TwinreelError

_TRY_AGAIN_S = 2.0
"""How long an actor that cannot be reached is left alone before it is asked again."""
_DEATHS = 3
"""An actor that is dead so many times in a row is not asked again: Ray does not restart it."""


class Pool:
    """Actors with a method `ready`, which returns None or why the actor is of no use.

    Actors are told apart by their index. Why some are of no use is kept in `left_out`.

    Args:
        actors: handles; they need not have started.
        slots: calls that one may have in flight.
        patience_s: how long the pool may be without any actor that is up.
        none_can_join: the error for when that time is over, or when none can come any more; it is
            given what was last said.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        slots: int,
        patience_s: float,
        none_can_join: Callable[[str], TwinreelError],
    ) -> None:
        self._actors = list(actors)
        self._slots = slots
        self._patience_s = patience_s
        self._none_can_join = none_can_join
        self._busy: collections.Counter[int] = collections.Counter()
        self._up: set[int] = set()
        self._was_up = False
        self._joining: dict[Any, int] = {}
        self._unreachable: dict[int, float] = {}
        self._deaths: collections.Counter[int] = collections.Counter()
        self._none_since_s = time.monotonic()
        self._said = "none of them found a place"
        self.left_out: dict[int, TwinreelError] = {}
        """Why actors are of no use; they are given nothing more."""
        for index in range(len(self._actors)):
            self._ask(index)

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def has_room(self) -> bool:
        """Whether `take` would find an actor."""
        return any(self._busy[index] < self._slots for index in self._up)

    def take(self, avoid: int | None = None) -> tuple[int, Any]:
        """The actor with the least to do, and not `avoid` if there is another; see `has_room`."""
        free = (index for index in self._up if self._busy[index] < self._slots)
        index = min(free, key=lambda one: (one == avoid, self._busy[one], one))
        self._busy[index] += 1
        return index, self._actors[index]

    def done(self, index: int) -> None:
        """An actor has ended a call."""
        self._busy[index] -= 1

    def lost(self, index: int) -> None:
        """A call failed with its actor: nothing more is given to it until it answers again."""
        self._busy[index] -= 1
        if index in self._up:
            self._up.remove(index)
            self._none_since_s = time.monotonic()
            self._ask(index)

    def leave_out(self, index: int, error: TwinreelError) -> None:
        """An actor that was up has answered a call with why it is of no use any more."""
        self._busy[index] -= 1
        if index in self._up:
            self._up.remove(index)
            self._none_since_s = time.monotonic()
        self._refuse(index, error)

    def kill(self) -> None:
        """End all actors, as far as they can be reached."""
        import ray  # noqa: PLC0415

        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def wait(self, running: Collection[Any], *others: Pool) -> list[Any]:
        """Those of the references that are done, as soon as there are any or an actor has joined.

        Args:
            running: references to wait for.
            others: pools whose actors may join meanwhile.

        Raises:
            TwinreelError: no actor of a pool can join; or what an actor's `ready` returned before
                any was up, if it is not retryable.
        """
        import ray  # noqa: PLC0415

        pools = (self, *others)
        for pool in pools:
            pool._ask_again()
            pool._check()
        joining = {reference: pool for pool in pools for reference in pool._joining}
        watched = [*running, *joining]
        idle = not running or any(pool._unreachable for pool in pools)
        if not watched:
            time.sleep(_TRY_AGAIN_S)
            return []
        found = ray.wait(watched, num_returns=1, timeout=_TRY_AGAIN_S if idle else None)[0]
        for reference in found:
            if reference in joining:
                joining[reference]._join(reference)
        return [reference for reference in found if reference not in joining]

    def _ask(self, index: int) -> None:
        self._joining[self._actors[index].ready.remote()] = index

    def _ask_again(self) -> None:
        now_s = time.monotonic()
        for index, due_s in list(self._unreachable.items()):
            if due_s <= now_s:
                del self._unreachable[index]
                self._ask(index)

    def _join(self, reference: Any) -> None:  # noqa: ANN401 - Ray's
        import ray  # noqa: PLC0415

        index = self._joining.pop(reference)
        try:
            error = ray.get(reference)
        except ray.exceptions.RayError as away:
            self._said = last_line(away)
            self._deaths[index] += isinstance(away, ray.exceptions.ActorDiedError)
            if self._deaths[index] < _DEATHS:
                self._unreachable[index] = time.monotonic() + _TRY_AGAIN_S
        else:
            if error is not None:
                self._refuse(index, error)
                return
            del self._deaths[index]
            self._up.add(index)
            self._was_up = True

    def _refuse(self, index: int, error: TwinreelError) -> None:
        # What another node may have, or has had, does not end the work there.
        if not (error.retryable or self._was_up):
            raise error
        self.left_out[index] = error
        self._said = str(error)

    def _check(self) -> None:
        if self._up:
            return
        waited_s = time.monotonic() - self._none_since_s
        if waited_s > self._patience_s or not (self._joining or self._unreachable):
            raise self._none_can_join(self._said)


def last_line(error: Exception) -> str:
    """What an error of Ray's comes to: the last line of what is often a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
