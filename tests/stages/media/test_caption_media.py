"""What a request for a caption carries: pictures at the right times, the whole sound, few bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile

from curation.demo_bucket import Shape, VideoFormat, letterbox_clip, scenery_clip
from curation.demo_bucket.render import render_video
from manifests.errors import MediaError
from stages.media.blocks import Margins
from stages.media.caption_media import ClipMedia, ClipMediaTask, clip_media, sample_times_s
from stages.media.probe import probe

FAST = VideoFormat(options={"preset": "ultrafast"})


def media(
    path: Path, start_s: float = 0.0, end_s: float | None = None, **changes: Any
) -> ClipMedia:
    source = probe(str(path))
    end_s = source.duration_s if end_s is None else end_s
    options = {"margins_px": Margins(), **changes}
    return clip_media(ClipMediaTask("clip", str(path), source, start_s, end_s, **options))


def pictures(found: ClipMedia) -> list[np.ndarray]:
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in found.jpegs]


def test_times_are_the_middles_of_equal_parts() -> None:
    assert sample_times_s(10.0, 17.0, 7) == pytest.approx(
        [10.5, 11.5, 12.5, 13.5, 14.5, 15.5, 16.5]
    )


def test_seven_pictures_from_their_own_times(tmp_path: Path) -> None:
    """Every second is brighter than the one before."""
    times_s = np.arange(0.0, 7.0, 1 / 25)
    frames = ((float(t), np.full((96, 160, 3), 20 + 30 * int(t + 1e-6), np.uint8)) for t in times_s)
    render_video(tmp_path / "steps.mp4", frames, video=FAST)
    seen = pictures(media(tmp_path / "steps.mp4"))
    assert [float(picture.mean()) for picture in seen] == pytest.approx(
        [20 + 30 * second for second in range(7)], abs=4
    )
    later = pictures(media(tmp_path / "steps.mp4", 3.0, 5.0, frames=2))
    assert [float(picture.mean()) for picture in later] == pytest.approx([110, 140], abs=4)


def test_colours_are_as_in_the_clip(tmp_path: Path) -> None:
    red = np.full((96, 160, 3), (220, 30, 20), np.uint8)
    render_video(tmp_path / "red.mp4", ((i / 25, red) for i in range(25)), video=FAST)
    blue, green, seen_red = pictures(media(tmp_path / "red.mp4"))[3].mean(axis=(0, 1))
    assert (seen_red, green, blue) == pytest.approx((220, 30, 20), abs=12)


def test_even_noise_stays_within_the_bound(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = ((i / 8, rng.integers(0, 256, (800, 800, 3), np.uint8)) for i in range(8))
    fine = VideoFormat(options={"preset": "ultrafast", "crf": "4"})
    render_video(tmp_path / "noise.mp4", frames, video=fine)
    found = media(tmp_path / "noise.mp4")
    assert {picture.shape for picture in pictures(found)} == {(768, 768, 3)}
    assert 1.0e6 < sum(map(len, found.jpegs)) < 3.8e6


def test_pictures_are_small_enough_and_have_no_margins(tmp_path: Path) -> None:
    scenery_clip(tmp_path / "large.mp4", seed=1, shape=Shape(1920, 1080, 24, 1.0, video=FAST))
    found = media(tmp_path / "large.mp4")
    assert {picture.shape for picture in pictures(found)} == {(432, 768, 3)}
    assert sum(map(len, found.jpegs)) + len(found.wav or b"") < 1.5e6
    truth = letterbox_clip(
        tmp_path / "bars.mp4", seed=2, shape=Shape(320, 240, duration_s=1.0, video=FAST)
    )
    assert truth is not None
    cut = pictures(media(tmp_path / "bars.mp4", margins_px=Margins(top=40, bottom=40)))
    assert {picture.shape for picture in cut} == {(160, 320, 3)}


def test_the_sound_is_whole_and_plain(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, samples, rate_hz in (
        ("wide.wav", 0.5 * rng.standard_normal((192_000 * 2, 8)), 192_000),
        ("blip.wav", 0.1 * rng.standard_normal(9_600), 48_000),
        ("silent.wav", np.zeros(48_000), 48_000),
    ):
        soundfile.write(tmp_path / name, samples, rate_hz)
        found = media(tmp_path / name)
        assert found.jpegs == ()
        assert found.wav is not None
        info = soundfile.info(io.BytesIO(found.wav))
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.frames == pytest.approx(len(samples) / rate_hz * 16_000, abs=1)


def test_the_sound_is_that_of_the_span_and_is_not_clipped(tmp_path: Path) -> None:
    """A second of 440 Hz, then one of 880 Hz that passes full scale by half."""
    times_s = np.arange(48_000) / 48_000
    low, high = (np.sin(2 * np.pi * hz * times_s) for hz in (440, 880))
    track = np.concatenate([0.3 * low, 1.5 * high])
    soundfile.write(tmp_path / "tones.wav", track, 48_000, subtype="FLOAT")
    found = media(tmp_path / "tones.wav", 1.2, 1.8)
    assert found.wav is not None
    heard, rate_hz = soundfile.read(io.BytesIO(found.wav))
    wanted = np.sin(2 * np.pi * 880 * (0.2 + np.arange(len(heard)) / rate_hz))
    assert len(heard) == round(0.6 * rate_hz)
    assert heard == pytest.approx(wanted, abs=0.01)


def test_pictures_may_be_left_out_and_sound_may_be_missing(
    tmp_path: Path, given_clips: Path
) -> None:
    scenery_clip(tmp_path / "clip.mp4", seed=1, shape=Shape(160, 96, 24, 1.0, video=FAST))
    assert media(tmp_path / "clip.mp4", with_video=False).jpegs == ()
    mute = next(given_clips.glob("*no_audio*"))
    found = media(mute, 0.0, 0.2)
    assert found.wav is None and len(found.jpegs) == 7
    with pytest.raises(MediaError) as caught:
        media(mute, 0.0, 1.0, with_video=False)
    assert caught.value.code == "no_media"
