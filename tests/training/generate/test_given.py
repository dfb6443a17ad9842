"""Files that a user gives: by time, upright, at any rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from curation.demo_bucket import Shape, VideoFormat, scenery_clip
from training.generate.given import displayed_size, read_audio, read_image, read_video


def test_videos_are_read_by_time(tmp_path: Path) -> None:
    """At 12 frames a second each second frame of 24 is seen; a short video holds its last."""
    path = tmp_path / "clip.mp4"
    scenery_clip(path, seed=5, shape=Shape(64, 36, 24, 1.0))
    every = read_video(path, frames=24, fps=24, width=64, height=36)
    half = read_video(path, frames=12, fps=12, width=64, height=36)
    assert (half - every[:, ::2]).abs().amax() < 1e-6 or (half - every[:, 1::2]).abs().amax() < 1e-6
    longer = read_video(path, frames=30, fps=24, width=64, height=36)
    assert (longer[:, 24:] == longer[:, 23:24]).all()


def test_a_turned_video_is_upright_and_cropped_at_the_middle(tmp_path: Path) -> None:
    """Stored as 48 x 96, shown as 96 x 48."""
    path = tmp_path / "turned.mp4"
    video = VideoFormat(rotation_deg=90)
    scenery_clip(path, seed=5, shape=Shape(96, 48, 24, 0.2, video=video))
    assert displayed_size(path) == (96, 48)
    whole = read_image(path, width=96, height=48)
    square = read_image(path, width=48, height=48)
    assert (square - whole[..., 24:72]).abs().mean() < 0.03
    assert (square - whole[..., :48]).abs().mean() > 0.1


def test_audio_files_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    times = np.arange(48_000) / 48_000
    soundfile.write(path, np.sin(2 * np.pi * 440 * times).astype(np.float32), 48_000)
    audio = read_audio(path, samples=20_000, rate_hz=16_000).numpy()
    assert np.abs(audio[16_200:]).max() < 1e-4
    audio = audio[:16_000]
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    assert np.argmax(spectrum) * 16_000 / len(audio) == pytest.approx(440, abs=2)
