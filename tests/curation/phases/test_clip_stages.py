"""Clip stages over what they read: not there, failed for now, failed for good, not applicable."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from curation.job import open_store
from manifests.errors import MediaError, StorageError
from stages.audio.audio_quality import AudioQualityStage
from stages.base.backends import Backend
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.media.blocks import SourceFormat
from stages.registry import SIGNAL_STAGES, STAGES
from stages.run.clip import measure_clip
from stages.video.motion.stage import MotionParameters, MotionRecord, MotionStage
from tests.support.command_line import SMALL_SAMPLES, render_small, twinreel
from tests.support.in_process import InProcessEngine, engine, no_report

__all__ = ["engine", "no_report"]

pytestmark = pytest.mark.usefixtures("no_report")

NO_PICTURES = (
    *(f"--set=stages.{name}.enabled=false" for name in ("sync", "faces", "motion")),
    *(f"--set=gates.{name}=" for name in ("sync_offset", "sync_confidence")),
    *(f"--set=gates.{name}=" for name in ("not_static", "not_frozen")),
)
QUALITY = (
    *NO_PICTURES, "--set=stages.audio_quality.enabled=true",
    "--set=gates.volume=", "--set=gates.q=audio_quality.status = 'ok'",
)  # fmt: skip
EVERYTHING = "SELECT * FROM dataset ORDER BY clip_id"
AWAY = StorageError("storage_failed", "Away.", retryable=True)
BROKEN = MediaError("broken", "It broke.")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_small(tmp_path_factory.mktemp("raw") / "clip.mp4", seed=1).parent


@pytest.fixture(autouse=True)
def quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not needed: nobody speaks in what is measured."""
    monkeypatch.setattr(AudioQualityStage, "resolve_backend", lambda self: Backend("dnsmos", "x"))


def measure(raw: Path, out: Path, *more: str) -> int:
    """Runs the phases `measure` and `select`; how many rows were written."""
    finished = twinreel(
        "curate", raw, "--out", out, "--json", "--phase=measure", "--phase=select",
        *SMALL_SAMPLES, *more,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    return int(finished.json()["rows_written"])


def select(out: Path, sql: str) -> list[dict[str, Any]]:
    finished = twinreel("inspect", out, "--json", "--sql", sql)
    assert finished.code == 0, finished.err
    found: list[dict[str, Any]] = finished.json()
    return found


def full(out: Path, columns: str) -> tuple[Any, ...]:
    [row] = select(out, f"SELECT {columns} FROM dataset WHERE \"window\" = 'full'")
    return tuple(row.values())


def failing(patch: pytest.MonkeyPatch, stage: str, error: Exception) -> None:
    """Lets a stage fail on whatever was decoded."""
    watched = SIGNAL_STAGES[stage].observer

    def fail(*arguments: object) -> None:
        raise error

    def observer(self: Any, source: SourceFormat) -> Any:
        found = watched(self, source)
        patch.setattr(found, "finish", fail, raising=False)
        return found

    patch.setattr(SIGNAL_STAGES[stage], "observer", observer)


def test_what_it_reads_failed_for_now_and_nothing_is_said_yet(
    raw: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    measure(raw, tmp_path / "undisturbed", *QUALITY)
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "loudness", AWAY)
        measure(raw, tmp_path / "out", *QUALITY)
    state, waits, *rest = full(tmp_path / "out", "state, pending_on, audio_quality.status")
    assert (state, rest) == ("pending", [None])
    assert "audio_quality" in waits
    measure(raw, tmp_path / "out", *QUALITY)
    assert full(tmp_path / "out", "audio_quality.status") == ("ok",)
    assert select(tmp_path / "out", EVERYTHING) == select(tmp_path / "undisturbed", EVERYTHING)
    assert measure(raw, tmp_path / "out", *QUALITY) == 0


def overwrite(out: Path, stage: str, mark: dict[str, Any]) -> None:
    """Lets every clip that has the stage's struct say the mark instead."""
    _, store = open_store(str(out))
    columns = store.schemas["clips"].names
    rows = [
        {name: row[name] for name in columns if name in row and name != "committed_at"}
        for row in select(out, f"SELECT * FROM dataset WHERE {stage} IS NOT NULL")
    ]
    for row in rows:
        kept = {name: row[stage][name] for name in ("backend", "fingerprint")}
        row[stage] = {**dict.fromkeys(row[stage]), **kept, **mark}
    store.commit({"clips": rows})


@pytest.mark.parametrize("failed", [pytest.param(False, marks=pytest.mark.soak), True])
def test_what_was_said_over_a_failure_for_now_is_taken_back(
    raw: Path, tmp_path: Path, engine: InProcessEngine, failed: bool
) -> None:
    """Earlier versions took a failed `loudness` for missing sound."""
    with pytest.MonkeyPatch.context() as patch:
        if failed:
            failing(patch, "loudness", BROKEN)
        measure(raw, tmp_path, *QUALITY)
    before = select(tmp_path, EVERYTHING)
    overwrite(tmp_path, "audio_quality", {"status": "not_applicable"})
    assert full(tmp_path, "audio_quality.status") == ("not_applicable",)
    measure(raw, tmp_path, *QUALITY)
    assert full(tmp_path, "audio_quality.status") == ("failed" if failed else "ok",)
    assert select(tmp_path, EVERYTHING) == before
    assert measure(raw, tmp_path, *QUALITY) == 0


def test_what_does_not_apply_is_asked_once(
    raw: Path, tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is seen, which `sync` itself finds out: its precondition holds all the same."""
    mute = render_small(tmp_path / "mute" / "mute.mp4", sound=False).parent
    monkeypatch.setattr(STAGES["sync"], "precondition", "true")
    for folder, found in ((raw, ("not_applicable", "ok")), (mute, ("not_applicable",) * 2)):
        out = tmp_path / f"out_{folder.name}"
        more = ("--set=stages.audio_quality.enabled=true", "--set=gates.has_sound=")
        measure(folder, out, *more)
        assert full(out, "sync.status AS s, audio_quality.status AS q") == found
        assert measure(folder, out, *more) == 0


def test_a_gate_on_the_status_waits_for_what_failed_for_now(
    raw: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    def fault(task: Any) -> None:
        if task.function is measure_clip:
            raise MediaError("decoder_killed", "It was killed.", retryable=True)

    engine.fault = fault
    measure(raw, tmp_path, *QUALITY)
    found = full(tmp_path, "state, rejected_by, pending_on, audio_quality.status")
    assert found == ("pending", [], ["audio_quality"], "failed")
    engine.fault = lambda task: None
    measure(raw, tmp_path, *QUALITY)
    assert full(tmp_path, "state, audio_quality.status") == ("keep", "ok")


@pytest.mark.parametrize(
    ("stage", "reader", "precondition"),
    [
        ("faces", "sync", "speech.speech_ratio >= 0 AND faces.kind <> 'none'"),
        pytest.param("loudness", "audio_quality", None, marks=pytest.mark.soak),
    ],
)
def test_what_it_reads_failed_for_good_and_so_does_it(
    raw: Path, tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch,
    stage: str, reader: str, precondition: str | None,
) -> None:  # fmt: skip
    if precondition is not None:
        monkeypatch.setattr(STAGES[reader], "precondition", precondition)
    more = (
        "--set=stages.audio_quality.enabled=true", "--set=gates.volume=",
        f"--set=gates.g={reader}.error.code IS NULL AND {reader}.fingerprint > ''",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, stage, BROKEN)
        measure(raw, tmp_path, *more)
    status, error = full(tmp_path, f"{reader}.status, {reader}.error")
    assert (status, error["code"], error["retryable"]) == ("failed", "reads_failed", False)
    assert stage in error["message"]
    state, waits = full(tmp_path, "state, pending_on")
    assert (state, waits) == ("reject", [])
    assert measure(raw, tmp_path, *more) == 0


def test_a_precondition_that_is_false_whatever_failed_says_does_not_apply(
    raw: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    """Nobody speaks: no face could make `sync` apply."""
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "faces", BROKEN)
        measure(raw, tmp_path)
    assert full(tmp_path, "sync.status, state") == ("not_applicable", "keep")


class MadeUpLook(ModelStage[MotionParameters, None, None]):
    """A model stage that returns what the signals say."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[StageParameters]] = MotionParameters
    Record: ClassVar[type] = MotionRecord
    precondition = "modality = 'video'"

    def resolve_backend(self) -> Backend:
        return Backend("made_up", None)

    def prepare(self, clip: ClipTask) -> NotApplicable | Ready | None:
        if not isinstance(clip.signals_record, MotionRecord):
            raise MediaError("no_first_look", "There is none.")
        return Ready(clip.signals_record)

    def load(self, device: str) -> None:
        raise NotImplementedError

    def infer(self, model: None, batch: object) -> list[object]:
        raise NotImplementedError


@pytest.mark.parametrize("retryable", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_model_waits_for_the_signals(
    raw: Path, tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch,
    retryable: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        MotionStage, "model_stage", lambda self: MadeUpLook(self.parameters, self.backend)
    )
    more = [f"--set=stages.{name}.enabled=false" for name in ("sync", "faces", "speech")]
    more += ["--set=gates.sync_offset=", "--set=gates.sync_confidence="]
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "motion", AWAY if retryable else BROKEN)
        measure(raw, tmp_path, *more)
    found = full(tmp_path, "motion.status, motion.error.code, state")
    assert found == ((None, None, "pending") if retryable else ("failed", "reads_failed", "reject"))
    measure(raw, tmp_path, *more)
    assert full(tmp_path, "motion.status") == ("ok" if retryable else "failed",)
    assert measure(raw, tmp_path, *more) == 0
    if retryable:
        # Earlier versions looked all the same, and gave it up.
        before = select(tmp_path, EVERYTHING)
        error = {"code": "no_first_look", "message": "There is none.", "retryable": False}
        overwrite(tmp_path, "motion", {"status": "failed", "error": error})
        measure(raw, tmp_path, *more)
        assert select(tmp_path, EVERYTHING) == before
