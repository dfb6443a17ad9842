"""A finished OUT is read by what it holds: a newer version of a stage changes nothing by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from curation.config import load_configuration
from curation.curate import other_gates, run_select
from curation.job import Job
from manifests.errors import StorageError, UsageError
from manifests.explore.open import inspect_sql, open_view
from manifests.store.lease import Lease
from stages.audio.loudness import LoudnessStage
from stages.base.contract import Stage
from stages.joint.sync.stage import SyncStage
from stages.registry import SIGNAL_STAGES, STAGES
from stages.video.motion.stage import MotionStage
from stages.video.shots.stage import ShotsStage
from tests.support.command_line import SMALL_SAMPLES, Finished, render_small, twinreel
from tests.support.in_process import InProcessEngine, engine
from training.data.snapshot import take_snapshot

__all__ = ["engine"]

SETTINGS = (*SMALL_SAMPLES, "--set=split.held_out_share=0", "--set=decode.unit_s=60")
ANEW = "These results are there and are made anew"
SELECTION = Path("manifests/selection.json")


@dataclasses.dataclass(frozen=True)
class Finish:
    """A file, and an OUT on which a job has come to its end; `out` is this test's own copy."""

    raw: Path
    out: Path

    def curate(self, *more: str) -> Finished:
        finished = twinreel("curate", self.raw, "--out", self.out, *SETTINGS, *more)
        assert finished.code == 0, finished.err
        return finished

    def anew(self) -> dict[str, str]:
        """What a job would make anew, as `twinreel plan curate` says it, by what it is."""
        plan = twinreel("plan", "curate", self.raw, "--out", self.out, "--json", *SETTINGS)
        return {
            part["what"]: f"{', '.join(part['reasons'])}: {part['count']} {part['rows']}"
            for part in plan.json()["done_anew"]
        }

    def seen(self) -> dict[str, Any]:
        """All that readers see: rows, the funnel, what verifies, what is trained on."""
        verified = twinreel("verify", self.out, "--json")
        assert verified.code == 0, verified.out
        with open_view(str(self.out)) as connection:
            snapshot = take_snapshot(connection, str(self.out))
        return {
            "rows": inspect_sql(str(self.out), "FROM dataset ORDER BY clip_id").to_pylist(),
            "funnel": twinreel("inspect", self.out, "--json").json(),
            "verified": verified.json(),
            "snapshot": snapshot.fingerprint(),
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finish:
    folder = tmp_path_factory.mktemp("finished")
    finish = Finish(folder / "raw", folder / "out")
    render_small(finish.raw / "a.mp4", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curation.curate.Engine", InProcessEngine())
        finish.curate()
    assert len(finish.seen()["rows"]) == 2
    return finish


@pytest.fixture
def finish(finished: Finish, tmp_path: Path, engine: InProcessEngine) -> Finish:
    shutil.copytree(finished.out, tmp_path / "out")
    return dataclasses.replace(finished, out=tmp_path / "out")


def raise_version(monkeypatch: pytest.MonkeyPatch, *stages: type[Stage[Any]]) -> None:
    for stage in stages:
        monkeypatch.setattr(stage, "version", stage.version + 1)


def test_a_raised_version_changes_nothing_until_curate_runs_which_says_what_is_stale(
    finish: Finish,
    engine: InProcessEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = finish.seen()
    assert finish.anew() == {}
    file = (finish.out / SELECTION).read_bytes()
    version = MotionStage.version
    raise_version(monkeypatch, MotionStage, SyncStage)
    assert finish.seen() == before
    stale = finish.anew()
    assert stale["motion"] == f"version {version} -> {version + 1}: 1 units"
    assert stale["sync"] == f"version {SyncStage.version - 1} -> {SyncStage.version}: 1 clips"
    # Sentences made of measurements follow them.
    assert set(stale) == {"motion", "sync", "captions"}
    assert finish.seen() == before and (finish.out / SELECTION).read_bytes() == file

    finish.curate()
    assert ANEW in caplog.text
    assert f"  motion: version {version} -> {version + 1}: 1 unit\n" in caplog.text
    assert {name for name, _ in engine.subjects} >= {"measure_unit"}
    after = finish.seen()
    assert [row["motion"]["fingerprint"] for row in after["rows"]] != [
        row["motion"]["fingerprint"] for row in before["rows"]
    ]
    for row in [*before["rows"], *after["rows"]]:
        for name in STAGES.keys() & row.keys():
            row[name] = row[name] and {**row[name], "fingerprint": None}
        row["caption"] = row["caption"] and {**row["caption"], "fingerprint": None}
    assert after["rows"] == before["rows"] and after["snapshot"] == before["snapshot"]
    caplog.clear()
    finish.curate()
    assert finish.anew() == {} and ANEW not in caplog.text


def test_a_job_that_is_stopped_leaves_readers_the_earlier_results(
    finish: Finish, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = finish.seen()
    kept = before["funnel"]["kept"]["count"]
    raise_version(monkeypatch, ShotsStage, LoudnessStage)
    # Under the same gates the new measurements keep nothing.
    measure = LoudnessStage.summarise

    def quieter(stage: LoudnessStage, *of: Any) -> Any:
        return dataclasses.replace(measure(stage, *of), mean_volume_db=-90.0)

    monkeypatch.setattr(LoudnessStage, "summarise", quieter)
    # All is measured and decided by then.
    monkeypatch.setattr("curation.curate.caption", mock.Mock(side_effect=KeyboardInterrupt))
    stopped = twinreel("curate", finish.raw, "--out", finish.out, *SETTINGS)
    assert stopped.code == 1 and "stopped" in stopped.err
    assert kept > 0 and finish.seen() == before
    decided = twinreel("select", finish.out, "--set=gates.long=end_s - start_s > 99", "--json")
    assert decided.json()["funnel"]["kept"]["count"] == 0
    assert twinreel("select", finish.out, "--set=gates.long=").code == 0
    assert finish.seen() == before


def test_phases_that_measure_nothing_refuse_what_is_not_measured(
    finish: Finish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {file: (finish.out / file).read_bytes() for file in (SELECTION, Path("job.yaml"))}
    with monkeypatch.context() as newer:
        raise_version(newer, MotionStage)
        refused = twinreel(
            "curate", finish.raw, "--out", finish.out, *SETTINGS, "--phase=caption", "--phase=pack"
        )
    assert refused.code == 2 and refused.message.endswith("[not_measured]")
    assert "motion: version" in refused.err and ANEW not in caplog.text
    assert {file: (finish.out / file).read_bytes() for file in kept} == kept
    # What other phases make anew is not this job's to tell.
    finish.curate("--phase=annotate", "--set=pack.crf=30")
    assert ANEW not in caplog.text


def test_select_goes_by_what_is_there_once_it_has_the_output(
    finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(finish.out)
    gates = other_gates(out, assignments=["gates.quiet=loudness.mean_volume_db < -200"])
    content = json.loads((finish.out / SELECTION).read_text())
    enter = Lease.__enter__

    def enter_late(lease: Lease) -> Lease:
        """Another job has come to its end while this one waited for OUT."""
        (finish.out / SELECTION).write_text(json.dumps({**content, "profile": "another"}))
        return enter(lease)

    monkeypatch.setattr(Lease, "__enter__", enter_late)
    run_select(out, gates)
    assert json.loads((finish.out / SELECTION).read_text())["profile"] == "another"


def test_a_job_that_has_lost_the_output_leaves_its_results_alone(
    finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finish.out / SELECTION).read_bytes()
    gates = other_gates(str(finish.out), assignments=["gates.quiet=false"])

    def lose(job: Job) -> None:
        lease = finish.out / "manifests/_lease.json"
        lease.write_text(json.dumps({**json.loads(lease.read_text()), "token": "another"}))

    monkeypatch.setattr("curation.curate.select", lose)
    with pytest.raises(StorageError) as lost:
        run_select(str(finish.out), gates)
    assert lost.value.code == "lease_lost"
    assert (finish.out / SELECTION).read_bytes() == before


@pytest.mark.soak
def test_a_first_job_can_be_looked_at_while_it_runs(
    finished: Finish, engine: InProcessEngine, tmp_path: Path
) -> None:
    counts = []

    def look(task: object) -> None:
        counts.append(len(inspect_sql(str(tmp_path / "out"), "FROM dataset")))

    engine.fault = look
    dataclasses.replace(finished, out=tmp_path / "out").curate()
    assert counts[0] == 0 and counts[-1] == 2
    assert json.loads((tmp_path / "out" / SELECTION).read_text())["finished"]


def test_select_decides_what_is_there_whatever_is_installed(
    finish: Finish, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = finish.seen()

    def lacking(stage: Stage[Any]) -> None:
        raise UsageError("missing_weights", "They are not here.")

    raise_version(monkeypatch, *STAGES.values())
    for stage in STAGES.values():
        monkeypatch.setattr(stage, "resolve_backend", lacking)
    kept = before["funnel"]["kept"]["count"]
    gate = "--set=gates.quiet=loudness.mean_volume_db < -200"
    decided = twinreel("select", finish.out, gate, "--json")
    assert decided.code == 0, decided.err
    assert kept > 0 and decided.json()["funnel"]["kept"]["count"] == 0
    assert engine.subjects == []
    twinreel("select", finish.out, "--set=gates.quiet=")
    assert finish.seen() == before


def test_select_asks_neither_stages_nor_settings_of_this_version(
    finish: Finish, engine: InProcessEngine
) -> None:
    """What measured had no `picture`, and another setting of `motion`."""
    job = yaml.safe_load((finish.out / "job.yaml").read_text())
    content = json.loads((finish.out / SELECTION).read_text())
    for stages in (job["configuration"]["stages"], job["resolved"]["backends"], content["stages"]):
        del stages["picture"]
    for gates in (job["configuration"]["gates"], content["gates"]):
        for name in [name for name, gate in gates.items() if "picture" in gate["sql"]]:
            del gates[name]
    other = {"enabled": True, "pace_hz": 4.0}
    job["configuration"]["stages"]["motion"] = other
    job["configuration"]["stages"]["tremor"] = {"enabled": True}
    # A job that was stopped between the two files: its selection is what holds.
    job["configuration"]["gates"]["quiet"] = {"sql": "false"}
    (finish.out / "job.yaml").write_text(yaml.safe_dump(job))
    (finish.out / SELECTION).write_text(json.dumps(content))

    decided = twinreel("select", finish.out, "--set=gates.own=true", "--json")
    assert decided.code == 0, decided.err
    assert decided.json()["funnel"]["kept"]["count"] == 1 and engine.subjects == []
    after = yaml.safe_load((finish.out / "job.yaml").read_text())["configuration"]
    assert after["gates"].keys() == {*content["gates"], "own"}
    assert after["stages"] == job["configuration"]["stages"]
    assert json.loads((finish.out / SELECTION).read_text())["stages"] == content["stages"]


def test_python_callers_may_change_gates_alone_too(finish: Finish) -> None:
    out = str(finish.out)
    gates = other_gates(out, assignments=["gates.quiet=loudness.mean_volume_db < -200"])
    assert run_select(out, gates).funnel.kept.count == 0
    changed = load_configuration(None, None, ["clip.frames=49"], base=gates.model_dump(mode="json"))
    with pytest.raises(UsageError, match="clip") as refused:
        run_select(out, changed)
    assert refused.value.code == "not_a_gate"


@contextlib.contextmanager
def stage_removed(name: str) -> Iterator[None]:
    """A version of the stages without this one."""
    # In the end in their own order again: tables have their columns in it.
    before: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (registry, dict(registry)) for registry in (STAGES, SIGNAL_STAGES)
    ]
    for registry, _ in before:
        del registry[name]
    try:
        yield
    finally:
        for registry, all_of_them in before:
            registry.clear()
            registry.update(all_of_them)


@pytest.mark.soak
def test_a_stage_that_is_no_more_is_still_seen(finish: Finish) -> None:
    before = finish.seen()
    with stage_removed("picture"):
        assert finish.seen() == before
        assert twinreel("select", finish.out, "--set=gates.dim=picture.mean_luma >= 0").code == 0
        assert twinreel("compact", finish.out).code == 0
        rows = finish.seen()["rows"]
    assert [row["picture"] for row in rows] == [row["picture"] for row in before["rows"]]


def test_reading_asks_no_code_of_stages_and_jobs(finish: Finish) -> None:
    script = (
        "import sys\n"
        "for name in ('stages', 'curation', 'training', 'ray'):\n"
        "    sys.modules[name] = None\n"
        "from manifests.explore.open import inspect_sql\n"
        "print(inspect_sql(sys.argv[1], 'SELECT clip_id, motion.status FROM dataset')"
        ".num_rows)\n"
    )
    read = subprocess.run(
        [sys.executable, "-c", script, str(finish.out)], capture_output=True, text=True, check=False
    )
    assert (read.returncode, read.stdout) == (0, "2\n"), read.stderr


def test_an_output_without_a_saved_selection_is_read_by_its_job_file(
    finish: Finish, engine: InProcessEngine, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "--sql=SELECT clip_id, state, motion.score_px_s AS m FROM dataset ORDER BY clip_id"
    before = twinreel("inspect", finish.out, "--json", rows).out
    file = (finish.out / SELECTION).read_bytes()
    (finish.out / SELECTION).unlink()
    assert twinreel("inspect", finish.out, "--json", rows).out == before
    assert twinreel("verify", finish.out).code == 0
    assert not (finish.out / SELECTION).exists()
    finish.curate()
    assert ANEW not in caplog.text and engine.subjects == []
    assert (finish.out / SELECTION).read_bytes() == file
