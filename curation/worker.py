"""What an actor of the engine is: one warm child process, and a bounded number of tries.

Apart from the engine so that a worker process imports neither the decoders nor the configuration.
"""

from __future__ import annotations

from typing import Any

from manifests.errors import TwinreelError
from stages.child import KillableChild

_WORTH_ANOTHER_TRY = frozenset({"decoder_crashed", "decoder_hung", "decoder_out_of_memory"})


class Worker:
    """Calls functions in its child, within the limits of `stages.child.KillableChild`."""

    def __init__(self, stall_s: float, memory_mb: int, retries: int) -> None:
        self._child = KillableChild(stall_s=stall_s, memory_mb=memory_mb)
        self._retries = retries

    def ready(self) -> None:
        """Nothing: that it can be called shows that the worker could start."""

    def run(
        self, function: str, argument: object, subject: str
    ) -> tuple[Any, TwinreelError | None]:
        """The result of `function`, or the error of its last try."""
        for _ in range(self._retries):
            try:
                return self._child.call(function, argument, subject=subject), None
            except TwinreelError as error:
                if not (error.retryable or error.code in _WORTH_ANOTHER_TRY):
                    return None, error
        try:
            return self._child.call(function, argument, subject=subject), None
        except TwinreelError as error:
            return None, error
