"""What could not be measured for now is measured by the next run, and only that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from curation.engine.tasks import Task
from manifests.errors import MediaError, StorageError, TwinreelError
from stages.media.blocks import SourceFormat
from stages.media.probe import probe
from stages.registry import SIGNAL_STAGES, STAGES
from stages.run.clip import measure_clip
from stages.run.unit import measure_unit
from tests.support.command_line import (
    SMALL_SAMPLES,
    render_small,
    twinreel,
    twinreel_process,
)
from tests.support.in_process import Fault, InProcessEngine, engine, jobs_by, no_fault, no_report

__all__ = ["engine", "no_report"]

pytestmark = pytest.mark.usefixtures("no_report")

TAGGER = """
import os, numpy as np
from manifests.errors import MediaError

class Tagger:
    rate_hz = 16_000
    labels = ["Speech", "Music"]

    def tag(self, sounds):
        if os.path.exists(os.environ["TWINREEL_TEST_OUTAGE"]) and min(map(len, sounds)) < 40_000:
            raise MediaError("tagger_away", "The tagger is away.", retryable=True)
        lost = os.environ["TWINREEL_TEST_OUTAGE"] + "-device"
        if os.path.exists(lost):
            os.remove(lost)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if max(map(len, sounds)) > 60_000:
            raise MediaError("tagger_beaten", "The tagger cannot do this.")
        return np.tile(np.array([0.9, 0.1], np.float32), (len(sounds), 1))
"""


def rows(out: Path) -> dict[str, dict[str, Any]]:
    finished = twinreel(
        "inspect", out, "--json", "--sql",
        "SELECT split_part(regexp_extract(uri, '[^/]*$'), '.', 1) AS name, state, rejected_by,"
        " pending_on, audio_class.status AS status, audio_class.error.code AS code FROM dataset",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    return {row["name"]: row for row in finished.json()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 5)
    for name, seconds in (("away", 2), ("well", 3), ("beaten", 5)):
        soundfile.write(tmp_path / "raw" / f"{name}.wav", noise[: 16_000 * seconds], 16_000)
    (tmp_path / "made_up_tagger.py").write_text(TAGGER)
    return tmp_path / "raw"


SETTINGS = (
    "clip.min_frames=2", "stages.audio_class.enabled=true",
    "stages.audio_class.backend=made_up_tagger:Tagger",
    "gates.modality=", "gates.length=", "gates.sync_offset=", "gates.sync_confidence=",
    "gates.class=audio_class.kind = 'speech'",
)  # fmt: skip


def arguments(raw: Path) -> list[str | Path]:
    return ["curate", raw, "--out", raw.parent / "out", *(f"--set={one}" for one in SETTINGS)]


@pytest.fixture
def own_tagger(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tagger can be imported, and is not remembered."""
    monkeypatch.setenv("TWINREEL_TEST_OUTAGE", str(raw.parent / "outage"))
    monkeypatch.syspath_prepend(str(raw.parent))
    yield
    sys.modules.pop("made_up_tagger", None)


@pytest.mark.usefixtures("own_tagger")
def test_a_failure_for_now_is_pending_and_measured_by_the_next_run(
    raw: Path, engine: InProcessEngine
) -> None:
    def curate() -> str:
        finished = twinreel(*arguments(raw))
        assert finished.code == 0, finished.err
        return finished.out

    outage, out = raw.parent / "outage", raw.parent / "out"
    outage.touch()
    curate()
    found = rows(out)
    assert (found["away"]["status"], found["away"]["code"]) == ("failed", "tagger_away")
    assert (found["away"]["state"], found["away"]["pending_on"]) == ("pending", ["audio_class"])
    assert found["beaten"]["rejected_by"] == ["class:failed"]
    assert found["well"]["state"] == "keep"

    outage.unlink()
    curate()
    again = rows(out)
    assert (again["away"]["status"], again["away"]["state"]) == ("ok", "keep")
    assert {name: again[name] for name in ("beaten", "well")} == {
        name: found[name] for name in ("beaten", "well")
    }
    assert "nothing decoded" in curate()


@pytest.mark.soak
def test_a_model_that_loses_its_device_is_started_again_and_no_clip_pays(raw: Path) -> None:
    lost = raw.parent / "outage-device"
    lost.touch()
    finished = twinreel_process(
        *arguments(raw),
        environment={
            "PYTHONPATH": str(raw.parent), "TWINREEL_TEST_OUTAGE": str(raw.parent / "outage"),
        },
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert not lost.exists()
    found = rows(raw.parent / "out")
    assert {name: row["status"] for name, row in found.items()} == {
        "away": "ok",
        "well": "ok",
        "beaten": "failed",
    }


# --- what stops a file, a decode segment or a stage for now, without Ray


FEW_STAGES = (
    *(f"--set=stages.{name}.enabled=false" for name in ("sync", "faces", "speech", "motion")),
    "--set=gates.sync_offset=", "--set=gates.sync_confidence=",
    "--set=gates.not_static=", "--set=gates.not_frozen=",
)  # fmt: skip
Marked = Callable[[Task], bool]


def raises(
    code: str, marked: Marked, *, kind: type[TwinreelError] = MediaError, retryable: bool = True
) -> Fault:
    """Fails the marked tasks."""

    def fault(task: Task[Any]) -> None:
        if marked(task):
            raise kind(code, "It is not to be.", subject=task.subject, retryable=retryable)

    return fault


def measuring(task: Task[Any]) -> bool:
    return task.function is measure_unit


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_small(tmp_path_factory.mktemp("clip") / "raw" / "clip.mp4", seed=1)


def measure(clip: Path, out: Path, *more: str) -> dict[str, Any]:
    """Runs the phases `measure` and `select`; what the job says at its end."""
    finished = twinreel(
        "curate", clip.parent, "--out", out, "--json", "--phase=measure", "--phase=select",
        *SMALL_SAMPLES, "--set=decode.unit_s=3", *FEW_STAGES, *more,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    summary: dict[str, Any] = finished.json()
    return summary


def select(out: Path, sql: str) -> list[dict[str, Any]]:
    finished = twinreel("inspect", out, "--json", "--sql", sql)
    assert finished.code == 0, finished.err
    found: list[dict[str, Any]] = finished.json()
    return found


@pytest.fixture(scope="module")
def undisturbed(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("undisturbed")
    with jobs_by(InProcessEngine()):
        assert measure(clip, out)["funnel"]["units"]["ok"]["count"] == 2
    return select(out, EVERYTHING)


EVERYTHING = "SELECT * FROM dataset ORDER BY clip_id"


def test_storage_that_fails_under_the_probe_is_told_and_the_file_is_probed_again(
    clip: Path, undisturbed: list[dict[str, Any]], tmp_path: Path, engine: InProcessEngine
) -> None:
    engine.fault = raises("storage_failed", lambda task: task.function is probe, kind=StorageError)
    notes = measure(clip, tmp_path)["notes"]
    assert any("1 file could not be read for now (storage_failed)" in note for note in notes)
    [row] = select(tmp_path, "SELECT status, error FROM sources")
    assert (row["status"], row["error"]["code"], row["error"]["retryable"]) == (
        "failed", "storage_failed", True,
    )  # fmt: skip
    engine.fault = no_fault
    assert not any("for now" in note for note in measure(clip, tmp_path)["notes"])
    assert select(tmp_path, EVERYTHING) == undisturbed
    assert measure(clip, tmp_path)["rows_written"] == 0


def test_a_source_with_a_decode_segment_that_may_still_decode_is_not_given_up(
    clip: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    def fault(task: Task[Any]) -> None:
        raises("corrupt_bitstream", lambda task: measuring(task) and not task.argument.unit_index,
               retryable=False)(task)  # fmt: skip
        raises("decoder_killed", lambda task: measuring(task) and task.argument.unit_index == 1)(
            task
        )

    engine.fault = fault
    measure(clip, tmp_path)
    [row] = select(tmp_path, "SELECT status, error FROM sources")
    assert (row["status"], row["error"]["code"]) == ("failed", "decoder_killed")
    engine.fault = no_fault
    measure(clip, tmp_path)
    assert select(tmp_path, "SELECT status FROM sources") == [{"status": "ok"}]
    units = select(tmp_path, "SELECT status FROM units ORDER BY unit_index")
    assert [unit["status"] for unit in units] == ["failed", "ok"]


def test_a_decode_segment_of_a_good_source_is_told_and_decoded_again(
    clip: Path, undisturbed: list[dict[str, Any]], tmp_path: Path, engine: InProcessEngine
) -> None:
    engine.fault = raises(
        "worker_lost", lambda task: measuring(task) and task.argument.unit_index == 1
    )
    notes = measure(clip, tmp_path)["notes"]
    assert any("1 decode segment could not be decoded for now (worker_lost)" in n for n in notes)
    engine.fault = no_fault
    engine.subjects.clear()
    measure(clip, tmp_path)
    assert [name for name, _ in engine.subjects if name == "measure_unit"] == ["measure_unit"]
    assert select(tmp_path, EVERYTHING) == undisturbed


@pytest.mark.parametrize("stage", [pytest.param("loudness", marks=pytest.mark.soak), "shots"])
def test_one_signal_that_fails_for_now_is_measured_again_and_reaches_the_clips(
    clip: Path, undisturbed: list[dict[str, Any]], tmp_path: Path, engine: InProcessEngine,
    monkeypatch: pytest.MonkeyPatch, stage: str,
) -> None:  # fmt: skip
    def away(*arguments: object) -> None:
        raise StorageError("storage_failed", "Away.", retryable=True)

    watched = SIGNAL_STAGES[stage].observer
    with monkeypatch.context() as patch:

        def observer(self: Any, source: SourceFormat) -> Any:
            found = watched(self, source)
            patch.setattr(found, "finish", away, raising=False)
            return found

        patch.setattr(SIGNAL_STAGES[stage], "observer", observer)
        measure(clip, tmp_path)
        notes = measure(clip, tmp_path)["notes"]
    told = f"2 decode segments could not be measured by '{stage}' for now (storage_failed)"
    assert any(told in note for note in notes), notes
    assert not any("backend" in note for note in notes), notes
    if stage == "shots":
        assert select(tmp_path, EVERYTHING) == [], "without shots nothing can be cut"
    else:
        found = select(tmp_path, "SELECT DISTINCT state, pending_on, loudness.status FROM dataset")
        assert {row["status"] for row in found} == {"failed"}
        assert all(row["state"] != "keep" for row in found)
    measure(clip, tmp_path)
    assert select(tmp_path, EVERYTHING) == undisturbed
    assert measure(clip, tmp_path)["rows_written"] == 0


def test_clips_that_failed_for_now_are_told_and_those_that_lack_a_backend_apart(
    clip: Path, tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--set=clip.min_frames=49", "--set=gates.sync=sync.confidence > -1000"]
    more += [f"--set=stages.{name}.enabled=true" for name in ("sync", "faces", "speech")]
    monkeypatch.setattr(STAGES["sync"], "precondition", "true")
    engine.fault = raises("storage_failed", lambda task: task.function is measure_clip)
    notes = measure(clip, tmp_path, *more)["notes"]
    [failed] = [note for note in notes if "'sync'" in note]
    assert "could not be measured by 'sync' for now (storage_failed): run the same" in failed
    assert any("pending on what is not measured yet" in note for note in notes), notes
    assert not any("backend" in note for note in notes), notes

    engine.fault = no_fault
    other = "gates.volume={sql: loudness.mean_volume_db >= -60, backends: {loudness: [another]}}"
    notes = measure(clip, tmp_path, more[0], f"--set={other}")["notes"]
    assert any("once the backend is there" in note for note in notes), notes
    assert not any("for now" in note or "not measured yet" in note for note in notes), notes


@pytest.mark.parametrize(
    ("function", "sql"),
    [
        pytest.param("probe", "SELECT error FROM sources", marks=pytest.mark.soak),
        ("measure_unit", "SELECT error FROM units"),
        pytest.param(
            "measure_clip",
            "SELECT sync.error FROM dataset WHERE sync.status = 'failed'",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_what_hangs_is_tried_by_one_more_run(
    clip: Path, tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch,
    function: str, sql: str,
) -> None:  # fmt: skip
    more: tuple[str, ...] = ("--set=clip.min_frames=49",)
    if function == "measure_clip":
        more += tuple(f"--set=stages.{name}.enabled=true" for name in ("sync", "faces", "speech"))
        monkeypatch.setattr(STAGES["sync"], "precondition", "true")
    engine.fault = raises("decoder_hung", lambda task: task.function.__name__ == function)
    for retryable in (True, False):
        measure(clip, tmp_path, *more)
        found = select(tmp_path, sql)
        assert found and {row["error"]["retryable"] for row in found} == {retryable}
    engine.subjects.clear()
    assert measure(clip, tmp_path, *more)["rows_written"] == 0
    assert function not in {name for name, _ in engine.subjects}
