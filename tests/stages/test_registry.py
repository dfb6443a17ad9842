"""A stage of another package: one file, and one line that names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests.errors import UsageError
from manifests.store.selection_file import SavedSelection, write_selection
from manifests.store.storage import open_storage
from stages.registry import stages_of_other_packages
from tests.support.made_up_tables import SCHEMAS, SELECTION, clip, open_out

ROOT = Path(__file__).parents[2]
STAGE = '''
"""Knocks: how often the sound is louder than a level, and when."""

import dataclasses

import numpy as np

from stages.base.backends import BackendDeclaration
from stages.base.contract import SignalStage,StageParameters
from stages.base.series import BinGrid
from stages.base.signals import Observation, Observer, Signals


class KnocksParameters(StageParameters):
    level: float = 0.5


@dataclasses.dataclass(frozen=True)
class KnocksRecord:
    count: int


@dataclasses.dataclass(frozen=True)
class KnockRow:
    time_s: float
    peak: float


class KnocksStage(SignalStage[KnocksParameters]):
    name = "knocks"
    version = 1
    media = "audio"
    series = ("count",)
    backends = (BackendDeclaration("embedded"),)
    side_tables = {"knock_times": KnockRow}
    Parameters = KnocksParameters
    Record = KnocksRecord

    def observer(self, source):
        return KnocksObserver(self.parameters.level)

    def summarise(self, signals, start_s, end_s, side_rows):
        inside = [row for row in side_rows["knock_times"] if start_s <= row["time_s"] < end_s]
        return KnocksRecord(len(inside))


class KnocksObserver(Observer):
    def __init__(self, level):
        self.level = level
        self.rows = []

    def audio(self, block):
        loud = np.abs(block.samples).max(axis=1) > self.level
        for first in np.flatnonzero(np.diff(loud.astype(int), prepend=0) == 1):
            time_s = block.start_s + first / block.rate_hz
            self.rows.append({"time_s": time_s, "peak": float(np.abs(block.samples[first]).max())})

    def finish(self, start_s, end_s):
        grid = BinGrid(start_s, end_s, 4.0)
        counts = grid.counts([row["time_s"] for row in self.rows])
        return Observation(Signals(start_s, 4.0, {"count": counts}), {"knock_times": self.rows})
'''
RUN = """
import json, sys
import curation.curate
from tests.support.command_line import twinreel
from tests.support.in_process import InProcessEngine

curation.curate.Engine = InProcessEngine()
raw, out = sys.argv[1:]
finished = twinreel(
    "curate", raw, "--out", out, "--phase=measure", "--phase=select",
    "--set", "stages.knocks.level=0.4", "--set", "gates.door=knocks.count > 2",
)
assert finished.code == 0, finished
sql = (
    "SELECT knocks.count, knocks.status, knocks.backend, rejected_by,"
    " fingerprint = knocks.fingerprint AS own, time_s, peak"
    " FROM dataset JOIN knock_times USING (source_id, unit_index)"
    " WHERE time_s >= start_s AND time_s < end_s ORDER BY time_s"
)
print(json.dumps(twinreel("inspect", out, "--json", "--sql", sql).json()))
"""


def install(folder: Path, entry_point: str) -> dict[str, str]:
    """Pretends that a package is installed whose one entry point is this; the environment of it."""
    about = folder / "knock_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: knock-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[twinreel.stages]\n{entry_point}\n")
    (folder / "knocks.py").write_text(STAGE)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_a_stage_from_outside_is_measured_like_any_other(tmp_path: Path) -> None:
    environment = install(tmp_path / "packages", "knocks = knocks:KnocksStage")
    samples = np.zeros(6 * 16_000, np.float32)
    for second in (1, 3):
        samples[second * 16_000] = 0.45
    (tmp_path / "raw").mkdir()
    soundfile.write(tmp_path / "raw/door.flac", samples, 16_000)
    finished = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "raw"), str(tmp_path / "out")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(finished.stdout.splitlines()[-1])
    assert [row["time_s"] for row in rows] == pytest.approx([1.0, 3.0])
    assert [row["peak"] for row in rows] == pytest.approx([0.45, 0.45], abs=1e-4)
    assert all(
        (row["count"], row["status"], row["backend"]) == (2, "ok", "embedded") for row in rows
    )
    assert all(row["own"] and "door" in row["rejected_by"] for row in rows)


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("knocks = knocks:NoSuchStage", "AttributeError"),
        ("knocks = knocks:KnockRow", "derives from SignalStage or ClipStage"),
        ("loud = stages.audio.loudness:LoudnessStage", "'loudness' is taken"),
    ],
)
def test_a_stage_that_cannot_be_used_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_point: str, reason: str
) -> None:
    install(tmp_path, entry_point)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as raised:
        list(stages_of_other_packages())
    assert raised.value.code == "bad_stage"
    assert "knock-package" in raised.value.message and reason in raised.value.message


def test_a_command_says_so_in_one_line(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "curation", "plan", "curate", str(tmp_path)],
        env=install(tmp_path / "packages", "knocks = nowhere:KnocksStage"), cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode != 0
    assert finished.stderr.startswith("error: entry point knocks: ")
    assert finished.stderr.endswith("[bad_stage]\n") and finished.stderr.count("\n") == 1


READ = """
import sys
from tests.support.command_line import twinreel
import twinreel as package

out = sys.argv[1]
sql = "SELECT count(*) AS n FROM clips"
for arguments in (["inspect", out, "--sql", sql], ["inspect", out], ["compact", out]):
    finished = twinreel(*arguments)
    assert finished.code == 0, finished.err
assert package.open_dataset(out).sql(sql).to_pylist() == [{"n": 2}]
assert "stages.registry" not in sys.modules
"""


def test_a_package_whose_stage_is_broken_takes_no_results_from_readers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in "ab":
        open_out(out).commit({"clips": [clip(name)]})
    saved = SavedSelection(SELECTION, SCHEMAS, {}, {}, finished=True)
    write_selection(open_storage(str(out)), saved)
    finished = subprocess.run(
        [sys.executable, "-c", READ, str(out)],
        env=install(tmp_path / "packages", "knocks = nowhere:KnocksStage"), cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert len(list((out / "manifests/clips").iterdir())) == 1
