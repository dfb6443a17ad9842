"""Wrong usage, broken files, dying processes: one clear message each, and nothing is lost."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from manifests.errors import StorageError
from manifests.explore.open import open_view
from manifests.store.lease import PATH as LEASE
from manifests.store.lease import Lease
from manifests.store.storage import open_storage
from tests.support.command_line import (
    SMALL_SAMPLES,
    Finished,
    render_small,
    start_process,
    twinreel,
)
from tests.support.in_process import ChildEngine, InProcessEngine, jobs_by

FAULTS = Path(__file__).parents[1] / "support" / "faults"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with one file: enough for what fails before anything is opened."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_bytes(b"not looked at")
    return tmp_path / "raw"


def query(out: Path, sql: str) -> list[dict[str, Any]]:
    with open_view(str(out)) as connection:
        rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
        return rows


def refused(finished: Finished, code: str, *parts: str) -> None:
    """One message with this code, that names the parts, and exit code 2."""
    assert finished.code == 2, finished
    assert finished.message.endswith(f"[{code}]")
    assert all(part in finished.message for part in parts), finished.message


# --- the command line and the configuration


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--set", "clip.frame=97"], "unknown_setting", ["clip.frame", "'clip.frames'"]),
        (["--set", "stages.motion.enable=no"], "unknown_setting", ["stages.motion.enabled"]),
        (["--set", "stages.sync.backend=magic"], "unknown_backend", ["'magic'", "embedded"]),
        (["--set", "clip.frames=many"], "bad_setting", ["clip.frames", "many"]),
        (["--set", "clip.frames"], "bad_assignment", ["key=value"]),
        (["--preset", "ovy"], "unknown_preset", ["'ovi'"]),
        (["--config", "/no/such.yaml"], "configuration_unreadable", ["/no/such.yaml"]),
        (["--phase", "pakc"], "unknown_phase", ["pakc", "annotate, select, caption, pack"]),
        (["--set", "gates.g=avg(loudness.mean_volume_db) > -30"], "gate_not_scalar", ["g", "avg"]),
        (["--set", "gates.g=damaged_s < (SELECT 1)"], "gate_not_scalar", ["subquery"]),
        (["--set", "gates.g=row_number() OVER () < 5"], "gate_not_scalar", ["g"]),
        (["--set", "gates.g=random() < 0.5"], "gate_not_scalar", ["random"]),
        (["--set", "gates.g=true), (false"], "gate_not_scalar", ["g"]),
        (["--set", "gates.g=*"], "gate_not_scalar", ["star"]),
        (["--set", "gates.g=state = 'keep'"], "gate_not_scalar", ["state"]),
        (["--set", "gates.g=damaged_s <"], "gate_syntax", ["g"]),
        (["--set", "gates.g=true; DROP VIEW clips"], "gate_syntax", ["g"]),
        (
            ["--set", "gates.g=loudnes.mean_volume_db > -30"],
            "gate_unknown_column",
            ["loudnes.mean_volume_db", "loudness.mean_volume_db"],
        ),
        (
            ["--set", "gates.g=loudness.mean_volum_db > -30"],
            "gate_unknown_column",
            ["loudness.mean_volume_db"],
        ),
    ],
)
def test_wrong_settings_stop_before_any_work(
    raw: Path, tmp_path: Path, arguments: list[str], code: str, parts: list[str]
) -> None:
    out = tmp_path / "out"
    refused(twinreel("curate", raw, "--out", out, *arguments), code, *parts)
    assert not (out / "manifests" / "sources").exists()
    assert not (out / "job.yaml").exists()


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_inputs_that_are_not_there(tmp_path: Path, as_json: list[str]) -> None:
    out = tmp_path / "out"
    long = tmp_path / ("a long name " * 20 + "end")
    pattern = tmp_path / "[ab]*.mp4"
    refused(twinreel("curate", pattern, "--out", out, *as_json), "input_empty", str(pattern))
    refused(twinreel("curate", long, "--out", out, *as_json), "input_missing", str(long))
    refused(twinreel("plan", "curate", long, *as_json), "input_missing", str(long))
    (tmp_path / "raw").mkdir()
    refused(twinreel("curate", tmp_path / "raw", "--out", out, *as_json), "input_empty", "raw")
    (tmp_path / "raw" / "a.json").write_text("{}")
    (tmp_path / "raw" / "a.srt").write_text("")
    refused(
        twinreel("curate", tmp_path / "raw", "--out", out, *as_json),
        "input_empty",
        "2 files",
        "inputs.skip_suffixes=[]",
    )
    assert not out.exists()


@pytest.mark.parametrize("where", ["file.txt/out", "/proc/out"])
def test_an_out_that_cannot_be_written(raw: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "file.txt").write_text("a file")
    out = tmp_path / where
    finished = twinreel("curate", raw, "--out", out)
    assert finished.code == 1
    assert finished.message.endswith("[storage_unwritable]")
    assert str(out) in finished.message
    refused(twinreel("curate", raw, "--out", "ftp://host/out"), "unknown_storage", "ftp:")


@pytest.mark.parametrize(
    "arguments",
    [["inspect"], ["inspect", "--sql", "SELECT 1"], ["select"], ["verify"], ["compact"]],
)
def test_a_folder_that_is_no_output(tmp_path: Path, arguments: list[str]) -> None:
    for out in (tmp_path, tmp_path / "none"):
        refused(twinreel(arguments[0], out, *arguments[1:]), "not_an_output", str(out))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["curate"], ["curate", "x"], ["curate", "x", "--out", "y", "--nonsense"], ["curat"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    finished = twinreel(*arguments)
    assert finished.code == 2
    assert "Traceback" not in finished.out + finished.err


# --- two jobs on one OUT


def test_two_jobs_on_one_out(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with Lease(open_storage(str(out))):
        finished = twinreel("curate", raw, "--out", out)
    assert finished.code == 1
    assert finished.message.endswith("[out_busy]")
    assert str(out) in finished.message
    assert f"process {os.getpid()} on {socket.gethostname()}" in finished.message
    assert not (out / LEASE).exists()


def test_a_job_of_another_version_is_told_from_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "job.yaml").write_text("configuration: {clip: {stride: 3}}\ninputs: [raw]\n")
    for arguments in (("inspect",), ("select", "--set", "gates.length=")):
        message = twinreel(arguments[0], out, *arguments[1:]).message
        assert "[job_of_another_version]" in message
        assert "clip.stride" in message
    denied = StorageError("storage_denied", "It may not be read.", subject=str(out))
    monkeypatch.setattr("curation.job.open_storage", mock.Mock(side_effect=denied))
    assert "[storage_denied]" in twinreel("inspect", out).message


# --- files that break the decoder


@contextlib.contextmanager
def faulty_decoders() -> Iterator[None]:
    """Jobs decode in a child process that finds `tests/support/faults` before anything else."""
    with jobs_by(ChildEngine()), mock.patch.object(sys, "path", [str(FAULTS), *sys.path]):
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_small(tmp_path_factory.mktemp("clip") / "clip.mp4", seed=1)


@pytest.fixture(scope="module")
def misbehaving(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A job over files that kill, hang or starve the decoder at every step, among good ones."""
    folder = tmp_path_factory.mktemp("misbehaving")
    for name in (
        "good_1", "segfault", "hang", "good_2", "segfault-unit", "hungry-unit", "segfault-pack",
    ):  # fmt: skip
        (folder / "raw").mkdir(exist_ok=True)
        (folder / "raw" / f"{name}.mp4").write_bytes(clip.read_bytes())
    (folder / "raw" / "empty.mp4").write_bytes(b"")
    (folder / "raw" / "words.mp4").write_text("These are words. " * 400)
    (folder / "raw" / "cut.mp4").write_bytes(clip.read_bytes()[:4000])
    (folder / "raw" / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "raw" / "notes.json").write_text("{}")
    with faulty_decoders():
        finished = twinreel(
            "curate", folder / "raw", "--out", folder / "out", "--json",
            "--set", "decode.stall_s=12", "--set", "decode.memory_mb=800",
            "--set", "decode.retries=0", *SMALL_SAMPLES,
        )  # fmt: skip
    return folder / "out", finished


def test_a_broken_file_costs_its_row_alone(misbehaving: tuple[Path, Finished]) -> None:
    out, finished = misbehaving
    assert finished.code == 0, finished.err
    assert "Traceback" not in finished.out + finished.err
    rows = query(out, "SELECT uri, status, error FROM sources")
    found = {
        Path(row["uri"]).stem: row["error"]["code"] if row["error"] else row["status"]
        for row in rows
    }
    assert found == {
        "good_1": "ok",
        "good_2": "ok",
        "segfault-pack": "ok",
        "segfault": "decoder_crashed",
        "segfault-unit": "decoder_crashed",
        "hang": "decoder_hung",
        "hungry-unit": "decoder_out_of_memory",
        "empty": "empty_file",
        "words": "unreadable_container",
        "cut": "unreadable_container",
        "gone": "missing_file",
    }
    assert all(row["status"] == "failed" for row in rows if row["error"])
    messages = [row["error"]["message"] for row in rows if row["error"]]
    assert all(message and "\n" not in message for message in messages)


def test_the_other_files_go_all_the_way(misbehaving: tuple[Path, Finished]) -> None:
    out, _ = misbehaving
    rows = query(
        out, "SELECT uri, sample FROM dataset WHERE state = 'keep' AND \"window\" = 'full'"
    )
    samples = {Path(row["uri"]).stem: row["sample"] for row in rows}
    assert samples.keys() == {"good_1", "good_2", "segfault-pack"}
    assert [samples[name]["status"] for name in ("good_1", "good_2")] == ["ok", "ok"]
    assert samples["segfault-pack"]["status"] == "failed"
    assert samples["segfault-pack"]["error"]["code"] == "decoder_crashed"
    verified = twinreel("verify", out, "--json")
    assert (verified.code, verified.json()["samples"], verified.json()["bad"]) == (1, 2, [])
    [lacking] = verified.json()["unpacked"]
    assert (lacking["code"], Path(lacking["uri"]).stem) == ("decoder_crashed", "segfault-pack")


def test_the_summary_names_the_failed_files(misbehaving: tuple[Path, Finished]) -> None:
    out, finished = misbehaving
    summary = finished.json()
    assert summary["skipped_files"] == 1
    names = {Path(failed["uri"]).stem for failed in summary["funnel"]["failed_files"]}
    assert names == {
        "segfault", "segfault-unit", "hang", "hungry-unit", "empty", "words", "cut", "gone",
    }  # fmt: skip
    text = twinreel("inspect", out)
    assert text.code == 0
    assert all(name in text.out for name in ("segfault.mp4", "decoder_hung", "gone.mp4"))


@pytest.mark.soak
def test_what_a_killed_decoder_leaves_is_done_by_the_next_run(clip: Path, tmp_path: Path) -> None:
    """Its decoder is killed from outside, as where memory runs out: on every try of a run."""
    raw, outage = tmp_path / "raw", tmp_path / "outage"
    raw.mkdir()
    for name in ("good", "killed", "killed-unit", "killed-pack"):
        (raw / f"{name}.mp4").write_bytes(clip.read_bytes())

    def curate() -> Finished:
        with faulty_decoders(), mock.patch.dict(os.environ, TWINREEL_TEST_OUTAGE=str(outage)):
            finished = twinreel("curate", raw, "--out", tmp_path / "out", *SMALL_SAMPLES)
        assert finished.code == 0, finished.err
        return finished

    outage.touch()
    first = curate()
    assert "2 files could not be read for now (decoder_killed)" in first.out
    assert "1 sample could not be packed for now (decoder_killed)" in first.out
    assert "1 finished sample must wait" in first.out
    assert _tars(tmp_path / "out") == {}
    assert twinreel("verify", tmp_path / "out").code == 1
    outage.unlink()
    second = curate()
    assert "for now" not in second.out
    whole = "SELECT count(*) AS n FROM dataset WHERE state = 'keep' AND sample.status = 'ok'"
    assert query(tmp_path / "out", whole) == [{"n": 4}]
    assert twinreel("verify", tmp_path / "out").code == 0


def test_every_second_of_a_good_file_is_a_clip(misbehaving: tuple[Path, Finished]) -> None:
    rows = query(
        misbehaving[0],
        "SELECT source_id, sum(end_s - start_s) AS cut_s, any_value(duration_s) AS duration_s"
        " FROM dataset GROUP BY ALL",
    )
    assert len(rows) == 3
    assert all(row["cut_s"] == pytest.approx(row["duration_s"], abs=0.05) for row in rows)


# --- `inspect --sql` reads the tables and nothing else


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{secret}.copy'",
        "COPY clips FROM '{secret}'",
        "CREATE TABLE mine AS SELECT 1",
        "CREATE OR REPLACE VIEW dataset AS SELECT 1",
        "INSERT INTO clips SELECT * FROM clips",
        "UPDATE clips SET start_s = 0",
        "DELETE FROM clips",
        "DROP VIEW dataset",
        "ATTACH '{secret}.db' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "PRAGMA enable_logging",
        "EXPORT DATABASE '{secret}.export'",
        "IMPORT DATABASE '{secret}.export'",
        "CALL pragma_database_list()",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "EXECUTE x",
        "PREPARE x AS SELECT 1",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{secret}.copy'",
        "SELECT * FROM read_parquet('{secret}')",
        "SELECT * FROM parquet_metadata('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_csv_auto('/etc/passwd')",
        "SELECT * FROM read_json('{secret}')",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('clips')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM '{secret}'",
        'SELECT * FROM "{secret}"',
        "FROM '/etc/passwd'",
        "SELECT (SELECT content FROM read_text('{secret}'))",
        "SELECT 1 WHERE EXISTS (FROM read_text('{secret}'))",
        "WITH x AS (SELECT * FROM read_text('{secret}')) SELECT * FROM x",
        "SELECT 1 UNION ALL SELECT content FROM read_text('{secret}')",
        "SELECT * FROM clips, LATERAL (SELECT * FROM read_text('{secret}'))",
        "SELECT getenv('HOME')",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{secret}.copy'",
        "",
        "   ",
        "-- nothing",
        "SELEC 1",
        "SELECT loudnes FROM dataset",
        "SELECT * FROM clip",
        "SELECT no_such_function(1)",
        "SELECT 1/'a'::INT FROM dataset",
        "SELECT * FROM no_such_schema.clips",
    ],
)
def test_sql_that_does_more_than_read(
    misbehaving: tuple[Path, Finished], tmp_path: Path, sql: str
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nopensesame\n")
    _refused_sql(misbehaving[0], sql.format(secret=secret), "--json")
    assert list(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize("sql", ["DROP VIEW dataset", "SELECT * FROM clip", "SELEC 1", ""])
def test_without_json_wrong_sql_is_refused_alike(
    misbehaving: tuple[Path, Finished], sql: str
) -> None:
    assert _refused_sql(misbehaving[0], sql) == _refused_sql(misbehaving[0], sql, "--json")


def _refused_sql(out: Path, sql: str, *more: str) -> str:
    finished = twinreel("inspect", out, "--sql", sql, *more)
    assert finished.code == 2, finished
    assert finished.message.rpartition(" ")[2] in ("[sql_refused]", "[sql_error]")
    assert "opensesame" not in finished.message
    assert "root:" not in finished.message
    return finished.message


def test_sql_that_reads(misbehaving: tuple[Path, Finished]) -> None:
    out, _ = misbehaving
    before = _hashes(out)
    for sql, count in (
        ("SELECT state, count(*) AS clips FROM dataset GROUP BY ALL", 2),
        ("FROM sources", 11),
        ("WITH x AS (SELECT uri FROM sources) SELECT * FROM x ORDER BY uri LIMIT 3;", 3),
        ("SELECT * FROM clips JOIN units USING (source_id, unit_index) LIMIT 1", 1),
        ("SELECT * FROM dataset WHERE false", 0),
        ("SELECT * FROM range(4)", 4),
        ("SELECT '/etc/passwd' AS a, 'read_text(1)' AS b", 1),
        ("SELECT unnest(spans) FROM sources", 0),
    ):
        finished = twinreel("inspect", out, "--sql", sql, "--json")
        assert finished.code == 0, finished
        assert len(finished.json()) == count
    table = twinreel("inspect", out, "--sql", "SELECT uri, error FROM sources ORDER BY uri")
    assert table.code == 0
    assert "11 rows" in table.out
    assert _hashes(out) == before


def test_one_clip(misbehaving: tuple[Path, Finished]) -> None:
    out, _ = misbehaving
    clip_id = query(out, "SELECT clip_id FROM dataset ORDER BY clip_id LIMIT 1")[0]["clip_id"]
    found = twinreel("inspect", out, "--clip", clip_id[:10])
    assert (found.code, found.json()["clip_id"]) == (0, clip_id)
    refused(twinreel("inspect", out, "--clip", "zzz"), "unknown_clip", "zzz")
    refused(twinreel("inspect", out, "--clip", ""), "unknown_clip")


def test_select_refuses_wrong_gates(misbehaving: tuple[Path, Finished]) -> None:
    out, _ = misbehaving
    before = _hashes(out)
    for assignment, code in (
        ("gates.g=count(*) > 1", "gate_not_scalar"),
        ("gates.g=(SELECT true)", "gate_not_scalar"),
        ("gates.g=this is no SQL", "gate_syntax"),
        ("gates.g=motion.static_shar < 1", "gate_unknown_column"),
        ("gates.g=uri::INT > 1", "gate_failed"),
        ("clip.frames=97", "not_a_gate"),
        ("gates.g=uri", "gate_not_scalar"),
    ):
        refused(twinreel("select", out, "--set", assignment), code)
    assert _hashes(out) == before


# --- a bucket without sound


def test_a_bucket_in_which_nothing_has_audio(tmp_path: Path) -> None:
    for name in ("a", "b"):
        render_small(tmp_path / "raw" / f"{name}.mp4", sound=False)
    arguments = ("curate", tmp_path / "raw", "--out", tmp_path / "out", *SMALL_SAMPLES)
    with jobs_by(InProcessEngine()):
        finished = twinreel(*arguments)
    assert finished.code == 0, finished.err
    assert "Traceback" not in finished.out + finished.err
    assert finished.out.count("None of the sources has sound") == 1
    assert finished.out.count("No clip is kept") == 1
    assert not list((tmp_path / "out").rglob("*.tar"))
    again = twinreel(*arguments, "--json")
    assert again.code == 0
    assert again.json()["did_nothing"]
    assert any("None of the sources has sound" in note for note in again.json()["notes"])
    assert again.json()["funnel"]["kept"]["count"] == 0


# --- a job that is killed


def _hashes(out: Path) -> dict[str, str]:
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out.rglob("*"))
        if file.is_file()
    }


def _tars(out: Path) -> dict[str, str]:
    return {name: value for name, value in _hashes(out).items() if name.endswith(".tar")}


def _clips(out: Path) -> list[dict[str, Any]]:
    return query(out, "SELECT * FROM clips ORDER BY clip_id")


@contextlib.contextmanager
def _killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens, nothing of the process's own session stays behind."""
    session = process.pid
    try:
        yield
    finally:
        for running in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(running.pid) == session:
                    running.kill()
        if process.returncode is None:
            process.communicate()


@pytest.mark.soak
def test_a_stopped_and_a_killed_job_go_on_where_they_were(clip: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{name}.mp4").write_bytes(clip.read_bytes())
    settings = (*SMALL_SAMPLES, "--set", "pack.shard_mb=1")
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"

    process = start_process("curate", tmp_path / "raw", "--out", out, *settings)
    with _killed_at_the_end(process):
        _wait_until(lambda: list((out / "manifests" / "sources").glob("*.parquet")) != [])
        process.terminate()
        _, err = process.communicate(timeout=600)
        assert process.returncode == 1
        assert err.endswith("stopped; the same command goes on from what is committed\n")
        assert "Traceback" not in err
        assert not (out / LEASE).exists()

    process = start_process("curate", tmp_path / "raw", "--out", out, *settings)
    with _killed_at_the_end(process):
        # The clips are cut and committed; nothing is packed yet.
        _wait_until(lambda: list((out / "manifests" / "clips").glob("*.parquet")) != [])
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    holder = json.loads((out / LEASE).read_bytes())
    assert holder["pid"] == process.pid
    # A dead job's lease is not waited for, however lately it showed a sign of life.
    holder["seen"] = datetime.datetime.now(datetime.UTC).isoformat()
    (out / LEASE).write_text(json.dumps(holder))
    before = {name: value for name, value in _hashes(out).items() if "/_lease" not in name}
    assert _tars(out) == {}

    with jobs_by(InProcessEngine()):
        finished = twinreel("curate", tmp_path / "raw", "--out", out, "--json", *settings)
    assert finished.code == 0, finished.err
    assert finished.json()["decoded_units"] == 0
    after = _hashes(out)
    assert all(after[name] == value for name, value in before.items() if name.endswith("parquet"))
    assert not (out / LEASE).exists()

    with jobs_by(InProcessEngine()):
        whole = twinreel("curate", tmp_path / "raw", "--out", undisturbed, *settings)
    assert whole.code == 0, whole.err
    assert _clips(out) == _clips(undisturbed)
    assert _tars(out) == _tars(undisturbed) != {}
    for table in ("sources", "units", "signals", "samples", "captions", "decisions"):
        count = f"SELECT count(*) AS n FROM {table}_log"
        assert query(out, count) == query(undisturbed, count)
    assert twinreel("verify", out).code == 0


def _wait_until(condition: Any, timeout_s: float = 600.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_the_lease_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    storage = open_storage(str(tmp_path))
    holder = {
        "host": socket.gethostname(),
        "pid": gone.pid,
        "process_started": time.time(),
        "started": "2026-01-01T00:00:00+00:00",
        "seen": "2026-01-01T00:00:00+00:00",
        "token": "0",
    }
    storage.write(LEASE, json.dumps(holder).encode())
    started = time.monotonic()
    with Lease(storage):
        assert time.monotonic() - started < 10
