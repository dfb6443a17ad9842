"""How clean a clip's sound is: the voice's level above the noise, and DNSMOS.

The signal to noise ratio compares what the voice activity detector calls speech with what lies
between. DNSMOS P.835 (Reddy et al. 2022, arXiv:2110.01763, in the package speechmos, which carries
its weights) predicts how listeners would rate speech, its background and the whole, 1 to 5; for a
clip without speech its ratings mean nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pydantic

from stages.base.backends import BackendDeclaration
from stages.base.clip import ClipTask, NotApplicable
from stages.base.contract import ClipStage, StageParameters
from stages.media.audio import mono_audio
from stages.media.heartbeat import beat

_RATE_HZ = 16_000
_MODEL_FILES = ("dnsmos_models/model_v8.onnx", "dnsmos_models/sig_bak_ovr.onnx")
_LEAST_PAUSE_S = 0.2
"""With less than this between the words, the noise's level is a guess."""
_SHORTEST_S = 0.1
_CEILING_DB = 100.0


class AudioQualityParameters(StageParameters):
    """Where it applies. Off unless asked for: it needs the extra `models`."""

    enabled: bool = False
    min_speech_ratio: float = pydantic.Field(
        0.1, ge=0, le=1, description="clips with less speech than this have no MOS"
    )


@dataclasses.dataclass(frozen=True)
class AudioQualityRecord:
    """How clean a clip's sound is.

    `snr_db` is the power of speech above that of the pauses, None without speech or without
    pauses. The `mos_*` are DNSMOS P.835's (signal, background, overall) and P.808's, 1 to 5; None
    without speech.
    """

    snr_db: float | None
    mos_overall: float | None
    mos_signal: float | None
    mos_background: float | None
    mos_p808: float | None


def _model_paths() -> list[Path]:
    """The weights inside the wheel."""
    found = importlib.util.find_spec("speechmos")
    assert found is not None and found.origin is not None
    return [Path(found.origin).parent / name for name in _MODEL_FILES]


class AudioQualityStage(ClipStage[AudioQualityParameters]):
    """Backend `dnsmos` (`auto`)."""

    name: ClassVar[str] = "audio_quality"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("loudness", "speech")
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration(
            "dnsmos",
            packages=("speechmos", "onnxruntime", "librosa"),
            packaged_weights=_model_paths,
        ),
    )
    Parameters: ClassVar[type[StageParameters]] = AudioQualityParameters
    Record: ClassVar[type] = AudioQualityRecord

    @property
    def precondition(self) -> str:
        """There is sound."""
        return "loudness.status = 'ok'"

    def measure(self, clip: ClipTask) -> AudioQualityRecord | NotApplicable:
        """Both measures of the clip's sound.

        Raises:
            MediaError: it cannot be decoded.
        """
        if clip.source.audio_index is None:
            return NotApplicable("there is no sound")
        samples = mono_audio(clip.uri, clip.source, clip.start_s, clip.end_s, _RATE_HZ)
        segments = [
            (row["start_s"] - clip.start_s, row["end_s"] - clip.start_s)
            for row in clip.side_rows.get("speech_segments", ())
        ]
        snr_db = signal_to_noise_db(samples, segments, _RATE_HZ)
        ratio = (clip.structs.get("speech") or {}).get("speech_ratio") or 0.0
        speaks = ratio > 0 and ratio >= self.parameters.min_speech_ratio
        if not speaks or len(samples) < _SHORTEST_S * _RATE_HZ:
            return AudioQualityRecord(snr_db, None, None, None, None)
        scores = dnsmos(samples)
        return AudioQualityRecord(
            snr_db,
            mos_overall=scores["ovrl_mos"],
            mos_signal=scores["sig_mos"],
            mos_background=scores["bak_mos"],
            mos_p808=scores["p808_mos"],
        )


def signal_to_noise_db(
    samples: npt.NDArray[np.float32], segments: Sequence[tuple[float, float]], rate_hz: int
) -> float | None:
    """The power of speech above the noise in dB, at most 100; None where either is not heard.

    What is heard within segments is speech and noise together: the noise's power, as the pauses
    have it, is taken off. Perfect silence at either end is no pause.

    Args:
        samples: float32 [samples].
        segments: start and end of speech in seconds from the first sample; may reach beyond.
        rate_hz: samples a second.
    """
    spoken = np.zeros(len(samples), bool)
    for start_s, end_s in segments:
        spoken[max(0, round(start_s * rate_hz)) : max(0, round(end_s * rate_hz))] = True
    # Where a source's sound begins late or ends early there is no pause but nothing.
    heard = np.flatnonzero(samples)
    paused = ~spoken
    if len(heard):
        paused[: heard[0]] = paused[heard[-1] + 1 :] = False
    if not spoken.any() or paused.sum() < _LEAST_PAUSE_S * rate_hz:
        return None
    squares = np.square(samples, dtype=np.float64)
    noise = float(squares[paused].mean())
    speech = float(squares[spoken].mean()) - noise
    if speech <= 0.0:
        return 0.0 if noise > 0.0 else None
    return float(min(_CEILING_DB, 10.0 * np.log10(speech / max(noise, speech * 1e-10))))


def dnsmos(samples: npt.NDArray[np.float32]) -> Mapping[str, float]:
    """DNSMOS by its package's own names: `ovrl_mos`, `sig_mos`, `bak_mos`, `p808_mos`.

    Sound shorter than its window of 9.01 s is repeated, as the package does it.

    Args:
        samples: float32 [samples] at 16 kHz; turned down where they pass full scale.
    """
    peak = float(np.max(np.abs(samples), initial=0.0))
    found: Mapping[str, Any] = _scorer()(samples / max(1.0, peak), _RATE_HZ, False)
    return {name: float(value) for name, value in found.items()}


@functools.lru_cache(maxsize=1)
def _scorer() -> Any:  # noqa: ANN401 - the package's own class
    """The package's scorer, with sessions of one thread.

    Its own sessions take as many threads as there are cores, in each of as many processes.
    """
    import onnxruntime  # noqa: PLC0415
    from speechmos import dnsmos as package  # noqa: PLC0415 - brings librosa too

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    p808, primary = (str(path) for path in _model_paths())
    scorer = package.DNSMOS.__new__(package.DNSMOS)
    scorer.primary_model_path = primary
    scorer.onnx_sess = _Session(onnxruntime.InferenceSession(primary, options))
    scorer.p808_onnx_sess = _Session(onnxruntime.InferenceSession(p808, options))
    return scorer


@dataclasses.dataclass(frozen=True)
class _Session:
    """A session of onnxruntime's; every window that it looks at is a sign of life."""

    session: Any

    def run(self, *arguments: Any) -> Any:  # noqa: ANN401 - as the package calls it
        beat()
        return self.session.run(*arguments)
