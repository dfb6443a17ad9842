"""Speech against synthetic voices with known pauses, and on real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from manifests.errors import UsageError
from stages.audio.speech import SpeechParameters, SpeechRecord, SpeechStage, speech_segments
from stages.base.clip import NotApplicable
from stages.base.signals import Observation
from stages.media.blocks import AudioBlock
from stages.media.decode import read_audio
from stages.media.probe import probe
from tests.support.voices import speech_with_pauses

STAGE = SpeechStage(SpeechParameters())
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "She sells sea shells by the sea shore, every single morning.",
    "How are you today, my friend?",
]
CHUNK_S = 0.032


def observe(block: AudioBlock, block_samples: int = 1024) -> Observation:
    observer = STAGE.observer(None)  # type: ignore[arg-type]  # the source is not looked at
    for first in range(0, len(block.samples), block_samples):
        start_s = block.start_s + first / block.rate_hz
        part = block.samples[first : first + block_samples]
        observer.audio(AudioBlock(start_s, block.rate_hz, part))
    return observer.finish(block.start_s, block.start_s + len(block.samples) / block.rate_hz)


def ratio(observation: Observation, start_s: float, end_s: float) -> float:
    record = STAGE.summarise(observation.signals, start_s, end_s, observation.side_rows)
    assert isinstance(record, SpeechRecord)
    return record.speech_ratio


def with_room(samples: npt.NDArray[np.float32], seed: int = 0) -> npt.NDArray[np.float32]:
    """Stereo, with a little noise: digital silence between words would be too easy."""
    noise = np.random.default_rng(seed).normal(0.0, 1e-3, (len(samples), 2))
    return (samples[:, None] + noise).astype(np.float32)


@pytest.mark.parametrize("voice", ["en", "de", "fr", "es"])
def test_the_share_of_speech_is_right(voice: str) -> None:
    samples, rate_hz, spans_s = speech_with_pauses(TEXTS, [0.8, 1.5, 2.0, 0.6], voice=voice)
    start_s, length_s = 3.2, len(samples) / rate_hz
    observation = observe(AudioBlock(start_s, rate_hz, with_room(samples)))
    truth = sum(end - start for start, end in spans_s) / length_s
    assert ratio(observation, start_s, start_s + length_s) == pytest.approx(truth, abs=0.1)
    # Over every text alone there is little else, over every pause nothing.
    for first_s, last_s in spans_s:
        assert ratio(observation, start_s + first_s, start_s + last_s) > 0.75
    assert ratio(observation, start_s + spans_s[0][1] + 0.25, start_s + spans_s[1][0] - 0.1) < 0.1


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_times_are_right_at_every_rate(rate_hz: int) -> None:
    import soxr

    samples, voice_rate_hz, spans_s = speech_with_pauses(TEXTS[:1], [1.0, 1.0])
    resampled = soxr.resample(samples, voice_rate_hz, rate_hz)
    observation = observe(AudioBlock(0.0, rate_hz, with_room(resampled)))
    rows = observation.side_rows["speech_segments"]
    assert rows[0]["start_s"] == pytest.approx(spans_s[0][0], abs=0.08)
    assert rows[-1]["end_s"] == pytest.approx(spans_s[0][1], abs=0.15)


def test_the_length_of_blocks_does_not_matter() -> None:
    samples, rate_hz, _ = speech_with_pauses(TEXTS[:2], [0.4, 0.7, 0.3])
    block = AudioBlock(0.0, rate_hz, with_room(samples))
    one, other = observe(block, 400), observe(block, 100_000)
    np.testing.assert_allclose(
        one.signals.series["probability"], other.signals.series["probability"], atol=1e-3
    )


def test_a_gap_in_the_sound_keeps_later_times_right() -> None:
    samples, rate_hz, spans_s = speech_with_pauses(TEXTS[:1], [0.5, 0.5])
    sound = with_room(samples)
    observer = STAGE.observer(None)  # type: ignore[arg-type]
    observer.audio(AudioBlock(0.0, rate_hz, sound))
    observer.audio(AudioBlock(10.0, rate_hz, sound))
    observation = observer.finish(0.0, 15.0)
    later = [row for row in observation.side_rows["speech_segments"] if row["start_s"] >= 9.0]
    assert later[0]["start_s"] == pytest.approx(10.0 + spans_s[0][0], abs=0.08)
    assert np.isnan(observation.signals.series["probability"][60]).all()
    assert isinstance(
        STAGE.summarise(observation.signals, 6.0, 8.0, observation.side_rows), NotApplicable
    )


@pytest.mark.parametrize(
    ("file", "least", "most"),
    [
        ("audio_speech_en_jfk.flac", 0.5, 0.9),
        ("audio_speech_zh_female.wav", 0.8, 1.0),
        ("audio_speech_de_24bit.wav", 0.6, 0.95),
        ("audio_sfx_rain.mp3", 0.0, 0.05),
        ("audio_music_sax.wav", 0.0, 0.15),
        ("face_not_talking_music.mp4", 0.0, 0.1),
        ("multishot_dissolve_multistream_nasa.mp4", 0.6, 1.0),
        ("static_painting_silent_track.mp4", 0.0, 0.0),
    ],
)
def test_real_sounds(given_clips: Path, file: str, least: float, most: float) -> None:
    path = given_clips / file
    if not path.exists():
        pytest.skip("the real clips are not here")
    source = probe(str(path))
    end_s = min(source.duration_s, 15.0)
    observation = observe(read_audio(str(path), source, 0.0, end_s))
    assert least <= ratio(observation, 0.0, end_s) <= most


def test_segments_follow_two_thresholds() -> None:
    starts_s = [index * CHUNK_S for index in range(60)]
    probabilities = [0.1] * 10 + [0.9] * 20 + [0.4] * 10 + [0.1] * 20
    (segment,) = speech_segments(starts_s, probabilities, SpeechParameters(pad_s=0.0))
    # Between the thresholds speech goes on.
    assert segment.start_s == pytest.approx(10 * CHUNK_S)
    assert segment.end_s == pytest.approx(40 * CHUNK_S)


def test_short_bursts_and_short_pauses_are_passed_over() -> None:
    starts_s = [index * CHUNK_S for index in range(60)]
    burst = [0.1] * 20 + [0.9] * 3 + [0.1] * 37
    assert speech_segments(starts_s, burst, SpeechParameters()) == []
    pause = [0.9] * 20 + [0.1] * 2 + [0.9] * 38
    assert len(speech_segments(starts_s, pause, SpeechParameters())) == 1


def test_the_detector_starts_no_threads_and_leaves_the_environment_alone() -> None:
    # In a process of its own: the wheel's OpenMP library reads the limit only when it is loaded.
    code = """
import os, psutil
from stages.audio.speech import _detector
before = psutil.Process().num_threads()
detector = _detector()
for _ in range(50):
    detector.process_samples([0.01] * 512)
assert "OMP_THREAD_LIMIT" not in os.environ
print(psutil.Process().num_threads() - before)
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_THREAD_LIMIT"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert int(found.stdout) <= 1


def test_no_sound_is_not_applicable() -> None:
    observer = STAGE.observer(None)  # type: ignore[arg-type]
    observation = observer.finish(0.0, 5.0)
    assert isinstance(
        STAGE.summarise(observation.signals, 0.0, 5.0, observation.side_rows), NotApplicable
    )


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(UsageError):
        SpeechStage(SpeechParameters(backend="webrtc"))
    assert STAGE.backend.weights_sha256 is not None
