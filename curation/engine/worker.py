"""What actors of the engine are: one warm child process each, or one loaded model.

Apart from the engine so that a worker process imports neither the decoders nor the configuration.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any

from curation.engine.child import KillableChild
from manifests.errors import TwinreelError
from stages.models.device import DeviceLostError

if TYPE_CHECKING:
    from stages.base.contract import StageCall
    from stages.run.clip import ClipResult

logger = logging.getLogger(__name__)

_WORTH_ANOTHER_TRY = frozenset({"decoder_crashed", "decoder_hung", "decoder_out_of_memory"})


class Worker:
    """Calls functions in its child, within the limits of `curation.engine.child.KillableChild`."""

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
                return self._child.call_by_name(function, argument, subject=subject), None
            except TwinreelError as error:
                if not (error.retryable or error.code in _WORTH_ANOTHER_TRY):
                    return None, error
        try:
            return self._child.call_by_name(function, argument, subject=subject), None
        except TwinreelError as error:
            return None, error

    def prepare(
        self, function: str, argument: object, subject: str
    ) -> tuple[tuple[float | None, Any, TwinreelError | None], Any]:
        """As `run`, with what a model has to see apart from the rest.

        Returns:
            Megabytes of what a model has to see, or None and the result or the error; and the
            arrays, which the caller passes on to the model without looking at them.
        """
        result, error = self.run(function, argument, subject)
        prepared = getattr(result, "prepared", None)
        if prepared is not None:
            return (_bytes_of(prepared) / 1e6, None, None), prepared
        return (None, result, error), None


def _bytes_of(value: object) -> int:
    """About how much memory something takes: its arrays, wherever in it they are."""
    if dataclasses.is_dataclass(value):
        return sum(_bytes_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of, value))
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    return int(getattr(value, "nbytes", 0))


class ModelWorker:
    """Holds one stage's model; see `stages.run.clip.LoadedStage`."""

    def __init__(self, stage: StageCall) -> None:
        self._loaded: LoadedStage | None = None
        self._error: TwinreelError | None = None
        try:
            # Decoders only where they are used; and a package that brings a stage may be broken.
            from stages.run.clip import LoadedStage  # noqa: PLC0415

            self._loaded = LoadedStage(stage)
        except TwinreelError as error:
            # Told by `ready`: an actor that cannot be made says only that it died.
            self._error = error

    def ready(self) -> TwinreelError | None:
        """Why the model cannot be had, if so."""
        return self._error

    def infer(self, *batch: object) -> list[ClipResult | TwinreelError]:
        """A result or an error per clip.

        A process that has lost its device ends here, and Ray starts another in its place.

        Raises:
            TwinreelError: the model cannot be had any more.
        """
        if self._loaded is None:
            assert self._error is not None
            raise self._error
        try:
            return self._loaded.infer(batch)
        except DeviceLostError as error:
            logger.error("model process ends: %s", error)
            os._exit(1)
