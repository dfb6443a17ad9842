"""Transcripts: a tiny Whisper with made-up weights, through the code that loads the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile

from manifests.errors import MediaError, UsageError
from stages.audio.clip_audio import ClipAudio
from stages.audio.transcript import TranscriptParameters, TranscriptStage
from stages.base.clip import ClipTask, Findings, NotApplicable
from stages.media.probe import probe
from stages.weights.find import WEIGHTS_VARIABLE
from tests.support.made_up_whisper import write_whisper
from tests.support.voices import say


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("weights")
    write_whisper(found)
    return found


@pytest.fixture
def stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TranscriptStage:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    return TranscriptStage(TranscriptParameters(enabled=True))


def clip(seed: int, seconds: float = 5.0, level: float = 0.1) -> ClipAudio:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * 16_000))
    return ClipAudio(f"{seed}.wav", 10.0, 10.0 + seconds, np.float32(level * noise))


def task(path: Path, start_s: float = 0.0, end_s: float | None = None) -> ClipTask:
    source = probe(str(path))
    end_s = source.duration_s if end_s is None else end_s
    return ClipTask("clip", str(path), source, start_s, end_s, {})


def findings(stage: TranscriptStage, *clips: ClipAudio) -> list[Any]:
    found = stage.infer(stage.load("cpu"), clips)
    assert all(isinstance(one, Findings) for one in found)
    return found


def test_words_lie_in_the_clip_in_order_and_make_up_the_text(stage: TranscriptStage) -> None:
    for seed in range(4):
        [found] = findings(stage, clip(seed))
        rows = found.side_rows["words"]
        assert rows and found.record.words == len(rows)
        assert "".join(row["word"] for row in rows) == found.record.text.replace(" ", "")
        for row in rows:
            assert 10.0 <= row["start_s"] <= row["end_s"] <= 15.0
            assert 0.0 <= row["probability"] <= 1.0
        starts_s = [row["start_s"] for row in rows]
        assert starts_s == sorted(starts_s)
        assert found.record.language == "en"
        assert found.record.mean_log_probability < 0.0


def test_the_language_is_detected_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whisper(tmp_path, hears="de")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    for asked, language in ((None, "de"), ("fr", "fr")):
        [found] = findings(TranscriptStage(TranscriptParameters(language=asked)), clip(0))
        assert found.record.language == language
        assert found.record.words > 0
        if asked is None:
            assert 0.5 < found.record.language_probability < 1.0
        else:
            assert found.record.language_probability == 1.0


@pytest.mark.parametrize("language", ["english", "eng", ""])
def test_an_unknown_language_is_a_usage_error(folder: Path, language: str) -> None:
    with pytest.raises(UsageError) as caught:
        TranscriptStage(TranscriptParameters(language=language))
    assert caught.value.code == "unknown_language"


def test_a_lost_device_is_no_clips_failure(
    stage: TranscriptStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stage.load("cpu")
    lost = RuntimeError("CUDA failed with error an illegal memory access was encountered")
    monkeypatch.setattr(model, "transcribe", mock.Mock(side_effect=lost))
    with pytest.raises(RuntimeError, match="CUDA"):
        stage.infer(model, [clip(0)])


def test_a_device_without_its_libraries_is_found_out_before_the_first_clip(
    stage: TranscriptStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")
    monkeypatch.setattr("faster_whisper.WhisperModel.encode", mock.Mock(side_effect=missing))
    with pytest.raises(UsageError) as caught:
        stage.load("cpu")
    assert caught.value.code == "model_cannot_run"
    assert "nvidia-cublas-cu12" in str(caught.value)


def test_a_clip_has_the_same_words_alone_and_in_any_batch(stage: TranscriptStage) -> None:
    clips = [clip(seed, seconds) for seed, seconds in enumerate((5.0, 1.0, 3.0))]
    alone = [findings(stage, one)[0] for one in clips]
    assert findings(stage, *clips) == alone
    assert findings(stage, *reversed(clips)) == alone[::-1]


def test_a_clip_that_fails_costs_only_itself(stage: TranscriptStage) -> None:
    # What is not one row of numbers cannot be turned into a spectrogram.
    broken = ClipAudio("broken.wav", 0.0, 5.0, np.zeros((3, 16_000, 2), np.float32))
    good = clip(1)
    found = stage.infer(stage.load("cpu"), [good, broken, good])
    assert isinstance(found[1], MediaError)
    assert (found[1].code, found[1].subject) == ("transcription_failed", "broken.wav")
    assert found[0] == found[2] == findings(stage, good)[0]


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_short_and_silent_clips_are_recorded(stage: TranscriptStage, seconds: float) -> None:
    for level in (0.0, 0.1):
        [found] = findings(stage, clip(0, seconds, level))
        assert all(row["end_s"] <= 10.0 + seconds for row in found.side_rows["words"])


def test_a_blink_is_too_short_to_hold_a_word(stage: TranscriptStage, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "blink.wav", np.ones(480, np.float32), 48_000)
    assert isinstance(stage.prepare(task(tmp_path / "blink.wav")), NotApplicable)


def test_files_of_many_channels_and_rates_are_heard(stage: TranscriptStage, tmp_path: Path) -> None:
    voice, rate_hz = say("good morning to you all")
    soundfile.write(tmp_path / "plain.wav", voice, rate_hz)
    wide = np.repeat(np.repeat(voice, 8)[:, None], 8, axis=1)
    soundfile.write(tmp_path / "wide.wav", wide, rate_hz * 8)
    for name in ("plain.wav", "wide.wav"):
        prepared = stage.prepare(task(tmp_path / name))
        assert isinstance(prepared, ClipAudio)
        assert len(prepared.samples) == pytest.approx(len(voice) * 16_000 / rate_hz, abs=2)
        findings(stage, prepared)


def test_no_sound_is_not_applicable(stage: TranscriptStage, given_clips: Path) -> None:
    mute = next(
        path for path in sorted(given_clips.rglob("*.mp4")) if path.stat().st_size and _mute(path)
    )
    assert isinstance(stage.prepare(task(mute)), NotApplicable)


def _mute(path: Path) -> bool:
    try:
        return probe(str(path)).audio_index is None
    except MediaError:
        return False


def test_missing_weights_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        TranscriptStage(TranscriptParameters())
    assert caught.value.code == "missing_weights"
    for word in ("stages.transcript", "model.bin", "twinreel weights fetch whisper-large-v3"):
        assert word in str(caught.value)


def test_damaged_weights_are_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_whisper(tmp_path) / "model.bin"
    model.write_bytes(model.read_bytes()[:1000])
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    stage = TranscriptStage(TranscriptParameters())
    with pytest.raises(UsageError) as caught:
        stage.load("cpu")
    assert caught.value.code == "bad_weights"


def test_an_unknown_backend_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        TranscriptStage(TranscriptParameters(backend="whisper_huge"))
    assert caught.value.code == "unknown_backend"
