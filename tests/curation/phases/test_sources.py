"""A file that cannot be looked at for a moment: it stays the source that it was."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from curation.config import load_configuration
from curation.curate import Summary, run_curation
from curation.engine.engine import Engine
from curation.engine.tasks import Task
from curation.phases.plan import Plan, plan_curation
from manifests.errors import StorageError
from manifests.explore.open import open_view
from manifests.store.object_stores import ObjectInfo
from manifests.store.storage import Storage
from stages.media.probe import probe
from tests.support.in_process import run_tasks
from tests.support.moto_bucket import moto_bucket

CONFIGURATION = load_configuration(None, None, [])
NAMES = ("a.wav", "b.wav")


class Watched:
    """A job on `inputs`, run in this process, that counts what is probed and decoded."""

    def __init__(self, inputs: str, out: Path) -> None:
        self.inputs, self.out = inputs, out
        self.tasks: list[Task[Any]] = []

    def run(self, *inputs: str) -> Summary:
        self.tasks.clear()
        given = inputs or (self.inputs,)
        return run_curation(given, str(self.out), CONFIGURATION, phases=("measure",))

    def plan(self) -> Plan:
        return plan_curation([self.inputs], str(self.out), CONFIGURATION)

    def probed(self) -> list[str]:
        return [task.subject for task in self.tasks if task.function is probe]

    def query(self, sql: str) -> list[dict[str, Any]]:
        with open_view(str(self.out)) as connection:
            rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
            return rows

    def codes(self) -> dict[str, str | None]:
        rows = self.query("SELECT uri, error.code AS code FROM sources")
        assert len({row["uri"] for row in rows}) == len(rows)
        return {row["uri"].rsplit("/", 1)[-1]: row["code"] for row in rows}

    def seconds(self) -> float:
        return float(self.query("SELECT sum(end_s - start_s) AS s FROM dataset")[0]["s"] or 0.0)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """A table of two sounds in a bucket; they lie in `raw` on this machine, too."""
    folder = tmp_path / "raw"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    for name in NAMES:
        soundfile.write(folder / name, noise, 16_000)
    (folder / "list.csv").write_text("uri\n" + "".join(f"{name}\n" for name in NAMES))
    watched = Watched("s3://raw/list.csv", tmp_path / "out")
    monkeypatch.setattr("curation.curate.write_job_report", lambda *_, **__: None)
    monkeypatch.setattr(Engine, "run", lambda _, tasks: run_tasks(tasks, watched.tasks.append))
    with moto_bucket("raw") as client:
        for name in (*NAMES, "list.csv"):
            client.upload_file(str(folder / name), "raw", name)
        yield watched


def fail_head(monkeypatch: pytest.MonkeyPatch, code: str, *, times: int | None = None) -> None:
    """Requests for the head of `a.wav` fail, all or so many of them."""
    head, asked = Storage.head, []

    def failing(storage: Storage, path: str) -> ObjectInfo:
        if path == "a.wav" and (times is None or len(asked) < times):
            asked.append(path)
            raise StorageError(code, "Not now.", retryable=code == "storage_failed")
        return head(storage, path)

    monkeypatch.setattr(Storage, "head", failing)


def fail_stat(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stat = Path.stat

    def failing(path: Path, **options: bool) -> os.stat_result:
        if path.name == "a.wav":
            raise OSError(number, os.strerror(number))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", failing)


def test_a_head_that_fails_later_changes_nothing(
    job: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run()
    assert job.codes() == {"a.wav": None, "b.wav": None}
    before = job.query("SELECT * FROM sources ORDER BY uri")
    with monkeypatch.context() as patch:
        fail_head(patch, "storage_denied")
        assert job.run().did_nothing
        assert job.plan().new_files == 0
    assert job.tasks == []
    assert job.query("SELECT * FROM sources ORDER BY uri") == before
    assert job.run().did_nothing
    assert job.seconds() == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    "code",
    [
        "storage_missing",
        pytest.param("storage_failed", marks=pytest.mark.soak),
        pytest.param("storage_denied", marks=pytest.mark.soak),
    ],
)
def test_a_head_that_fails_at_first_costs_a_row_until_it_does_not(
    job: Watched, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "missing_file" if code == "storage_missing" else code
    with monkeypatch.context() as patch:
        # Only the first: opened a moment later it would be a source that the next run renames.
        fail_head(patch, code, times=1)
        job.run()
        assert job.codes() == {"a.wav": told, "b.wav": None}
        assert job.query("SELECT error.retryable AS r FROM sources WHERE error IS NOT NULL") == [
            {"r": True}
        ]
    with monkeypatch.context() as patch:
        fail_head(patch, code)
        assert job.run().did_nothing
    job.run()
    assert job.probed() == ["s3://raw/a.wav"]
    assert job.codes() == {"a.wav": None, "b.wav": None}
    assert job.seconds() == pytest.approx(2.0, abs=0.01)
    assert job.run().did_nothing
    with monkeypatch.context() as patch:
        fail_head(patch, code)
        assert job.run().did_nothing


@pytest.mark.parametrize(
    "number", [errno.ESTALE, pytest.param(errno.ENOENT, marks=pytest.mark.soak)]
)
def test_a_local_file_that_cannot_be_looked_at_for_now(
    job: Watched, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "raw")
    with monkeypatch.context() as patch:
        fail_stat(patch, number)
        job.run(folder)
        code = "missing_file" if number == errno.ENOENT else "unreadable_file"
        assert job.codes() == {"a.wav": code, "b.wav": None}
        assert job.run(folder).did_nothing
    job.run(folder)
    assert job.probed() == [f"{folder}/a.wav"]
    with monkeypatch.context() as patch:
        fail_stat(patch, number)
        assert job.run(folder).did_nothing
    assert job.run(folder).did_nothing
    assert job.codes() == {"a.wav": None, "b.wav": None}
    assert job.seconds() == pytest.approx(2.0, abs=0.01)


def test_words_beside_a_file_that_is_away_are_kept(job: Watched, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    table = folder / "list.csv"
    job.run(str(table))
    shutil.move(folder / "a.wav", tmp_path / "a.wav")
    table.write_text("uri,licence\na.wav,CC0\nb.wav,CC0\nhttp://h/c.wav,CC0\n")
    job.run(str(table))
    assert job.probed() == []
    rows = job.query("SELECT licence, error.code AS code FROM sources ORDER BY uri")
    assert rows == [
        {"licence": "CC0", "code": None},
        {"licence": "CC0", "code": None},
        {"licence": "CC0", "code": "unknown_storage"},
    ]
    table.write_text("uri,licence\na.wav,CC0\nb.wav,CC0\nhttp://h/c.wav,CC-BY\n")
    job.run(str(table))
    assert job.query("SELECT licence FROM sources WHERE error IS NOT NULL") == [
        {"licence": "CC-BY"}
    ]
    assert job.run(str(table)).did_nothing
    (folder / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    job.run(str(table))
    assert job.probed() == [f"{folder}/a.wav"], "another time of change is another version"


def test_spans_beyond_a_file_cost_themselves(job: Watched, tmp_path: Path) -> None:
    table = tmp_path / "raw" / "list.csv"
    table.write_text("uri,start_s,end_s\na.wav,0.25,0.75\na.wav,50,1e15\nb.wav,90,\n")
    job.run(str(table))
    assert job.codes() == {"a.wav": None, "b.wav": "no_decodable_frames"}
    assert job.query(
        "SELECT status, error.code AS code FROM units ORDER BY unit_index, status"
    ) == [
        {"status": "failed", "code": "no_decodable_frames"},
        {"status": "ok", "code": None},
        {"status": "failed", "code": "no_decodable_frames"},
    ]
    assert job.seconds() == pytest.approx(0.5, abs=0.01)
