"""Clips as files: what is written is what a player shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.generate.clip import Clip, write_clip
from training.generate.given import read_audio, read_video


def test_colours_and_waves_come_back(tmp_path: Path) -> None:
    """Without a matrix in the file a player would guess: saturated colours then move by 20."""
    path = tmp_path / "clip.mp4"
    frames = np.zeros((5, 32, 64, 3), np.uint8)
    frames[:, :, :32] = (220, 40, 30)
    frames[:, :, 32:] = (20, 200, 60)
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    write_clip(Clip(frames, wave, 24.0, 16_000), path)
    found = (read_video(path, frames=5, fps=24, width=64, height=32) + 1) * 127.5
    for columns in (slice(8, 24), slice(40, 56)):
        wanted = torch.from_numpy(frames[0, 0, columns.start]).float()
        assert found[..., columns].mean((1, 2, 3)).numpy() == pytest.approx(wanted, abs=4)
    audio = read_audio(path, samples=16_000, rate_hz=16_000).numpy()
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)
