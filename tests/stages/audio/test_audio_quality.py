"""How clean sound is: known noise levels, and DNSMOS as its own package gives it."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from manifests.errors import UsageError
from stages.audio.audio_quality import (
    AudioQualityParameters,
    AudioQualityRecord,
    AudioQualityStage,
    dnsmos,
    signal_to_noise_db,
)
from stages.base.clip import ClipTask, NotApplicable
from stages.media.heartbeat import heard_by
from stages.media.probe import probe
from tests.support.voices import speech_with_pauses

STAGE = AudioQualityStage(AudioQualityParameters())
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def voice() -> tuple[np.ndarray[Any, Any], list[tuple[float, float]]]:
    """Speech between pauses, and where it is: twice that fills one of DNSMOS's windows."""
    texts = ["good morning", "to all of you", "my friends"]
    samples, rate_hz, segments = speech_with_pauses(texts, [0.5, 0.6, 0.7, 0.9])
    assert 9.1 < 2 * len(samples) / rate_hz < 10.0
    samples = np.asarray(soxr.resample(samples, rate_hz, RATE_HZ), np.float32)
    return samples, [(float(start_s), float(end_s)) for start_s, end_s in segments]


def with_noise(
    voice: tuple[np.ndarray[Any, Any], list[tuple[float, float]]], snr_db: float
) -> np.ndarray[Any, Any]:
    """The voice with white noise so far below its own level while it speaks."""
    samples, segments = voice
    spoken = np.concatenate(
        [samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)] for start_s, end_s in segments]
    )
    level = np.sqrt(np.mean(spoken**2) / 10 ** (snr_db / 10))
    noise = np.random.default_rng(0).standard_normal(len(samples))
    return np.float32(samples + level * noise)


def task(path: Path, ratio: float = 0.6, segments: Any = (), start_s: float = 0.0) -> ClipTask:
    source = probe(str(path))
    rows = [{"start_s": start, "end_s": end} for start, end in segments]
    return ClipTask(
        "clip", str(path), source, start_s, source.duration_s, {"speech_segments": rows},
        {"speech": {"speech_ratio": ratio}, "loudness": {"mean_volume_db": -20.0}},
    )  # fmt: skip


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0, 30.0])
def test_the_ratio_is_that_of_the_noise_that_was_added(voice: Any, snr_db: float) -> None:
    found = signal_to_noise_db(with_noise(voice, snr_db), voice[1], RATE_HZ)
    assert found == pytest.approx(snr_db, abs=2.0)


def test_without_speech_or_pauses_there_is_no_ratio(voice: Any) -> None:
    samples, _ = voice
    assert signal_to_noise_db(samples, [], RATE_HZ) is None
    assert signal_to_noise_db(samples, [(-1.0, 100.0)], RATE_HZ) is None
    assert signal_to_noise_db(np.zeros(RATE_HZ, np.float32), [(0.2, 0.5)], RATE_HZ) is None
    assert signal_to_noise_db(np.zeros(0, np.float32), [], RATE_HZ) is None


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_missing_sound_is_no_pause(voice: Any, snr_db: float) -> None:
    missing = np.zeros(RATE_HZ, np.float32)
    samples = np.concatenate([missing, with_noise(voice, snr_db), missing])
    segments = [(start_s + 1.0, end_s + 1.0) for start_s, end_s in voice[1]]
    plain = signal_to_noise_db(with_noise(voice, snr_db), voice[1], RATE_HZ)
    assert signal_to_noise_db(samples, segments, RATE_HZ) == pytest.approx(plain, abs=0.01)


def test_the_scores_are_those_of_the_package_and_fall_with_noise(
    voice: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime
    from speechmos import dnsmos as package

    # The package's sessions take all cores, and wait for each other in loops.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = functools.partial(onnxruntime.InferenceSession, sess_options=options)
    monkeypatch.setattr(package, "ort", SimpleNamespace(InferenceSession=session))
    scores = []
    for snr_db in (60.0, 20.0, 5.0):
        samples = with_noise(voice, snr_db)
        path = tmp_path / f"{snr_db}.wav"
        soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
        record = STAGE.measure(task(path, segments=voice[1]))
        assert isinstance(record, AudioQualityRecord)
        plain = package.run(samples, RATE_HZ)
        assert record.mos_overall == pytest.approx(plain["ovrl_mos"], abs=1e-4)
        assert record.mos_signal == pytest.approx(plain["sig_mos"], abs=1e-4)
        assert record.mos_background == pytest.approx(plain["bak_mos"], abs=1e-4)
        assert record.mos_p808 == pytest.approx(plain["p808_mos"], abs=1e-4)
        assert record.snr_db is not None
        scores.append(record)
    for better, worse in itertools.pairwise(scores):
        assert better.mos_background > worse.mos_background
        assert better.mos_overall > worse.mos_overall
        assert better.snr_db > worse.snr_db


def test_segments_are_those_of_the_source_not_of_the_clip(voice: Any, tmp_path: Path) -> None:
    samples = with_noise(voice, 20.0)
    later = np.concatenate([np.zeros(2 * RATE_HZ, np.float32), samples])
    soundfile.write(tmp_path / "later.wav", later, RATE_HZ, subtype="FLOAT")
    moved = [(start_s + 2.0, end_s + 2.0) for start_s, end_s in voice[1]]
    found = STAGE.measure(task(tmp_path / "later.wav", segments=moved, start_s=2.0))
    assert isinstance(found, AudioQualityRecord)
    assert found.snr_db == pytest.approx(20.0, abs=2.0)


def test_a_clip_without_speech_has_no_score(voice: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", with_noise(voice, 0.0), RATE_HZ)
    found = STAGE.measure(task(tmp_path / "rain.wav", ratio=0.0))
    assert found == AudioQualityRecord(None, None, None, None, None)


def test_any_sound_is_recorded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Doubled until they fill a window, all come to 9.6 s: one window.
    soundfile.write(tmp_path / "wide.wav", 2.0 * rng.standard_normal((115_200, 8)), 192_000)
    soundfile.write(tmp_path / "short.wav", 0.1 * rng.standard_normal(7_200), 48_000)
    soundfile.write(tmp_path / "blink.wav", 0.1 * rng.standard_normal(480), 48_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(28_800, np.float32), 48_000)
    for name in ("wide.wav", "short.wav", "blink.wav", "silent.wav"):
        found = STAGE.measure(task(tmp_path / name, segments=[(0.0, 0.05)]))
        assert isinstance(found, AudioQualityRecord)
        scores = (found.mos_overall, found.mos_signal, found.mos_background, found.mos_p808)
        assert all(score is None or np.isfinite(score) for score in scores), name
        assert (found.mos_overall is None) == (name == "blink.wav")


def test_every_window_is_a_sign_of_life(voice: Any) -> None:
    beats: list[int] = []
    with heard_by(lambda: beats.append(1)):
        dnsmos(np.tile(voice[0], 8)[: 14 * RATE_HZ])
    # Windows of 9.01 s, a second apart, each seen by two networks.
    assert len(beats) >= 2 * 5


def test_loud_sound_is_turned_down_not_refused() -> None:
    loud = np.float32(3.0 * np.random.default_rng(0).standard_normal(RATE_HZ * 6 // 10))
    assert 1.0 <= dnsmos(loud)["ovrl_mos"] <= 5.0


def test_no_sound_is_not_applicable(given_clips: Path) -> None:
    for path in sorted(given_clips.rglob("*.mp4")):
        if path.stat().st_size > 10_000 and (source := _probed(path)) is not None:
            clip = ClipTask("clip", str(path), source, 0.0, 1.0, {})
            assert isinstance(STAGE.measure(clip), NotApplicable)
            return
    pytest.fail("no clip without sound")


def _probed(path: Path) -> Any:
    try:
        source = probe(str(path))
    except Exception:
        return None
    return source if source.audio_index is None else None


def test_the_hash_is_of_the_wheels_weights() -> None:
    assert STAGE.backend.name == "dnsmos"
    assert STAGE.backend.weights_sha256 and len(STAGE.backend.weights_sha256) == 64


def test_an_unknown_backend_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        AudioQualityStage(AudioQualityParameters(backend="pesq"))
    assert caught.value.code == "unknown_backend"
