"""Workers measure with what the job has resolved or say that they cannot: nothing stands in."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from curation.config import load_configuration
from curation.engine.engine import Engine
from curation.inputs import list_inputs
from curation.job import Job, open_store
from curation.phases.cut import cut_clips
from curation.phases.decode import decode_units
from curation.phases.measured import rows_of
from curation.phases.probe import probe_sources
from curation.resolve import resolve
from manifests.errors import UsageError
from manifests.store.lease import Lease
from manifests.store.output import Output
from stages.base.backends import Backend
from stages.base.clip import ClipTask
from stages.base.contract import StageCall
from stages.media.probe import probe
from stages.run.clip import ClipMeasurement, LoadedStage, measure_clip
from stages.video.shots.stage import ShotsStage
from stages.weights.catalogue import CATALOGUE
from stages.weights.find import WEIGHTS_VARIABLE
from tests.conftest import SHARED
from tests.support.in_process import InProcessEngine

YUNET = CATALOGUE["yunet"].files[0].name


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with YuNet's weights, the only one."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(SHARED / "weights" / YUNET, folder)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.fixture
def file(given_clips: Path, tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return Path(shutil.copy(given_clips / "talking_head_en_grid_f1.mpg", tmp_path / "raw"))


@pytest.fixture
def job(weights: Path, tmp_path: Path) -> Iterator[Job]:
    configuration = load_configuration(None, None, [])
    storage, store = open_store(str(tmp_path / "out"))
    with Lease(storage) as lease:
        resolved = resolve(configuration)
        assert resolved.signal_stages["faces"].backend.name == "yunet"
        engine = cast(Engine, InProcessEngine())
        output = Output(str(tmp_path / "out"), storage, store, lease, resolved.selection)
        yield Job(configuration, resolved, output, engine)


def measure(job: Job, file: Path) -> None:
    probe_sources(job, list(list_inputs([str(file.parent)], []).files))
    decode_units(job)
    cut_clips(job)


def rows(job: Job, sql: str) -> list[dict[str, Any]]:
    with job.output.connect() as connection:
        return rows_of(connection, sql)


def test_missing_weights_fail_their_stage_until_they_are_there(
    job: Job, file: Path, weights: Path
) -> None:
    (weights / YUNET).rename(weights / "elsewhere")
    measure(job, file)
    [faces] = rows(job, "SELECT * FROM signals WHERE stage = 'faces'")
    assert (faces["status"], faces["backend"], faces["bins"]) == ("failed", "yunet", None)
    assert faces["error"]["code"] == "missing_weights" and faces["error"]["retryable"]
    assert faces["fingerprint"] == job.resolved.fingerprints["faces"]
    assert rows(job, "SELECT * FROM face_tracks_log") == []
    assert {row["faces"]["status"] for row in rows(job, "SELECT faces FROM clips")} == {"failed"}
    others = rows(job, "SELECT DISTINCT status FROM signals WHERE stage <> 'faces'")
    assert others == [{"status": "ok"}]

    (weights / "elsewhere").rename(weights / YUNET)
    measure(job, file)
    [faces] = rows(job, "SELECT * FROM signals WHERE stage = 'faces'")
    assert (faces["status"], faces["backend"], faces["error"]) == ("ok", "yunet", None)
    clips = rows(job, "SELECT faces FROM clips")
    assert {clip["faces"]["kind"] for clip in clips} == {"single"}
    again = rows(job, "SELECT stage, count(*) AS times FROM signals_log GROUP BY ALL")
    assert {row["stage"] for row in again if row["times"] > 1} == {"faces"}
    written = job.output.rows_written
    measure(job, file)
    assert job.output.rows_written == written


def test_other_weights_are_not_used(job: Job, file: Path, weights: Path) -> None:
    with (weights / YUNET).open("ab") as changed:
        changed.write(b"\0")
    measure(job, file)
    [faces] = rows(job, "SELECT * FROM signals WHERE stage = 'faces'")
    assert (faces["status"], faces["error"]["code"]) == ("failed", "other_weights")
    assert faces["error"]["retryable"]


def test_without_its_cuts_a_unit_has_no_clips_yet(
    job: Job, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(stage: ShotsStage) -> None:
        raise UsageError("missing_package", "It is not here.", retryable=True)

    with monkeypatch.context() as machine:
        machine.setattr(ShotsStage, "check_backend", lacking)
        measure(job, file)
    assert rows(job, "SELECT * FROM clips_log") == []
    assert "shots failed for now (It is not here.)" in job.notes[0]
    measure(job, file)
    assert len(rows(job, "SELECT * FROM clips")) > 0
    again = rows(job, "SELECT stage, count(*) AS times FROM signals_log GROUP BY ALL")
    assert {row["stage"] for row in again if row["times"] > 1} == {"shots"}


def test_a_job_that_chose_haar_stays_with_it(file: Path, weights: Path, job: Job) -> None:
    (weights / YUNET).rename(weights / "elsewhere")
    job.resolved = resolve(job.configuration)
    job.output.selection = job.resolved.selection
    (weights / "elsewhere").rename(weights / YUNET)
    measure(job, file)
    [faces] = rows(job, "SELECT * FROM signals WHERE stage = 'faces'")
    assert (faces["status"], faces["backend"]) == ("ok", "haar")


class Tagger:
    """A tagger of one's own, whose weights are this file."""

    rate_hz = 16_000
    labels: ClassVar[Sequence[str]] = ("Speech",)

    def tag(self, sounds: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        raise AssertionError("It must not come to this.")


def test_a_model_process_checks_its_weights_too() -> None:
    name = f"{__name__}:Tagger"
    call = StageCall("audio_class", json.dumps({"backend": name}), Backend(name, "0" * 64), "f")
    with pytest.raises(UsageError) as caught:
        LoadedStage(call)
    assert caught.value.code == "other_weights" and caught.value.retryable


def test_a_clip_stage_without_a_model_process_checks_its_weights_too(file: Path) -> None:
    call = StageCall("audio_quality", "{}", Backend("dnsmos", "0" * 64), "f")
    clip = ClipTask("clip", str(file), probe(str(file)), 0.0, 2.0, {})
    with pytest.raises(UsageError) as caught:
        measure_clip(ClipMeasurement(call, clip))
    assert caught.value.code == "other_weights" and caught.value.retryable


def test_every_stage_can_find_its_backend_again_by_name(job: Job) -> None:
    for name, stage in {**job.resolved.signal_stages, **job.resolved.clip_stages}.items():
        stage.check_backend()
        assert job.resolved.calls[name].backend == stage.backend
        other = dataclasses.replace(stage.backend, weights_sha256="0" * 64)
        with pytest.raises(UsageError, match="other_weights"):
            type(stage)(stage.parameters, other).check_backend()
