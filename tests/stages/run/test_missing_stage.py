"""A worker on whose node a stage's package is not installed, or is broken."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from curation.engine.worker import ModelWorker
from manifests.errors import UsageError
from stages.base.backends import Backend
from stages.base.clip import ClipTask
from stages.base.contract import StageCall
from stages.media.probe import probe
from stages.run.clip import ClipMeasurement, LoadedStage, measure_clip
from stages.run.unit import UnitTask, measure_unit
from tests.stages.test_registry import install

KNOCKS = StageCall("knocks", "{}", Backend("embedded"), "knocks")
LOUDNESS = StageCall("loudness", "{}", Backend("embedded"), "loudness")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "sound.flac", np.full(16_000, 0.1, np.float32), 16_000)
    return tmp_path / "sound.flac"


def test_only_its_own_signals_fail_and_may_be_had_later(file: Path) -> None:
    task = UnitTask(
        "source", str(file), probe(str(file)), 0, 0.0, math.inf, open_start=True, open_end=True,
        stages={"knocks": KNOCKS, "loudness": LOUDNESS}, fingerprint="unit", thread_count=1,
        max_damaged_share=0.0,
    )  # fmt: skip
    result = measure_unit(task)
    assert result.unit.status == "ok"
    rows = {row["stage"]: row for row in result.rows["signals"]}
    assert (rows["loudness"]["status"], rows["loudness"]["bins"]) == ("ok", 20)
    knocks = rows["knocks"]
    assert (knocks["status"], knocks["fingerprint"]) == ("failed", "knocks")
    assert knocks["error"]["code"] == "missing_package" and knocks["error"]["retryable"]
    assert "'knocks'" in knocks["error"]["message"]


def test_a_clip_and_a_model_say_so_too(file: Path) -> None:
    clip = ClipTask("clip", str(file), probe(str(file)), 0.0, 1.0, {})
    for asked in (
        lambda: measure_clip(ClipMeasurement(KNOCKS, clip)),
        lambda: LoadedStage(KNOCKS),
    ):
        with pytest.raises(UsageError) as caught:
            asked()
        assert caught.value.code == "missing_package" and caught.value.retryable
        assert "every node" in str(caught.value)


def test_a_model_process_tells_of_a_broken_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "knocks = knocks:NoSuchStage")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("stages.run.clip", "stages.registry"):
        monkeypatch.delitem(sys.modules, module)
    error = ModelWorker(LOUDNESS).ready()
    assert error is not None and error.code == "bad_stage" and error.retryable
