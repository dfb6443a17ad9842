"""The phase `caption` as a whole, against an endpoint whose answers are scripted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from curation.demo_bucket import Shape, VideoFormat
from curation.demo_bucket.clips import still_clip
from manifests.explore.open import inspect_sql
from tests.support.command_line import Finished, start_process, twinreel
from tests.support.in_process import InProcessEngine, jobs_by
from tests.support.scripted_server import (
    Ask,
    Cut,
    Fail,
    Garble,
    Say,
    ScriptedServer,
    Step,
    well_formed,
)

KEY = "sk-not-to-be-seen-anywhere-0123456789"
CLIPS = 160


def rows(out: Path, sql: str) -> list[dict[str, Any]]:
    return inspect_sql(str(out), sql).to_pylist()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds that are cut into clips of a quarter of a second each."""
    path = tmp_path_factory.mktemp("raw") / "long.mp4"
    shape = Shape(160, 96, 24, CLIPS / 4, video=VideoFormat(options={"preset": "ultrafast"}))
    still_clip(path, seed=1, shape=shape)
    return path


def arguments(source: Path, out: Path, server: ScriptedServer, *more: str) -> list[str | Path]:
    return [
        "curate", source, "--out", out, "--set", "clip.frames=6", "--set", "gates={}",
        "--set", "gates.length=window <> 'remainder'", "--set", "gates.not_static=",
        "--set", "gates.not_frozen=", "--set", "gates.sync_offset=",
        "--set", "gates.sync_confidence=", "--set", "gates.has_sound=",
        "--set", "gates.volume=", "--set", "caption.stills=2",
        "--set", "caption.backend=endpoint", "--set", "caption.endpoint.model=made-up",
        "--set", f"caption.endpoint.base_url={server.base_url}",
        "--set", "caption.endpoint.backoff_s=0.01", *more,
    ]  # fmt: skip


PHASES = ("--phase", "measure", "--phase", "select", "--phase", "caption")


def curate(source: Path, out: Path, server: ScriptedServer, *more: str) -> Finished:
    with jobs_by(InProcessEngine()):
        return twinreel(*arguments(source, out, server, *more))


@pytest.fixture(scope="module")
def measured(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OUT whose clips are cut and kept, and wait for their captions."""
    out = tmp_path_factory.mktemp("measured") / "out"
    with ScriptedServer(well_formed) as server:
        finished = curate(source, out, server, *PHASES[:4])
        assert server.asks == []
    assert finished.code == 0, finished.err
    return out


@pytest.fixture
def out(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(measured, tmp_path / "out"))


def faulty(ask: Ask) -> Step:
    """A tenth of the first answers goes wrong, each in its own way."""
    dice = random.Random(ask.clip)
    fault = dice.choice(
        [Fail(500), Fail(429, retry_after="0"), Cut(), Garble(), Say("No tags at all."), Say("")]
    )
    return fault if ask.attempt == 0 and dice.random() < 0.1 else well_formed(ask)


def test_faults_lose_no_clip_and_the_key_is_nowhere(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedServer(faulty, key=KEY) as server:
        finished = curate(source, out, server, *PHASES)
    assert finished.code == 0, finished.err
    found = rows(out, "SELECT status, requests, text FROM captions")
    assert len(found) >= CLIPS - 1
    assert {row["status"] for row in found} == {"ok"}
    assert sum(row["requests"] for row in found) == len(server.asks) > len(found) + CLIPS // 25
    assert all(ask.authorization == f"Bearer {KEY}" for ask in server.asks)
    assert KEY not in finished.out + finished.err
    for path in out.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.soak
def test_a_killed_run_asks_for_no_committed_caption_again(source: Path, out: Path) -> None:
    def slow(ask: Ask) -> Step:
        said = well_formed(ask)
        assert isinstance(said, Say)
        return Say(said.text, delay_s=0.1)

    with ScriptedServer(slow) as server:
        command = arguments(source, out, server, "--set", "caption.endpoint.concurrency=2", *PHASES)
        with start_process(*command) as process:
            deadline = time.monotonic() + 600
            while len(server.asks) < CLIPS // 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        before = {row["clip_id"]: row["text"] for row in rows(out, "SELECT * FROM captions")}
        asked_first = {ask.clip for ask in server.asks}
    assert 0 < len(before) < CLIPS - 10
    with ScriptedServer(well_formed) as server:
        finished = curate(source, out, server, *PHASES)
        asked_again = [ask.clip for ask in server.asks]
    assert finished.code == 0, finished.err
    after = {row["clip_id"]: row["text"] for row in rows(out, "SELECT * FROM captions")}
    assert after.keys() > before.keys()
    assert {clip_id: after[clip_id] for clip_id in before} == before
    # Each of the others exactly once; of those asked before, only what had not been committed.
    assert len(asked_again) == len(set(asked_again)) == len(after) - len(before)
    assert len(asked_first & set(asked_again)) == len(asked_first) - len(before)


def test_failures_are_recorded_and_only_passing_ones_asked_again(source: Path, out: Path) -> None:

    def mostly_bad(ask: Ask) -> Step:
        kind = int(ask.clip.removeprefix("media-")[:6], 16) % 4
        steps: dict[int, Step] = {0: Say("Never in the form."), 1: Fail(503)}
        return steps.get(kind, well_formed(ask))

    few = ("--set", "clip.frames=48", "--set", "caption.endpoint.tries=2", *PHASES)
    with ScriptedServer(mostly_bad) as server:
        finished = curate(source, out, server, *few)
    assert finished.code == 0, finished.err
    found = rows(out, "SELECT clip_id, status, error, text FROM captions")
    codes = {row["error"]["code"] for row in found if row["status"] == "failed"}
    assert codes == {"caption_malformed", "caption_endpoint_failed"}
    passing = {
        row["clip_id"]
        for row in found
        if row["status"] == "failed" and row["error"]["code"] == "caption_endpoint_failed"
    }
    with ScriptedServer(well_formed) as server:
        finished = curate(source, out, server, *few)
        assert len(server.asks) == len(passing)
    later = {row["clip_id"]: row["status"] for row in rows(out, "SELECT * FROM captions")}
    assert all(later[clip_id] == "ok" for clip_id in passing)
    assert list(later.values()).count("failed") == len(
        [row for row in found if (row["error"] or {}).get("code") == "caption_malformed"]
    )


def test_a_gate_that_speaks_of_captions_is_asked_once_they_are_there(
    source: Path, out: Path
) -> None:

    def by_turns(ask: Ask) -> Step:
        said = well_formed(ask)
        assert isinstance(said, Say)
        red = int(ask.clip.removeprefix("media-")[:6], 16) % 2
        return Say(said.text.replace("A picture", "A red picture") if red else said.text)

    with ScriptedServer(by_turns) as server:
        finished = curate(
            source, out, server, "--set", "clip.frames=48", "--set", "pack.area_px=1024",
            "--set", "gates.red=caption.text LIKE '%red%'",
        )  # fmt: skip
    assert finished.code == 0, finished.err
    found = rows(
        out,
        """SELECT state, rejected_by, caption.text AS text, sample FROM dataset
        WHERE "window" = 'full'""",
    )
    assert {row["state"] for row in found} == {"keep", "reject"}
    for row in found:
        assert (row["state"] == "keep") == ("red" in row["text"]) == (row["sample"] is not None)


def test_an_endpoint_that_refuses_the_key_stops_the_phase_and_marks_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedServer(well_formed, key="another") as server:
        finished = curate(source, out, server, *PHASES)
    assert finished.code == 2
    assert "[caption_key_refused]" in finished.err
    assert KEY not in finished.err + finished.out
    assert rows(out, "SELECT * FROM captions") == []
