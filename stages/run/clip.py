"""Measuring a clip: decoding in the killable child, models in a process of their own."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from manifests.errors import MediaError, TwinreelError, system_refuses
from stages.base.clip import ClipTask, Findings, NotApplicable, Ready
from stages.base.contract import ClipStage, ModelStage, StageCall, StageParameters
from stages.models.device import (
    DeviceLostError,
    best_device,
    device_fault,
    free_memory,
    full_convolutions,
)
from stages.registry import build_clip_stage
from stages.run.segment import struct_of


@dataclasses.dataclass(frozen=True)
class ClipMeasurement:
    """A clip stage to run on a clip."""

    stage: StageCall
    clip: ClipTask


@dataclasses.dataclass(frozen=True)
class ClipResult:
    """A clip's struct of one stage, and its rows for side tables, without `clip_id`."""

    struct: dict[str, Any]
    side_rows: Mapping[str, Sequence[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class ForModel:
    """What a model has to see before there is a result."""

    prepared: Any


def measure_clip(task: ClipMeasurement) -> ClipResult | ForModel:
    """The stage's result for the clip, or what its model needs for one. Runs in the killable child.

    Raises:
        MediaError: the clip cannot be decoded.
        UsageError: as `Stage.check_backend`, of a stage that needs no model process.
    """
    stage = _stage(task.stage)
    fingerprint = task.stage.fingerprint
    if not isinstance(stage, ModelStage):
        stage.check_backend()
        return _result(stage, stage.measure(task.clip), fingerprint)
    prepared = stage.prepare(task.clip)
    if isinstance(prepared, NotApplicable):
        return _result(stage, prepared, fingerprint)
    if isinstance(prepared, Ready):
        return _result(stage, prepared.record, fingerprint)
    return ForModel(prepared)


class LoadedStage:
    """A model stage with its weights loaded, on the GPU where there is one.

    Args:
        call: which stage.

    Raises:
        UsageError: `missing_weights`, `other_weights` or `bad_weights`.
    """

    def __init__(self, call: StageCall) -> None:
        stage = _stage(call)
        assert isinstance(stage, ModelStage)
        stage.check_backend()
        self._stage = stage
        self._fingerprint = call.fingerprint
        self._model = stage.load(best_device())

    def infer(self, batch: Sequence[Any]) -> list[ClipResult | TwinreelError]:
        """A result or an error per clip; a clip that breaks the batch costs only itself.

        Args:
            batch: what `measure_clip` handed on of each clip.

        Raises:
            DeviceLostError: the process must end; none of the clips is to blame.
        """
        found: Sequence[object] = ()
        failure: TwinreelError | None = None
        try:
            with full_convolutions():
                found = self._stage.infer(self._model, batch)
            if len(found) != len(batch):
                raise ValueError(f"{len(found)} results for {len(batch)} clips")
        except Exception as error:
            if device_fault(error) == "device":
                raise DeviceLostError(str(error)) from error
            failure = _failure(error)
        if failure is not None:
            # Outside the handler: what it holds on to includes the batch's own tensors.
            free_memory()
            if len(batch) == 1:
                return [failure]
            return [result for prepared in batch for result in self.infer([prepared])]
        return [
            record
            if isinstance(record, TwinreelError)
            else _result(self._stage, record, self._fingerprint)
            for record in found
        ]


def _result(stage: ClipStage[Any], found: object, fingerprint: str) -> ClipResult:
    record, side_rows = (
        (found.record, found.side_rows) if isinstance(found, Findings) else (found, {})
    )
    struct = struct_of(stage.Record, record, "ok", None, stage.backend.name, fingerprint)
    rows = {
        table: [{**row, "fingerprint": fingerprint} for row in table_rows]
        for table, table_rows in side_rows.items()
    }
    return ClipResult(struct, rows)


def _failure(error: Exception) -> TwinreelError:
    if isinstance(error, TwinreelError):
        error.__traceback__ = None
        return error
    said = f"{type(error).__name__}: {str(error)[:300]}"
    if device_fault(error) == "memory":
        return MediaError(
            "model_out_of_memory",
            said,
            remedy="Free the GPU of other programs, or give fewer models a share of it"
            " (engine.gpus_per_model).",
            retryable=True,
        )
    return MediaError("model_failed", said, retryable=system_refuses(error))


@functools.lru_cache(maxsize=16)
def _stage(call: StageCall) -> ClipStage[StageParameters]:
    """The stage, built once a process."""
    return build_clip_stage(call.name, json.loads(call.parameters), call.backend)
