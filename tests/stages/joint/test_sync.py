"""Offsets between mouths and voices: on arrays, on drawn faces and on real ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from curation.demo_bucket.clips import Shape, talking_face_clip
from manifests.errors import UsageError
from stages.base.clip import ClipTask, NotApplicable
from stages.joint.sync.embedded import MAX_OFFSET_FRAMES, align, mouth_measures, speech_envelope
from stages.joint.sync.stage import SyncParameters, SyncRecord, SyncStage
from stages.media.blocks import AudioBlock, FloatArray, SourceFormat
from stages.media.decode import decode_frames
from stages.media.probe import probe
from stages.media.proxy import luma_plane, upright

STAGE = SyncStage(SyncParameters(backend="embedded"))
GATE = 3.0
SMALL = Shape(width=640, height=360, fps=25, duration_s=5.6)


def syllables(frames: int, seed: int) -> FloatArray:
    """Something that opens and closes a few times a second: float64 [frames]."""
    noise = np.random.default_rng(seed).normal(size=frames + 40)
    kernel = np.hanning(7)
    return np.convolve(noise, kernel / kernel.sum(), mode="same")[20:-20]


def mouth_and_voice(offset: int, *, frames: int = 125, seed: int = 0) -> tuple[Any, Any]:
    """Noisy measures of a mouth and the envelope of its voice, `offset` frames early."""
    margin = MAX_OFFSET_FRAMES
    truth = syllables(frames + 4 * margin, seed)
    rng = np.random.default_rng(seed + 1)
    first = 2 * margin
    mouth = truth[first : first + frames]
    measures = np.stack([mouth + rng.normal(0.0, 0.2, frames) for _ in range(4)])
    voice = truth[first - margin + offset : first + frames + margin + offset]
    return measures, voice


@pytest.mark.parametrize("offset", [-15, -7, 0, 1, 10, 15])
def test_the_offset_is_found_with_its_sign(offset: int) -> None:
    measures, envelope = mouth_and_voice(offset, seed=abs(offset))
    found = align(measures, envelope)
    assert found is not None
    assert found.offset_frames == pytest.approx(offset, abs=0.5)
    assert found.confidence > GATE


def test_a_mouth_of_another_voice_has_no_confidence() -> None:
    above, lags = 0, []
    for seed in range(100):
        measures, _ = mouth_and_voice(0, seed=seed)
        found = align(measures, syllables(125 + 2 * MAX_OFFSET_FRAMES, 1000 + seed))
        assert found is not None
        above += found.confidence >= GATE
        lags.append(abs(found.offset_frames))
    assert above <= 10
    # Chance must not prefer the ends: 10 of 31 offsets lie beyond 10 frames.
    assert 0.15 < np.mean(np.array(lags) > 10.5) < 0.5


def test_unknown_sound_is_masked() -> None:
    measures, envelope = mouth_and_voice(-5)
    envelope[:20] = np.nan
    envelope[-18:] = np.nan
    found = align(measures, envelope)
    assert found is not None
    assert found.offset_frames == pytest.approx(-5, abs=0.5)
    assert align(measures, np.full_like(envelope, np.nan)) is None


def test_a_mouth_that_does_not_move_has_no_confidence() -> None:
    _, envelope = mouth_and_voice(0)
    found = align(np.ones((4, 125)), envelope)
    assert found is not None
    assert found.confidence == pytest.approx(0.0, abs=1e-6)


def test_measures_grow_as_a_mouth_opens() -> None:
    crops = np.full((20, 64, 64), 150, np.uint8)
    for index, crop in enumerate(crops):
        cv2.ellipse(crop, (32, 36), (10, 1 + index // 2), 0, 0, 360, 40, -1)
    profile, contrast, dark, motion = mouth_measures(crops)
    for measure in (profile, contrast, dark):
        assert measure[-1] > measure[0]
        assert np.corrcoef(measure, np.arange(20))[0, 1] > 0.9
    assert motion.shape == (20,)


def test_the_envelope_follows_speech_frequencies_only() -> None:
    rate_hz = 16_000
    time_s = np.arange(3 * rate_hz) / rate_hz
    rumble = 0.3 * np.sin(2 * np.pi * 50 * time_s)
    voice = 0.1 * np.sin(2 * np.pi * 800 * time_s) * (time_s > 1.0) * (time_s < 2.0)
    sound = AudioBlock(5.0, rate_hz, (rumble + voice).astype(np.float32)[:, None])
    times_s = 5.0 + np.arange(5, 70) / 25
    envelope = speech_envelope(sound, times_s, 5.4, 7.6)
    inside = (times_s > 6.05) & (times_s < 6.95)
    outside = (times_s > 5.5) & (times_s < 5.9)
    assert envelope[inside].min() > 3 * envelope[outside].max()
    assert np.isnan(envelope[times_s < 5.4]).all()
    assert np.isnan(envelope[times_s >= 7.6]).all()


def face_track(uri: str, source: SourceFormat, *, rate_hz: float = 2.0) -> dict[str, Any]:
    """The largest face at every half second, by OpenCV's cascade, as the stage `faces` has it."""
    cascade = cv2.CascadeClassifier(
        str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml")
    )
    row: dict[str, Any] = {
        name: [] for name in ("times_s", "left", "top", "width", "height", "mouth_x", "mouth_y")
    }
    next_s = 0.0
    for time_s, frame in decode_frames(uri, source, 0.0, source.duration_s):
        if time_s < next_s:
            continue
        next_s = time_s + 1 / rate_hz - 1e-3
        luma = upright(luma_plane(frame)[0], source.rotation_deg)
        height, width = luma.shape
        scale = 360 / min(height, width)
        small = cv2.resize(np.asarray(luma, np.uint8), None, fx=scale, fy=scale)
        boxes = cascade.detectMultiScale(small, 1.1, 4, minSize=(36, 36))
        if not len(boxes):
            continue
        box = max(boxes, key=lambda box: box[2])
        sides = np.array(small.shape)[[1, 0, 1, 0]]
        for name, value in zip(("left", "top", "width", "height"), box / sides, strict=True):
            row[name].append(float(value))
        row["times_s"].append(time_s)
        row["mouth_x"].append(None)
        row["mouth_y"].append(None)
    return {**row, "track_index": 7}


def measured(path: Path, start_s: float = 0.0, end_s: float | None = None) -> Any:
    uri = str(path)
    source = probe(uri)
    rows = {"face_tracks": [face_track(uri, source)]}
    return STAGE.measure(ClipTask("clip", uri, source, start_s, end_s or source.duration_s, rows))


@pytest.mark.parametrize(
    ("offset", "fps", "upright_turn"), [(0, 25, 0), (6, 30, 0), (-9, None, 0), (3, 24, 1)]
)
def test_drawn_faces_in_sync(
    tmp_path: Path, offset: int, fps: float | None, upright_turn: int
) -> None:
    path = tmp_path / "face.mp4"
    shape = dataclasses.replace(SMALL, fps=fps)
    if upright_turn:
        video = dataclasses.replace(shape.video, rotation_deg=90 * upright_turn)
        shape = dataclasses.replace(shape, video=video)
    talking_face_clip(path, offset, seed=50 + offset, shape=shape, upright_turn=upright_turn)
    record = measured(path)
    assert isinstance(record, SyncRecord)
    assert record.offset_frames == pytest.approx(offset, abs=1.0)
    assert record.confidence > GATE
    assert record.track == 7
    # A part of the clip tells the same.
    part = measured(path, 1.03, 4.9)
    assert part.offset_frames == pytest.approx(offset, abs=1.0)


@pytest.mark.parametrize("kind", ["swapped", "still"])
def test_drawn_faces_out_of_sync(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "face.mp4"
    talking_face_clip(path, 0, kind, seed=30, shape=SMALL)
    record = measured(path)
    assert isinstance(record, SyncRecord)
    assert record.confidence < GATE


def test_the_best_face_speaks_for_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "face.mp4"
    talking_face_clip(path, 2, seed=4, shape=SMALL)
    source = probe(str(path))
    speaker = face_track(str(path), source)
    # Another "face" of equal size, where nothing speaks.
    other = {**speaker, "track_index": 1, "left": [0.0] * len(speaker["left"])}
    rows = {"face_tracks": [other, speaker]}
    record = STAGE.measure(ClipTask("clip", str(path), source, 0.0, source.duration_s, rows))
    assert isinstance(record, SyncRecord)
    assert record.track == 7


@pytest.mark.parametrize(
    ("file", "offset", "sure"),
    [
        ("talking_head_en_grid_f1.mpg", 0, True),
        ("talking_head_en_grid_m1.mpg", 0, None),
        ("talking_head_retalk_02.mp4", 0, True),
        ("derived_async_audio_late_400ms.mp4", -10, None),
        ("derived_swapped_audio.mp4", None, False),
        ("face_not_talking_music.mp4", None, False),
    ],
)
def test_real_faces(given_clips: Path, file: str, offset: int | None, sure: bool | None) -> None:
    path = given_clips / file
    if not path.exists():
        pytest.skip("the real clips are not here")
    record = measured(path)
    assert isinstance(record, SyncRecord)
    if sure is not None:
        assert (record.confidence > GATE) == sure
    if offset is not None:
        assert record.offset_frames == pytest.approx(offset, abs=2.0)


def test_where_nothing_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "face.mp4"
    talking_face_clip(path, 0, seed=1, shape=dataclasses.replace(SMALL, duration_s=3.0))
    uri, source = str(path), probe(str(path))
    track = face_track(uri, source)
    none = STAGE.measure(ClipTask("clip", uri, source, 0.0, 3.0, {"face_tracks": []}))
    assert isinstance(none, NotApplicable)
    short = STAGE.measure(ClipTask("clip", uri, source, 0.0, 1.0, {"face_tracks": [track]}))
    assert isinstance(short, NotApplicable)
    silent = dataclasses.replace(source, audio_index=None)
    mute = STAGE.measure(ClipTask("clip", uri, silent, 0.0, 3.0, {"face_tracks": [track]}))
    assert isinstance(mute, NotApplicable)


def test_the_precondition_names_its_threshold() -> None:
    stage = SyncStage(SyncParameters(min_speech_ratio=0.25, backend="embedded"))
    assert stage.precondition == "speech.speech_ratio > 0.25 AND faces.kind <> 'none'"
    with pytest.raises(UsageError):
        SyncStage(SyncParameters(backend="lipnet"))
