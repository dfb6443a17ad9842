"""What is said in a clip, when, in which language, and how sure the recogniser is: Whisper.

Whisper (Radford et al. 2022, arXiv:2212.04356) in faster-whisper's implementation on CTranslate2.
It runs only where the voice activity detector finds speech, since it makes words up where there are
none. Clips are transcribed independently: the words before one are no prompt for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pydantic

from manifests.errors import MediaError, UsageError
from stages.audio.clip_audio import ClipAudio, clip_audio
from stages.base.backends import BackendDeclaration
from stages.base.clip import ClipTask, Findings, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.models.device import device_fault

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Word

_RATE_HZ = 16_000
_SHORTEST_S = 0.05
_SPECTRUM_COLUMNS = 3000
"""Of the 30 s that Whisper looks at."""


class TranscriptParameters(StageParameters):
    """How Whisper is run. Off unless asked for: it loads weights."""

    enabled: bool = False
    min_speech_ratio: float = pydantic.Field(
        0.05, ge=0, le=1, description="clips with less speech than this are not transcribed"
    )
    language: str | None = pydantic.Field(
        None, description="two letters, if all clips have one language; detected if not given"
    )
    beam_size: int = pydantic.Field(5, ge=1, description="hypotheses that are followed")
    compute_type: Literal["auto", "float32", "float16", "int8", "int8_float16"] = pydantic.Field(
        "auto",
        description="of the arithmetic; auto is float16 on a GPU and float32 on a CPU, where others"
        " give other words",
    )


@dataclasses.dataclass(frozen=True)
class TranscriptRecord:
    """What is said in a clip; an empty text and 0 words if nothing was recognised.

    `language` is a code of two letters (or three) with its probability. `mean_log_probability` is
    the mean over all tokens (segments count by their tokens; natural logarithm), None without any;
    `no_speech_probability` the largest of a segment.
    """

    text: str
    words: int
    language: str
    language_probability: float
    mean_log_probability: float | None
    no_speech_probability: float | None


@dataclasses.dataclass(frozen=True)
class WordRow:
    """A word of a clip's transcript, in seconds of the source's own time: a row of `words`."""

    start_s: float
    end_s: float
    word: str
    probability: float


class TranscriptStage(ModelStage[TranscriptParameters, ClipAudio, "WhisperModel"]):
    """Backend `whisper_large_v3` (`auto`). Writes the side table `words`."""

    name: ClassVar[str] = "transcript"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("speech",)
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("whisper_large_v3", ("faster_whisper",), weights=("whisper-large-v3",)),
    )
    side_tables: ClassVar[Mapping[str, type]] = {"words": WordRow}
    Parameters: ClassVar[type[StageParameters]] = TranscriptParameters
    Record: ClassVar[type] = TranscriptRecord

    def check_parameters(self) -> None:
        """Check that Whisper knows the language.

        Raises:
            UsageError: `unknown_language`.
        """
        from faster_whisper.tokenizer import _LANGUAGE_CODES  # noqa: PLC0415

        language = self.parameters.language
        if language is not None and language not in _LANGUAGE_CODES:
            raise UsageError(
                "unknown_language",
                f"Whisper knows no language {language!r}.",
                subject="stages.transcript.language",
                remedy=f"Give one of: {', '.join(_LANGUAGE_CODES)}.",
            )

    @property
    def precondition(self) -> str:
        """Somebody speaks."""
        return f"speech.speech_ratio > {self.parameters.min_speech_ratio!r}"

    def prepare(self, clip: ClipTask) -> ClipAudio | NotApplicable | Ready:
        """The clip's sound in one channel.

        Raises:
            MediaError: it cannot be decoded.
        """
        if clip.source.audio_index is None:
            return NotApplicable("a transcript needs sound")
        if clip.end_s - clip.start_s < _SHORTEST_S:
            return NotApplicable("too short to hold a word")
        return clip_audio(clip, _RATE_HZ)

    def load(self, device: str) -> WhisperModel:
        """Whisper from its folder; no hub is asked for anything.

        Raises:
            UsageError: `missing_weights`, `bad_weights` or `model_cannot_run`.
        """
        from faster_whisper import WhisperModel  # noqa: PLC0415 - only here CTranslate2

        folder = self.require_weights(*self.weights(self.backend.name))
        kind = self.parameters.compute_type
        if kind == "auto":
            kind = "float16" if device == "cuda" else "float32"
        try:
            model = WhisperModel(
                str(folder), device=device, compute_type=kind, local_files_only=True
            )
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                "bad_weights",
                f"The model cannot be loaded ({str(error).splitlines()[0][:200]}).",
                subject=str(folder),
                remedy="Check it with `twinreel weights verify`, and fetch it again.",
            ) from error
        try:
            # CTranslate2 looks for the GPU's libraries only when it computes for the first time.
            model.encode(np.zeros((model.model.n_mels, _SPECTRUM_COLUMNS), np.float32))
        except RuntimeError as error:
            raise UsageError(
                "model_cannot_run",
                f"Whisper cannot compute on {device} ({str(error).splitlines()[0][:200]}).",
                subject=self.setting,
                remedy="CTranslate2 needs cuBLAS of CUDA 12, whatever CUDA torch has:"
                " pip install nvidia-cublas-cu12 nvidia-cudnn-cu12, and add their folders to"
                " LD_LIBRARY_PATH.",
            ) from error
        return model

    def infer(self, model: WhisperModel, batch: Sequence[ClipAudio]) -> list[object]:
        """Every clip's transcript, one clip after another.

        A beam search is what costs, and it is already five hypotheses wide; clips side by side
        would have to share a language.
        """
        return [self._transcribed(model, clip) for clip in batch]

    def _transcribed(self, model: WhisperModel, clip: ClipAudio) -> Findings | MediaError:
        try:
            segments, info = model.transcribe(
                clip.samples,
                language=self.parameters.language,
                beam_size=self.parameters.beam_size,
                # Higher temperatures draw words at random: the same clip must give the same words.
                temperature=0.0,
                condition_on_previous_text=False,
                word_timestamps=True,
                vad_filter=False,
            )
            found = list(segments)
        except (RuntimeError, ValueError, IndexError) as error:
            if device_fault(error) is not None:
                raise
            return MediaError(
                "transcription_failed",
                f"Whisper failed on it ({type(error).__name__}: {str(error)[:200]}).",
                subject=clip.uri,
            )
        # Whisper looks at 30 s: what it writes of the filling beyond the clip is left out.
        length_s = clip.end_s - clip.start_s
        inside = [segment for segment in found if segment.start < length_s]
        heard = [
            word
            for segment in inside
            for word in segment.words or ()
            if word.word.strip() and word.start < length_s
        ]
        words = [_word_row(word, clip) for word in heard]
        spoken = [word.word for word in heard]
        tokens = sum(len(segment.tokens) for segment in inside)
        log_probability = sum(segment.avg_logprob * len(segment.tokens) for segment in inside)
        record = TranscriptRecord(
            text=" ".join("".join(spoken).split()),
            words=len(words),
            language=info.language,
            language_probability=float(info.language_probability),
            mean_log_probability=log_probability / tokens if tokens else None,
            no_speech_probability=max(
                (float(segment.no_speech_prob) for segment in inside), default=None
            ),
        )
        return Findings(record, {"words": words})


def _word_row(word: Word, clip: ClipAudio) -> dict[str, Any]:
    """A word in seconds of the source; Whisper's times may reach beyond the clip."""
    length_s = clip.end_s - clip.start_s
    start_s = min(max(0.0, float(word.start)), length_s)
    end_s = min(max(start_s, float(word.end)), length_s)
    return {
        "start_s": clip.start_s + start_s,
        "end_s": clip.start_s + end_s,
        "word": word.word.strip(),
        "probability": float(word.probability),
    }
