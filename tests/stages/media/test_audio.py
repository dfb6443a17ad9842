"""A span's sound for models: exact length, exact place, whatever the file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests.errors import MediaError
from stages.media.audio import mono_audio
from stages.media.probe import probe


def write(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return path


def read(path: Path, start_s: float, end_s: float, rate_hz: int = 16_000) -> np.ndarray:
    return mono_audio(str(path), probe(str(path)), start_s, end_s, rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000, 192_000])
def test_an_impulse_stays_where_it_is(tmp_path: Path, rate_hz: int) -> None:
    samples = np.zeros(2 * rate_hz, np.float32)
    samples[round(1.25 * rate_hz)] = 1.0
    sound = read(write(tmp_path / "impulse.wav", samples, rate_hz), 0.5, 1.7)
    assert len(sound) == 19_200
    assert sound.dtype == np.float32
    assert np.argmax(np.abs(sound)) == pytest.approx(0.75 * 16_000, abs=1)


def test_channels_are_mixed_to_one(tmp_path: Path) -> None:
    samples = np.zeros((16_000, 2), np.float32)
    samples[:, 0] = 0.5
    path = write(tmp_path / "stereo.wav", samples, 16_000)
    assert read(path, 0.2, 0.8) == pytest.approx(0.25, abs=1e-3)
    wide = np.random.default_rng(0).standard_normal((192_000, 8)).astype(np.float32)
    assert len(read(write(tmp_path / "wide.wav", 0.1 * wide, 192_000), 0.0, 1.0)) == 16_000


def test_beyond_the_source_there_is_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "short.wav", np.full(8_000, 0.5, np.float32), 16_000)
    sound = read(path, -0.5, 1.0)
    assert len(sound) == 24_000
    assert not sound[:7_900].any()
    assert sound[8_200:15_800] == pytest.approx(0.5, abs=1e-3)
    assert not sound[16_100:].any()


def test_what_is_no_number_is_silence(tmp_path: Path) -> None:
    samples = np.full(16_000, 0.1, np.float32)
    samples[4_000:4_010] = np.nan
    samples[8_000] = np.inf
    assert np.isfinite(read(write(tmp_path / "nan.wav", samples, 16_000), 0.0, 1.0)).all()


def test_pictures_alone_have_no_sound(given_clips: Path) -> None:
    path = next(given_clips.glob("*no_audio*"))
    with pytest.raises(MediaError) as caught:
        read(path, 0.0, 1.0)
    assert caught.value.code == "no_audio"
