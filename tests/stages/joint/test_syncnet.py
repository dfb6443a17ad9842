"""The backend `syncnet`: the reference's numbers, and drawn faces with made-up weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from curation.demo_bucket.clips import Shape, talking_face_clip
from manifests.errors import UsageError
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.joint.sync.embedded import MAX_OFFSET_FRAMES, align, mouth_measures
from stages.joint.sync.stage import SyncParameters, SyncRecord, SyncStage
from stages.joint.sync.syncnet import ClipFaces, FaceAndVoice
from stages.media.blocks import FloatArray, SourceFormat
from stages.media.probe import probe
from stages.models.syncnet import SyncNet, distances, window_count
from tests.conftest import SHARED
from tests.golden.__main__ import main, run
from tests.stages.joint.test_sync import face_track
from tests.support.made_up_weights import filled

GOLDEN = SHARED / "golden" / "syncnet.safetensors"
SMALL = Shape(width=640, height=360, fps=25, duration_s=5.6)
WIDE = SyncParameters(backend="syncnet", min_side_px=60)
"""Faces of small clips are looked at, too."""
MASKED = WIDE.model_copy(update={"mode": "masked"})
"""On a dozen frames padding would be all that `exact` sees."""


@pytest.fixture(scope="module")
def made_up_state() -> dict[str, Tensor]:
    return dict(filled(SyncNet()).state_dict())


@pytest.fixture(scope="module")
def weights_folder(
    made_up_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    # The published file is as old as this format.
    path = folder / "syncnet_v2.model"
    torch.save(made_up_state, path, _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture
def weights(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWINREEL_WEIGHTS", str(weights_folder))
    return weights_folder


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWINREEL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A clip with the track of its face."""

    path: Path
    source: SourceFormat
    track: dict[str, Any]

    def task(self, start_s: float = 0.0, end_s: float | None = None, **changes: Any) -> ClipTask:
        rows = {"face_tracks": changes.pop("tracks", [self.track])}
        source = dataclasses.replace(self.source, **changes)
        return ClipTask(
            "clip", str(self.path), source, start_s, end_s or self.source.duration_s, rows
        )


def rendered(path: Path, offset: int, *, fps: float | None = 25, seed: int = 20) -> Rendered:
    talking_face_clip(path, offset, seed=seed, shape=dataclasses.replace(SMALL, fps=fps))
    source = probe(str(path))
    return Rendered(path, source, face_track(str(path), source))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return rendered(tmp_path_factory.mktemp("clips") / "face.mp4", 0)


# The model and its statistics


def test_the_reference_numbers_are_met() -> None:
    checks = run(GOLDEN)
    assert {one.output for one in checks} >= {
        "mid.mfcc",
        "out.lip",
        "out.audio",
        "out.mean_distance",
        "out.offset",
        "out.confidence",
        "features.out.mean_distance",
        "features.out.offset",
        "features.out.confidence",
    }
    assert not [one for one in checks if not one.ok]


def features_file(path: Path, *, spoil: float = 0.0) -> Path:
    """Features of another shape and shift than the shared file's, by the definition itself."""
    rng = np.random.default_rng(3)
    lip, audio = (rng.normal(size=(41, 24)).astype(np.float32) for _ in range(2))
    padded = np.pad(audio, ((4, 4), (0, 0)))
    mean = np.array(
        [np.linalg.norm(lip - padded[i : i + 41] + 1e-6, axis=1).mean() for i in range(9)]
    )
    tensors = {
        "features.in.lip": lip,
        "features.in.audio": audio,
        "features.out.mean_distance": (mean + spoil).astype(np.float32),
        "features.out.offset": np.array([4 - mean.argmin()]),
        "features.out.confidence": np.array([np.median(mean) - mean.min()], np.float32),
    }
    save_file(
        {name: torch.from_numpy(value) for name, value in tensors.items()},
        path,
        {"features_vshift": "4"},
    )
    return path


def test_the_runner_takes_other_files_and_tells_right_from_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = features_file(tmp_path / "good.safetensors")
    assert main([str(good)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.endswith("ok") for line in lines)
    wrong = features_file(tmp_path / "wrong.safetensors", spoil=0.01)
    assert main([str(good), str(wrong)]) == 1
    assert capsys.readouterr().out.count("NOT OK") == 1
    unknown = tmp_path / "unknown.safetensors"
    save_file({"weight": torch.zeros(2)}, unknown)
    assert main([str(unknown), str(SHARED / "golden" / "unipc.safetensors")]) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith("unknown kind of golden file")
    assert len(others) == 9 and all(line.endswith("ok") for line in others)


def test_the_state_dict_has_the_reference_layout(made_up_state: dict[str, Tensor]) -> None:
    assert sum(value.numel() for value in made_up_state.values()) == pytest.approx(13.6e6, rel=0.01)
    assert window_count(126, 126 * 640) == 121
    assert window_count(126, 100 * 640 + 639) == 95
    assert window_count(3, 3 * 640) == 0


def shifted_features(windows: int, offset: int, likeness: float) -> tuple[Tensor, Tensor]:
    """A voice that leads the mouth by `offset` frames, alike by 0 (not at all) to 1."""
    random = torch.Generator().manual_seed(windows)
    steps = torch.randn(windows + 40, 1024, generator=random) / 32
    noise = torch.randn(windows, 1024, generator=random) / 32
    lips = steps[20 : 20 + windows]
    voice = likeness * steps[20 + offset : 20 + offset + windows]
    return lips, voice + (1 - likeness**2) ** 0.5 * noise


@pytest.mark.parametrize("offset", [-12, 0, 12])
def test_masked_mode_finds_offsets_that_padding_hides(offset: int) -> None:
    lips, voice = shifted_features(20, offset, 0.15)
    masked = distances(lips, voice, mode="masked")
    assert masked.offset_frames == offset
    assert masked.least == pytest.approx(masked.mean[MAX_OFFSET_FRAMES - offset])
    # A voice of zeros is nearer to any mouth than another mouth's voice is.
    assert abs(distances(lips, voice).offset_frames) == MAX_OFFSET_FRAMES
    # Where much overlaps, the two agree.
    lips, voice = shifted_features(400, offset, 0.8)
    found = [distances(lips, voice, mode=mode) for mode in ("exact", "masked")]
    assert [one.offset_frames for one in found] == [offset, offset]
    assert found[0].confidence == pytest.approx(found[1].confidence, rel=0.1)


def test_offsets_without_a_partner_do_not_count() -> None:
    lips, voice = shifted_features(6, 3, 1.0)
    found = distances(lips, voice, mode="masked")
    assert found.offset_frames == 3
    assert np.isnan(found.mean).sum() == 20
    assert np.isfinite(found.confidence)


# Weights


def test_auto_is_syncnet_where_its_weights_are(weights: Path) -> None:
    stage = SyncStage(SyncParameters())
    assert stage.backend.name == "syncnet"
    assert len(stage.backend.weights_sha256 or "") == 64
    assert SyncStage.weights("syncnet") == ("syncnet",)
    assert SyncStage(SyncParameters(backend="embedded")).backend.name == "embedded"


def test_without_torch_auto_is_embedded_and_syncnet_a_usage_error(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "torch" else find_spec(name, package),
    )
    assert SyncStage(SyncParameters(backend="auto")).backend.name == "embedded"
    with pytest.raises(UsageError) as caught:
        SyncStage(SyncParameters(backend="syncnet"))
    assert caught.value.code == "missing_package"


def test_missing_weights_are_named_with_the_command(no_weights: Path) -> None:
    assert SyncStage(SyncParameters()).backend.name == "embedded"
    with pytest.raises(UsageError) as caught:
        SyncStage(SyncParameters(backend="syncnet"))
    assert (caught.value.code, caught.value.subject) == ("missing_weights", "stages.sync.backend")
    assert "syncnet_v2.model" in str(caught.value)
    assert "twinreel weights fetch syncnet" in str(caught.value)


def test_converted_and_old_weights_are_read(
    no_weights: Path, made_up_state: dict[str, Tensor]
) -> None:
    old = {name: value for name, value in made_up_state.items() if "num_batches" not in name}
    save_file(old, no_weights / "syncnet_v2.safetensors")
    loaded = SyncStage(SyncParameters()).load("cpu")
    weight = loaded.state_dict()["netfclip.3.weight"]
    assert torch.equal(weight, made_up_state["netfclip.3.weight"])
    assert not loaded.training


def test_weights_that_are_none_are_refused(
    no_weights: Path, made_up_state: dict[str, Tensor]
) -> None:
    torch.save(SyncNet(), no_weights / "syncnet_v2.model")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        SyncStage(SyncParameters()).load("cpu")
    assert caught.value.code == "bad_weights"
    torch.save(
        {**made_up_state, "netfclip.3.bias": torch.zeros(7)}, no_weights / "syncnet_v2.model"
    )
    with pytest.raises(UsageError, match="does not fit"):
        SyncStage(SyncParameters()).load("cpu")


# The stage


def made_up_faces(seed: int, *frames: int) -> ClipFaces:
    """Noise, so dark and faint that distances come to tens, as with real weights."""
    rng = np.random.default_rng(seed)
    return ClipFaces(
        tuple(
            FaceAndVoice(
                track,
                rng.integers(0, 3, (count, 224, 224, 3), np.uint8),
                rng.normal(0, 0.1, (4 * count - 1, 13)).astype(np.float32),
            )
            for track, count in enumerate(frames)
        )
    )


def test_a_clip_comes_to_the_same_in_any_batch(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.models.syncnet.WINDOWS_AT_ONCE", 6)
    stage = SyncStage(MASKED)
    model = stage.load("cpu")
    batch = [made_up_faces(1, 12, 9), made_up_faces(2, 14), made_up_faces(3, 7)]
    alone = [stage.infer(model, [one])[0] for one in batch]
    together = stage.infer(model, batch)
    backwards = stage.infer(model, batch[::-1])[::-1]
    for records in (together, backwards):
        for one, other in zip(alone, records, strict=True):
            assert isinstance(one, SyncRecord) and isinstance(other, SyncRecord)
            assert one.confidence > 0.1
            assert (one.track, one.offset_frames) == (other.track, other.offset_frames)
            assert other.confidence == pytest.approx(one.confidence, abs=1e-4)
            assert other.distance == pytest.approx(one.distance, rel=1e-4)


def test_the_most_confident_face_speaks_for_the_clip(weights: Path) -> None:
    stage = SyncStage(MASKED)
    model = stage.load("cpu")
    clip = made_up_faces(4, 13, 9, 15)
    alone = [stage.infer(model, [ClipFaces((face,))])[0] for face in clip.faces]
    best = max(alone, key=lambda record: record.confidence)  # type: ignore[attr-defined]
    (found,) = stage.infer(model, [clip])
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(best), rel=1e-4)  # type: ignore[call-overload]


def test_a_clip_goes_through_the_stage(weights: Path, clip: Rendered) -> None:
    stage = SyncStage(WIDE)
    prepared = pickle.loads(pickle.dumps(stage.prepare(clip.task())))
    assert isinstance(prepared, ClipFaces)
    (face,) = prepared.faces
    frames = len(face.frames_bgr)
    assert 100 < frames <= 140
    assert face.frames_bgr.shape[1:] == (224, 224, 3)
    assert face.cepstra.shape == (4 * frames - 1, 13)
    # Two seconds of it are enough for the network.
    part = dataclasses.replace(face, frames_bgr=face.frames_bgr[:50], cepstra=face.cepstra[:199])
    (record,) = stage.infer(stage.load("cpu"), [ClipFaces((part,))])
    assert isinstance(record, SyncRecord)
    assert record.track == 7
    assert abs(record.offset_frames) <= 15
    assert record.distance is not None and record.distance > 0
    assert np.isfinite(record.confidence)


def seen_and_heard(face: FaceAndVoice) -> tuple[FloatArray, FloatArray]:
    """The openness of a crop's mouth, and the sound's energy with 15 unknown frames beside it."""
    mouths = np.stack(
        [
            cv2.resize(cv2.cvtColor(one[70:182, 56:168], cv2.COLOR_BGR2GRAY), (64, 64))
            for one in face.frames_bgr
        ]
    )
    frames = len(mouths)
    # The middle of a column's 25 ms is at the instant of frame n where the column is 4n - 1.25.
    places = 4 * np.arange(frames) - 1.25
    energy = np.interp(places, np.arange(len(face.cepstra)), np.exp(0.3 * face.cepstra[:, 0]))
    beside = np.full(MAX_OFFSET_FRAMES, np.nan)
    return mouth_measures(mouths), np.concatenate([beside, energy, beside])


@pytest.mark.parametrize(
    ("offset", "fps", "start_s"), [(0, 25, 0.0), (6, 30, 0.0), (-7, None, 0.31), (4, 24, 0.5)]
)
def test_pictures_and_sound_keep_their_times(
    weights: Path, tmp_path: Path, offset: int, fps: float | None, start_s: float
) -> None:
    made = rendered(tmp_path / "face.mp4", offset, fps=fps, seed=4)
    prepared = SyncStage(WIDE).prepare(made.task(start_s))
    assert isinstance(prepared, ClipFaces)
    found = align(*seen_and_heard(prepared.faces[0]))
    assert found is not None
    assert found.offset_frames == pytest.approx(offset, abs=0.5)


def reference_crop(picture: Any, box: tuple[float, float, float, float]) -> Any:
    """The pipeline's recipe for one picture: pad all of it, then cut."""
    left, top, width, height = box
    half = max(width, height) / 2
    pad = int(half * 1.8)
    padded = cv2.copyMakeBorder(
        picture, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(110, 110, 110)
    )
    x, y = left + width / 2 + pad, top + height / 2 + pad
    rows = slice(int(y - half), int(y + half * 1.8))
    columns = slice(int(x - half * 1.4), int(x + half * 1.4))
    return cv2.resize(padded[rows, columns], (224, 224))


@pytest.mark.parametrize(
    "box", [(0.3, 0.2, 0.3, 0.5), (0.0, 0.55, 0.25, 0.4), (0.7, 0.0, 0.29, 0.45)]
)
def test_crops_are_those_of_the_reference_pipeline(
    weights: Path, clip: Rendered, box: tuple[float, float, float, float]
) -> None:
    still = {
        **clip.track,
        **dict(
            zip(("left", "top", "width", "height"), ([value] * 12 for value in box), strict=True)
        ),
        "times_s": list(np.arange(12) / 2),
    }
    prepared = SyncStage(WIDE).prepare(clip.task(tracks=[still]))
    assert isinstance(prepared, ClipFaces)
    with av.open(str(clip.path)) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    left, top, width, height = box
    wanted = reference_crop(pictures[50], (640 * left, 360 * top, 640 * width, 360 * height))
    found = prepared.faces[0].frames_bgr[50]
    # Colour conversions round differently.
    assert np.abs(found.astype(int) - wanted.astype(int)).mean() < 3
    assert ((found == 110).all(axis=2) == (wanted == 110).all(axis=2)).mean() > 0.999


def with_channels(source: Path, path: Path, layout: str) -> Path:
    """The same pictures with sound of another layout, every channel the first one's."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(given.streams.video[0])
        sound = out.add_stream("pcm_s16le", rate=48_000, layout=layout)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                out.mux(packet)
        given.seek(0)
        for frame in given.decode(audio=0):
            mono = frame.to_ndarray()[:1]
            samples = (mono.clip(-1, 1) * 32767).astype(np.int16).T
            wide = np.repeat(samples, sound.channels, axis=1).reshape(1, -1)
            block = av.AudioFrame.from_ndarray(wide, "s16", layout)
            block.sample_rate, block.pts, block.time_base = 48_000, frame.pts, frame.time_base
            out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    return path


def test_sound_of_eight_channels_is_mixed_down(
    weights: Path, clip: Rendered, tmp_path: Path
) -> None:
    path = with_channels(clip.path, tmp_path / "wide.mkv", "7.1")
    wide = dataclasses.replace(clip, path=path, source=probe(str(path)))
    assert wide.source.audio_channels == 8
    stage = SyncStage(WIDE)
    one, other = (stage.prepare(made.task()) for made in (clip, wide))
    assert isinstance(one, ClipFaces) and isinstance(other, ClipFaces)
    loudness = [prepared.faces[0].cepstra[:, 0] for prepared in (one, other)]
    columns = min(map(len, loudness))
    assert np.corrcoef(loudness[0][:columns], loudness[1][:columns])[0, 1] > 0.95


def moved(track: dict[str, Any], index: int, *, size: float = 1.0) -> dict[str, Any]:
    scaled = {name: [value * size for value in track[name]] for name in ("width", "height")}
    return {**track, **scaled, "track_index": index}


def test_where_nothing_can_be_said(weights: Path, clip: Rendered) -> None:
    stage = SyncStage(WIDE)
    for task in (
        clip.task(0.0, 1.9),
        clip.task(audio_index=None),
        clip.task(video_index=None),
        clip.task(tracks=[]),
        clip.task(tracks=[moved(clip.track, 1, size=0.3)]),
        clip.task(tracks=[{**clip.track, "times_s": [t + 60 for t in clip.track["times_s"]]}]),
    ):
        found = stage.prepare(task)
        assert isinstance(found, NotApplicable), task
        assert found.reason


def test_long_tracks_are_asked_of_long_clips_only(weights: Path, clip: Rendered) -> None:
    stage = SyncStage(WIDE)
    keep = [index for index, time_s in enumerate(clip.track["times_s"]) if time_s < 3.0]
    short = {
        name: [values[index] for index in keep] if isinstance(values, list) else values
        for name, values in clip.track.items()
    }
    assert isinstance(stage.prepare(clip.task(tracks=[short])), ClipFaces)
    assert isinstance(stage.prepare(clip.task(0.0, 6.5, tracks=[short])), NotApplicable)


def test_the_largest_faces_are_looked_at_and_no_more_than_fit(
    weights: Path, clip: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = [moved(clip.track, index, size=1 + 0.01 * index) for index in range(3)]
    stage = SyncStage(WIDE.model_copy(update={"max_tracks": 2}))
    prepared = stage.prepare(clip.task(tracks=tracks))
    assert isinstance(prepared, ClipFaces)
    assert [face.track for face in prepared.faces] == [2, 1]
    frames = len(prepared.faces[0].frames_bgr)
    monkeypatch.setattr("stages.joint.sync.syncnet.MAX_CROPS", frames + 60)
    cut = stage.prepare(clip.task(tracks=tracks))
    assert isinstance(cut, ClipFaces)
    assert [len(face.frames_bgr) for face in cut.faces] == [frames, 60]


def test_embedded_is_ready_without_a_model(clip: Rendered) -> None:
    stage = SyncStage(SyncParameters(backend="embedded"))
    found = stage.prepare(clip.task())
    assert isinstance(found, Ready)
    assert isinstance(found.record, SyncRecord)
    assert found.record.distance is None
    assert found.record.offset_frames == pytest.approx(0.0, abs=1.0)
    assert not stage.needs_model
