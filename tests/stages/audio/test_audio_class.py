"""What a clip sounds like: a small AST with made-up weights, loaded as the real one is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile

from manifests.errors import UsageError
from stages.audio.audio_class import AudioClassParameters, AudioClassStage
from stages.audio.audio_labels import kind_of
from stages.audio.clip_audio import ClipAudio
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.media.probe import probe
from stages.models.torchvision_guard import import_torchvision
from stages.weights.find import WEIGHTS_VARIABLE
from tests.support.made_up_weights import AST_LABELS, write_ast


class LoudnessTagger:
    """A tagger of one's own: what is loud is music, what is quiet speech."""

    rate_hz = 8_000
    labels: ClassVar[Sequence[str]] = ("Music", "Speech", "Door slam")

    def tag(self, sounds: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        loud = np.array([min(1.0, float(np.abs(sound).max())) for sound in sounds])
        return np.stack([loud, 1.0 - loud, np.full(len(loud), 0.1)], axis=1).astype(np.float32)


OWN = "tests.stages.audio.test_audio_class:LoudnessTagger"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("weights")
    write_ast(found)
    return found


@pytest.fixture
def stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AudioClassStage:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    return AudioClassStage(AudioClassParameters())


def noise(seed: int, seconds: float = 5.0, level: float = 0.1) -> ClipAudio:
    rng = np.random.default_rng(seed)
    samples = np.float32(level * rng.standard_normal(round(seconds * 16_000)))
    return ClipAudio(f"{seed}.wav", 0.0, seconds, samples)


def task(path: Path, volume_db: float | None = -20.0) -> ClipTask:
    source = probe(str(path))
    structs = {} if volume_db is None else {"loudness": {"mean_volume_db": volume_db}}
    return ClipTask("clip", str(path), source, 0.0, source.duration_s, {}, structs)


def test_scores_are_the_networks_own(stage: AudioClassStage, folder: Path) -> None:
    import_torchvision()
    import torch
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    home = folder / "ast-audioset"
    network = ASTForAudioClassification.from_pretrained(home).eval()
    features = ASTFeatureExtractor.from_pretrained(home)
    clip = noise(0)
    seen = features(clip.samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        plain = torch.sigmoid(network(seen["input_values"]).logits)[0].numpy()
    [record] = stage.infer(stage.load("cpu"), [clip])
    by_label = dict(zip(AST_LABELS, plain.tolist(), strict=True))
    assert record.top_labels == sorted(AST_LABELS, key=lambda name: -by_label[name])[:5]
    assert record.top_scores == pytest.approx(sorted(plain.tolist())[::-1][:5], abs=1e-5)
    for kind in ("speech", "music", "singing", "sound_effect"):
        best = max(score for label, score in by_label.items() if kind_of(label) == kind)
        assert getattr(record, kind) == pytest.approx(best, abs=1e-5)


def test_a_clip_has_the_same_scores_alone_and_in_any_batch(stage: AudioClassStage) -> None:
    model = stage.load("cpu")
    clips = [noise(seed, seconds) for seed, seconds in enumerate((5.0, 0.2, 12.0, 1.0, 5.0, 3.0))]
    alone = [stage.infer(model, [clip])[0] for clip in clips]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        found = stage.infer(model, [clips[index] for index in order])
        for index, record in zip(order, found, strict=True):
            assert record.kind == alone[index].kind
            assert record.top_labels == alone[index].top_labels
            assert record.top_scores == pytest.approx(alone[index].top_scores, abs=1e-4)


def test_all_of_a_long_clip_is_heard(stage: AudioClassStage) -> None:
    model = stage.load("cpu")
    start, end = noise(1, 10.24).samples, noise(2, 10.24, level=0.5).samples
    both = np.concatenate([start, end])
    apart = model.tag([start, end])
    assert np.abs(apart[0] - apart[1]).max() > 1e-4
    assert model.tag([both])[0] == pytest.approx(apart.max(axis=0), abs=1e-5)
    # Windows of a length between one and two overlap.
    last = both[round(1.76 * 16_000) : 12 * 16_000]
    expected = model.tag([start, last]).max(axis=0)
    assert model.tag([both[: 12 * 16_000]])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Speech", "speech"), ("Narration, monologue", "speech"), ("Choir", "singing"),
        ("Violin, fiddle", "music"), ("Jazz", "music"), ("Silence", "silence"),
        ("Dog", "sound_effect"), ("Church bell", "sound_effect"), ("Laughter", "sound_effect"),
        ("Something new", "sound_effect"), ("  speech ", "speech"),
    ],
)  # fmt: skip
def test_labels_are_grouped(label: str, kind: str) -> None:
    assert kind_of(label) == kind


def test_silence_needs_no_tagger(stage: AudioClassStage, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    found = stage.prepare(task(tmp_path / "silent.wav", -120.0))
    assert isinstance(found, Ready)
    assert found.record.kind == "silence"  # type: ignore[attr-defined]


def test_any_sound_is_recorded(stage: AudioClassStage, tmp_path: Path) -> None:
    model = stage.load("cpu")
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "wide.wav", 0.1 * rng.standard_normal((192_000, 8)), 192_000)
    soundfile.write(tmp_path / "short.wav", 0.1 * rng.standard_normal(9_600), 48_000)
    for name in ("wide.wav", "short.wav"):
        prepared = stage.prepare(task(tmp_path / name))
        assert isinstance(prepared, ClipAudio)
        [record] = stage.infer(model, [prepared])
        assert record.kind in ("speech", "music", "singing", "sound_effect", "silence")
    soundfile.write(tmp_path / "blink.wav", 0.1 * rng.standard_normal(480), 48_000)
    assert isinstance(stage.prepare(task(tmp_path / "blink.wav", None)), Ready)


def test_no_sound_is_not_applicable(stage: AudioClassStage, given_clips: Path) -> None:
    still = next(
        path
        for path in sorted(given_clips.rglob("*.mp4"))
        if path.stat().st_size > 10_000 and _mute(path)
    )
    assert isinstance(stage.prepare(task(still)), NotApplicable)


def _mute(path: Path) -> bool:
    try:
        return probe(str(path)).audio_index is None
    except Exception:
        return False


def test_a_tagger_of_ones_own(tmp_path: Path) -> None:
    stage = AudioClassStage(AudioClassParameters(backend=OWN))
    assert stage.needs_model
    assert stage.backend.name == OWN
    assert stage.backend.weights_sha256 is not None
    soundfile.write(tmp_path / "tone.wav", np.full(48_000, 0.9, np.float32), 48_000)
    prepared = stage.prepare(task(tmp_path / "tone.wav"))
    assert isinstance(prepared, ClipAudio)
    assert len(prepared.samples) == 8_000
    quiet = ClipAudio("quiet.wav", 0.0, 1.0, np.full(8_000, 0.05, np.float32))
    found = stage.infer(stage.load("cpu"), [prepared, quiet])
    assert [record.kind for record in found] == ["music", "speech"]
    assert found[0].sound_effect == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name",
    ["clap", "no.such.module:Tagger", ".relative:Tagger", "json:JSONDecoder", "json:nothing"],
)
def test_what_is_no_tagger_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        AudioClassStage(AudioClassParameters(backend=name))
    assert caught.value.code == "unknown_backend"


def test_a_tagger_without_labels_is_refused_before_it_tags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = AudioClassStage(AudioClassParameters(backend=OWN))
    monkeypatch.delattr(LoudnessTagger, "labels")
    with pytest.raises(UsageError) as caught:
        stage.load("cpu")
    assert caught.value.code == "unknown_backend"


def test_missing_and_damaged_weights_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        AudioClassStage(AudioClassParameters())
    assert caught.value.code == "missing_weights"
    assert "twinreel weights fetch ast-audioset" in str(caught.value)
    write_ast(tmp_path, lacking="classifier.dense.weight")
    with pytest.raises(UsageError) as caught:
        AudioClassStage(AudioClassParameters()).load("cpu")
    assert caught.value.code == "bad_weights"
    assert "classifier.dense.weight" in str(caught.value)
