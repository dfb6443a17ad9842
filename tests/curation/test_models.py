"""Whole jobs with models: on made-up weights, through the code that loads real ones, and without.

The scripted server stands for the captioning model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile

from curation.demo_bucket import Shape, VideoFormat, scenery_clip, talking_face_clip
from curation.demo_bucket.clips import still_clip
from manifests.explore.open import inspect_sql
from tests.support.command_line import twinreel, twinreel_process
from tests.support.in_process import InProcessEngine, engine, jobs_by
from tests.support.made_up_weights import (
    write_ast,
    write_clip,
    write_raft,
    write_real,
    write_syncnet,
)
from tests.support.made_up_whisper import write_whisper
from tests.support.scripted_server import ScriptedServer, well_formed
from tests.support.voices import say

__all__ = ["engine"]

FAST = VideoFormat(options={"preset": "ultrafast"})
LOOSE = (
    "--set", "gates.area=", "--set", "gates.aesthetic=aesthetic.mean > -1000",
    "--set", "gates.not_static=motion.score_px_s >= 0", "--set", "gates.not_frozen=",
    "--set", "gates.sync_offset=", "--set", "gates.sync_confidence=sync.confidence > -1000",
    "--set", "stages.motion.backend=raft_small", "--set", "pack.area_px=16384",
    "--set", "stages.sync.min_side_px=40",
)  # fmt: skip
EMBEDDED_WORDS = ("--set", "caption.backend=attributes")


def rows(out: Path, sql: str) -> list[dict[str, Any]]:
    return inspect_sql(str(out), sql).to_pylist()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    face = Shape(512, 288, 25, 5.4, video=FAST)
    talking_face_clip(folder / "face.mp4", 0, seed=20, shape=face)
    # Made-up flow is next to none: only a picture that stands still is explained by it.
    still_clip(folder / "scene.mp4", seed=1, shape=Shape(320, 180, 24, 5.3, video=FAST))
    scenery_clip(
        folder / "mute.mp4", seed=2, shape=Shape(320, 180, 24, 5.3, video=FAST), audio=None
    )
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for write in (write_real, write_raft, write_syncnet, write_clip, write_ast, write_whisper):
        write(folder)
    return folder


@pytest.fixture(scope="module")
def environment(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = str(tmp_path_factory.mktemp("home"))
    return {"TWINREEL_WEIGHTS": str(weights), "HOME": home}


@pytest.fixture
def with_weights(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def arguments(bucket: Path, out: Path, server: ScriptedServer, *more: str) -> list[str | Path]:
    return [
        "curate", bucket, "--out", out, "--preset", "ovi", *LOOSE,
        "--set", f"caption.endpoint.base_url={server.base_url}",
        "--set", "caption.endpoint.model=made-up", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(
    bucket: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ScriptedServer]:
    """A finished job whose models were loaded in this process."""
    out = tmp_path_factory.mktemp("out") / "ovi"
    with (
        ScriptedServer(well_formed) as server,
        jobs_by(InProcessEngine()),
        mock.patch.dict(os.environ, environment),
    ):
        finished = twinreel(*arguments(bucket, out, server))
    assert finished.code == 0, finished.err
    return out, server


def test_every_model_stage_measures_what_it_applies_to(
    done: tuple[Path, ScriptedServer],
) -> None:
    found = rows(
        done[0],
        """SELECT regexp_extract(uri, '[^/]*$') AS file, motion, aesthetic, sync, faces,
        transcript, audio_class, audio_quality
        FROM dataset WHERE "window" = 'full'""",
    )
    by_file = {row["file"]: row for row in found}
    assert set(by_file) == {"face.mp4", "scene.mp4", "mute.mp4"}
    for file in ("face.mp4", "scene.mp4"):
        row = by_file[file]
        assert (row["motion"]["status"], row["motion"]["backend"]) == ("ok", "raft_small")
        assert row["motion"]["score_px_s"] > 0
        assert row["motion"]["frozen_share"] is not None
        assert (row["aesthetic"]["status"], row["aesthetic"]["backend"]) == ("ok", "clip_mlp")
        assert row["aesthetic"]["min"] <= row["aesthetic"]["mean"]
    assert by_file["face.mp4"]["sync"]["backend"] == "syncnet"
    assert by_file["face.mp4"]["sync"]["status"] == "ok"
    assert by_file["face.mp4"]["sync"]["distance"] > 0
    assert by_file["scene.mp4"]["sync"]["status"] == "not_applicable"
    assert by_file["face.mp4"]["transcript"]["status"] == "ok"
    assert by_file["scene.mp4"]["transcript"]["status"] == "not_applicable"
    for file in ("face.mp4", "scene.mp4"):
        assert by_file[file]["audio_class"]["backend"] == "ast"
        assert len(by_file[file]["audio_class"]["top_labels"]) == 5
        assert by_file[file]["audio_quality"]["status"] == "ok"
    assert by_file["face.mp4"]["audio_quality"]["mos_overall"] > 1.0
    assert by_file["scene.mp4"]["audio_quality"]["mos_overall"] is None
    # Its gate rejects what has no sound before any model is asked.
    assert by_file["mute.mp4"]["aesthetic"] is None


def test_words_are_a_table_of_their_own(done: tuple[Path, ScriptedServer]) -> None:
    words = rows(
        done[0],
        """SELECT w.*, c.start_s AS from_s, c.end_s AS to_s, c.transcript.words AS count
        FROM words w JOIN clips c USING (clip_id) ORDER BY w.start_s""",
    )
    assert words
    assert len(words) == words[0]["count"]
    assert all(row["from_s"] <= row["start_s"] <= row["end_s"] <= row["to_s"] for row in words)


def test_captions_of_the_model_are_in_the_form_and_verified(
    done: tuple[Path, ScriptedServer],
) -> None:
    out, server = done
    found = rows(out, "SELECT * FROM captions")
    assert len(found) == len(server.asks) == 2
    for row in found:
        assert row["status"] == "ok"
        assert row["model"] == "made-up"
        assert row["text"].endswith("<ENDAUDCAP>")
        assert row["requests"] == 1
        assert row["verified"]["word_error_rate"] == 0.0
        # The server quotes what it was told the recogniser had heard.
        assert (row["verified"]["spoken_words"] > 0) == (row["speech"] is not None)
    packed = rows(out, "SELECT state, sample FROM dataset WHERE caption IS NOT NULL")
    assert all(row["state"] == "keep" and row["sample"]["status"] == "ok" for row in packed)


@pytest.mark.usefixtures("with_weights")
def test_a_second_run_asks_no_model_again(
    done: tuple[Path, ScriptedServer], bucket: Path, engine: InProcessEngine
) -> None:
    out = done[0]
    before = rows(out, "SELECT * FROM clips_log"), rows(out, "SELECT * FROM captions_log")
    more = ("--set", "caption.endpoint.concurrency=3", "--set", "engine.batch_clips=3")
    with ScriptedServer(well_formed) as server:
        finished = twinreel(*arguments(bucket, out, server, *more))
    assert finished.code == 0, finished.err
    assert "nothing decoded, nothing written" in finished.out
    assert server.asks == engine.subjects == []
    assert before == (rows(out, "SELECT * FROM clips_log"), rows(out, "SELECT * FROM captions_log"))


@pytest.mark.soak
def test_on_ray_models_measure_the_same(
    done: tuple[Path, ScriptedServer], bucket: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Every model in a process of its own, beside the decoding; six of them take their time."""
    with ScriptedServer(well_formed) as server:
        finished = twinreel_process(*arguments(bucket, tmp_path, server), environment=environment)
    assert finished.code == 0, finished.err
    sql = "SELECT * EXCLUDE (sample) FROM dataset ORDER BY clip_id"
    assert alike(rows(tmp_path, sql), rows(done[0], sql))
    assert len(server.asks) == 2


def alike(one: Any, other: Any) -> bool:
    """Equal but for what a model's batch does to the last digits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-3, abs=1e-6)
    return bool(one == other)


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TWINREEL_WEIGHTS", str(tmp_path))


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize("command", ["curate", "plan curate"])
def test_what_is_missing_is_said_before_anything_starts(
    command: str, bucket: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    finished = twinreel(*command.split(), bucket, "--out", out, "--preset", "ovi")
    assert finished.code == 2
    assert not out.exists()
    assert finished.err.count("error:") == 1
    for word in (
        "raft_large_C_T_SKHT_V2", "syncnet_v2", "yunet", "CLIP", "sac+logos", "caption.endpoint",
        "twinreel weights fetch", "MB", "GB", "licence", "--missing pending", "[missing_parts]",
    ):  # fmt: skip
        assert word.lower() in finished.err.lower(), word


@pytest.mark.usefixtures("nothing_here", "engine")
def test_without_weights_clips_are_pending_not_guessed(bucket: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished = twinreel(
        "curate", bucket, "--out", out, "--preset", "ovi", "--missing", "pending",
        "--set", "gates.area=",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    found = rows(
        out,
        """SELECT state, rejected_by, pending_on, motion, aesthetic, sync, caption, sample
        FROM dataset
        WHERE "window" = 'full' AND uri NOT LIKE '%mute%'""",
    )
    assert len(found) == 2
    for row in found:
        assert row["state"] == "pending"
        assert {"aesthetic", "motion"} <= set(row["pending_on"])
        assert row["motion"] is row["aesthetic"] is row["sync"] is None
        assert row["caption"] is row["sample"] is None
    assert "twinreel weights fetch raft-large" in finished.err
    unmeasured = "Not measured, since weights or settings are missing: aesthetic, audio_class"
    assert unmeasured in finished.out


@pytest.mark.usefixtures("with_weights", "engine")
def test_sound_alone_is_transcribed_and_described_whatever_it_is(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    voice, rate_hz = say("good morning to you all, this is a longer sentence about the weather")
    wide = np.repeat(np.repeat(voice, 192_000 // rate_hz)[:, None], 8, axis=1)
    soundfile.write(raw / "voice.wav", wide, 192_000 // rate_hz * rate_hz)
    noise = 0.1 * np.random.default_rng(0).standard_normal(48_000 * 3)
    soundfile.write(raw / "rain.flac", noise, 48_000)
    soundfile.write(raw / "blip.wav", noise[:9_600], 48_000)
    soundfile.write(raw / "silent.wav", np.zeros(48_000 * 3), 48_000)
    with ScriptedServer(well_formed) as server:
        finished = twinreel(
            "curate", raw, "--out", out, "--preset", "ovi-audio",
            "--set", "gates.length=", "--set", "gates.has_sound=", "--set", "gates.volume=",
            "--set", "clip.min_frames=2",
            "--set", f"caption.endpoint.base_url={server.base_url}",
            "--set", "caption.endpoint.model=made-up",
        )  # fmt: skip
        assert all(ask.images == () for ask in server.asks)
    assert finished.code == 0, finished.err
    found = rows(
        out,
        """SELECT regexp_extract(uri, '[^/]*$') AS file, transcript, audio_class, audio_quality,
        caption, sample FROM dataset""",
    )
    by_file = {row["file"]: row for row in found}
    assert set(by_file) == {"voice.wav", "rain.flac", "blip.wav", "silent.wav"}
    for row in found:
        assert row["caption"]["status"] == row["sample"]["status"] == "ok", row
        assert row["audio_class"]["status"] == row["audio_quality"]["status"] == "ok", row
        assert row["sample"]["width"] is None
    assert by_file["voice.wav"]["transcript"]["status"] == "ok"
    assert by_file["voice.wav"]["audio_quality"]["mos_overall"] > 1.0
    assert by_file["silent.wav"]["audio_class"]["kind"] == "silence"
    for file in ("rain.flac", "silent.wav"):
        assert by_file[file]["transcript"]["status"] == "not_applicable"
        assert by_file[file]["caption"]["speech"] is None
