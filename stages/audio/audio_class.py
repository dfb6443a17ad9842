"""What a clip sounds like: speech, music, singing or a sound effect, by a tagger.

The tagger is the Audio Spectrogram Transformer (Gong et al. 2021, arXiv:2104.01778), fine-tuned on
AudioSet, in the implementation of transformers; or a class of the user's that follows `Tagger`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pydantic

from manifests.errors import UsageError
from stages.audio.audio_labels import AudioKind, kind_of
from stages.audio.clip_audio import ClipAudio, clip_audio
from stages.base.backends import Backend, BackendDeclaration
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.models.torchvision_guard import import_torchvision
from stages.weights.find import sha256_of

Samples = npt.NDArray[np.float32]

_AST_WEIGHTS = "ast-audioset"
_SETTING = "stages.audio_class.backend"
_TOP_LABELS = 5
_SHORTEST_S = 0.025
"""A window of the spectrogram: of less sound there is none."""
_AST_CLIPS = {"cpu": 4, "cuda": 64}
_RATE_HZ = 16_000
_HOP_S = 0.01
"""From one column of the spectrogram to the next."""


class Tagger(Protocol):
    """Gives labels to sounds. Made without arguments, once in every process that tags.

    `rate_hz` is the rate it wants sound at, `labels` are its labels' names: AudioSet's are put
    into classes, others count as sound effects.
    """

    rate_hz: int
    labels: Sequence[str]

    def tag(self, sounds: Sequence[Samples]) -> npt.NDArray[np.float32]:
        """Probabilities (0..1) of every label: float32 [sounds, labels].

        Args:
            sounds: mono, float32 [samples] each, of any lengths.
        """


class AudioClassParameters(StageParameters):
    """What counts as silence. Off unless asked for: it loads weights."""

    enabled: bool = False
    silence_db: float = pydantic.Field(
        -75.0, description="mean volume below which nothing is tagged: it is silence"
    )


@dataclasses.dataclass(frozen=True)
class AudioClassRecord:
    """What a clip sounds like.

    `speech`, `music`, `singing` and `sound_effect` are each the largest probability (0..1) of a
    label of that class; `kind` is the class with the best of them, or silence. `top_labels` are the
    tagger's own best labels, `top_scores` their probabilities.
    """

    kind: AudioKind
    speech: float
    music: float
    singing: float
    sound_effect: float
    top_labels: list[str]
    top_scores: list[float]


class AudioClassStage(ModelStage[AudioClassParameters, ClipAudio, Tagger]):
    """Backend `ast` (`auto`), or `package.module:Name` of a class that follows `Tagger`."""

    name: ClassVar[str] = "audio_class"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("loudness",)
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("ast", ("torch", "transformers"), weights=(_AST_WEIGHTS,)),
    )
    Parameters: ClassVar[type[StageParameters]] = AudioClassParameters
    Record: ClassVar[type] = AudioClassRecord

    def undeclared_backend(self, name: str) -> Backend:
        """The class that is named; its hash is that of the file it lies in.

        Raises:
            UsageError: `unknown_backend`.
        """
        return Backend(name, _code_hash(_own_tagger(name)))

    @property
    def needs_model(self) -> bool:
        """Every tagger is one, whatever it loads."""
        return True

    @property
    def precondition(self) -> str:
        """There is sound."""
        return "loudness.status = 'ok'"

    def prepare(self, clip: ClipTask) -> ClipAudio | NotApplicable | Ready:
        """The clip's sound in one channel; silence needs no tagger.

        Raises:
            MediaError: it cannot be decoded.
        """
        if clip.source.audio_index is None:
            return NotApplicable("there is no sound")
        volume_db = (clip.structs.get("loudness") or {}).get("mean_volume_db")
        too_short = clip.end_s - clip.start_s < _SHORTEST_S
        if too_short or (volume_db is not None and volume_db < self.parameters.silence_db):
            return Ready(AudioClassRecord("silence", 0.0, 0.0, 0.0, 0.0, [], []))
        rate_hz = _RATE_HZ
        if self.backend.name != "ast":
            rate_hz = int(_own_tagger(self.backend.name).rate_hz)
        return clip_audio(clip, rate_hz)

    def load(self, device: str) -> Tagger:
        """The tagger, ready.

        Raises:
            UsageError: `missing_weights`, `bad_weights` or `unknown_backend`.
        """
        if self.backend.name == "ast":
            return AstTagger(self.require_weights(_AST_WEIGHTS), device)
        made: Tagger = _own_tagger(self.backend.name)()
        if not hasattr(made, "labels"):
            raise _no_backend(self.backend.name, "it has no labels")
        return made

    def infer(self, model: Tagger, batch: Sequence[ClipAudio]) -> list[object]:
        """Every clip's class."""
        scores = np.asarray(model.tag([clip.samples for clip in batch]))
        if scores.shape != (len(batch), len(model.labels)):
            raise ValueError(
                f"the tagger gave {scores.shape}, not {(len(batch), len(model.labels))}"
            )
        kinds = [kind_of(label) for label in model.labels]
        return [_record(row, list(model.labels), kinds) for row in scores]


class AstTagger:
    """The Audio Spectrogram Transformer from a folder of transformers' files.

    Args:
        folder: config.json, preprocessor_config.json, model.safetensors.
        device: `cpu` or `cuda`.

    Raises:
        UsageError: `bad_weights`.
    """

    rate_hz = _RATE_HZ

    def __init__(self, folder: Path, device: str) -> None:
        # transformers imports torchvision wherever it is installed.
        if importlib.util.find_spec("torchvision") is not None:
            import_torchvision()
        from transformers import ASTFeatureExtractor, ASTForAudioClassification  # noqa: PLC0415

        try:
            with warnings.catch_warnings():
                # Of AST's 128 mel bands the lowest are narrower than a bin of its spectrum.
                warnings.filterwarnings("ignore", message="At least one mel filter")
                self._features = ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
            # With its report: what a file lacks would be made up at random, without a word.
            loaded: Any = ASTForAudioClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            network, report = loaded
        except (OSError, ValueError, RuntimeError) as error:
            raise _bad_weights(folder, str(error).splitlines()[0][:200]) from error
        if report["missing_keys"]:
            raise _bad_weights(folder, f"it lacks {sorted(report['missing_keys'])[0]}")
        self._device = device
        self._window = int(self._features.max_length * _HOP_S * self.rate_hz)
        self._network: Any = network.to(device).eval()
        names = network.config.id2label
        self.labels: Sequence[str] = [names[index] for index in range(len(names))]

    def tag(self, sounds: Sequence[Samples]) -> npt.NDArray[np.float32]:
        """Probabilities of AudioSet's labels; labels do not exclude each other.

        The network looks at 10.24 s. Of longer sound it sees several such windows, evenly spread,
        and each label has its best one.
        """
        import torch  # noqa: PLC0415

        windows = [self._windows(audio) for audio in sounds]
        flat = [window for of_clip in windows for window in of_clip]
        most = _AST_CLIPS[self._device]
        parts = []
        with torch.inference_mode():
            for first in range(0, len(flat), most):
                features = self._features(
                    flat[first : first + most],
                    sampling_rate=self.rate_hz,
                    return_tensors="pt",
                )
                logits = self._network(features["input_values"].to(self._device)).logits
                parts.append(torch.sigmoid(logits.float()).cpu().numpy())
        starts = np.cumsum([0, *(len(of_clip) for of_clip in windows[:-1])])
        return np.asarray(np.maximum.reduceat(np.concatenate(parts), starts, axis=0))

    def _windows(self, audio: Samples) -> list[Samples]:
        count = -(-len(audio) // self._window)
        starts = np.linspace(0, len(audio) - self._window, count).round().astype(int)
        return [audio[start : start + self._window] for start in starts] if count > 1 else [audio]


def _record(
    scores: npt.NDArray[np.float32], labels: list[str], kinds: list[AudioKind]
) -> AudioClassRecord:
    best: dict[AudioKind, float] = dict.fromkeys(
        ("speech", "music", "singing", "sound_effect", "silence"), 0.0
    )
    for score, kind in zip(scores.tolist(), kinds, strict=True):
        best[kind] = max(best[kind], score)
    top = np.argsort(-scores, kind="stable")[:_TOP_LABELS]
    return AudioClassRecord(
        kind=max(best, key=lambda kind: best[kind]),
        speech=best["speech"],
        music=best["music"],
        singing=best["singing"],
        sound_effect=best["sound_effect"],
        top_labels=[labels[index] for index in top],
        top_scores=[float(scores[index]) for index in top],
    )


def _own_tagger(name: str) -> Any:  # noqa: ANN401 - a user's class
    """The class that `package.module:Name` names.

    Raises:
        UsageError: `unknown_backend`.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs whatever the module holds
        raise _no_backend(name, f"{type(error).__name__}: {error}") from error
    if not all(hasattr(found, part) for part in ("rate_hz", "tag")):
        raise _no_backend(name, "it does not have rate_hz and tag")
    return found


def _no_backend(name: str, why: str) -> UsageError:
    return UsageError(
        "unknown_backend",
        f"There is no backend {name!r} ({why}).",
        subject=_SETTING,
        remedy="Use auto or ast, or package.module:Name of a class of your own that can be imported"
        " on every node and follows stages.audio_class.Tagger; rate_hz is the class's own.",
    )


def _code_hash(tagger: Any) -> str | None:  # noqa: ANN401
    """Hash of the file that a user's class lies in: other code may give other labels."""
    module = importlib.import_module(tagger.__module__)
    if module.__file__ is None:
        return hashlib.sha256(tagger.__qualname__.encode()).hexdigest()
    return sha256_of(Path(module.__file__))


def _bad_weights(folder: Path, why: str) -> UsageError:
    return UsageError(
        "bad_weights",
        f"The tagger cannot be loaded ({why}).",
        subject=str(folder),
        remedy="Check it with `twinreel weights verify`, and fetch it again.",
    )
