"""A node that is lost in the middle of a job costs no task."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile

from curation.config import DecodeSettings, EngineSettings
from curation.engine.engine import Engine
from curation.engine.tasks import Task
from stages.base.clip import ClipTask
from stages.base.contract import StageCall
from stages.media.probe import probe
from stages.registry import build_clip_stage
from stages.run.clip import ClipMeasurement, measure_clip
from tests.support import misbehaviour
from tests.support.ray_faults import lose_results, two_nodes


@pytest.mark.soak
def test_a_node_that_is_lost_costs_no_task() -> None:
    tasks = [Task(misbehaviour.slow_but_moving, 0.2, f"{one}.mp4") for one in range(60)]
    found = []
    with (
        two_nodes() as (address, lose_node),
        Engine(EngineSettings(), DecodeSettings(), address) as engine,
    ):
        for outcome in engine.run(tasks):
            found.append(outcome)
            if len(found) == 10:
                assert engine.workers == 2
                lose_node()
    assert len(found) == 60
    assert [outcome.error for outcome in found] == [None] * 60


class SlowTagger:
    """Says speech of everything, in its own time."""

    rate_hz = 16_000
    labels: ClassVar[Sequence[str]] = ("Speech",)

    def tag(self, sounds: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        time.sleep(0.1 * len(sounds))
        return np.ones((len(sounds), 1), np.float32)


@pytest.mark.soak
def test_what_a_lost_node_had_prepared_for_a_model_is_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "noise.wav")
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000 * 4), 16_000)
    parameters = {"backend": f"{__name__}:SlowTagger", "enabled": True}
    backend = build_clip_stage("audio_class", parameters, None).backend
    call = StageCall("audio_class", json.dumps(parameters), backend, "fingerprint")
    source = probe(path)
    clips = [ClipTask(f"clip-{one}", path, source, 0.0, 4.0, {}) for one in range(60)]
    tasks = [Task(measure_clip, ClipMeasurement(call, one), path) for one in clips]
    found = []
    with (
        two_nodes() as (address, lose_node),
        Engine(EngineSettings(), DecodeSettings(), address) as engine,
    ):
        lost = lose_results(monkeypatch, 3)
        for outcome in engine.run_model(tasks, call):
            found.append(outcome)
            if len(found) == 8:
                lose_node()
    assert len(lost) == 3
    assert [outcome.error for outcome in found] == [None] * 60
    assert {outcome.task.argument.clip.clip_id for outcome in found} == {
        clip.clip_id for clip in clips
    }
