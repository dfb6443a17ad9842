"""The second look: clip stages on clips decoded again, in the killable child."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from stages.contract import ClipStage, ClipTask, StageParameters
from stages.registry import build_clip_stage
from stages.segment import struct_of


@dataclasses.dataclass(frozen=True)
class ClipMeasurement:
    """A clip stage to run on a clip: the stage's parameters are JSON."""

    stage: str
    parameters: str
    fingerprint: str
    clip: ClipTask


def measure_clip(task: ClipMeasurement, progress: Callable[[], None]) -> dict[str, Any]:
    """The stage's struct for the clip.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    progress()
    stage = _stage(task.stage, task.parameters)
    record = stage.measure(task.clip)
    return struct_of(stage.Record, record, "ok", None, stage.backend.name, task.fingerprint)


@functools.lru_cache(maxsize=16)
def _stage(name: str, parameters: str) -> ClipStage[StageParameters]:
    """The stage, built once a process: some load weights."""
    return build_clip_stage(name, json.loads(parameters))
