"""Speech with known pauses for tests: espeak-ng through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import espeakng_loader
import numpy as np
import numpy.typing as npt

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_RATE_PARAMETER = 1

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
    assert rate_hz > 0
    return library, rate_hz


def say(
    text: str, *, voice: str = "en", words_per_minute: int = 160
) -> tuple[npt.NDArray[np.float32], int]:
    """A spoken text without the silence around it: float32 [samples] and their rate in Hz."""
    library, rate_hz = _library()
    parts: list[npt.NDArray[np.int16]] = []

    def take(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(take)
    library.espeak_SetSynthCallback(callback)
    assert library.espeak_SetVoiceByName(voice.encode()) == 0
    library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
    words = text.encode()
    library.espeak_Synth(
        words,
        ctypes.c_size_t(len(words) + 1),
        0,
        _POSITION_CHARACTER,
        0,
        _CHARS_UTF8,
        None,
        None,
    )
    library.espeak_Synchronize()
    samples = np.concatenate(parts).astype(np.float32) / 32768.0
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1], rate_hz


def speech_with_pauses(
    texts: Sequence[str], pauses_s: Sequence[float], *, voice: str = "en"
) -> tuple[npt.NDArray[np.float32], int, list[tuple[float, float]]]:
    """Texts with a pause before each and one at the end.

    Returns:
        float32 [samples], their rate in Hz, and the (start, end) in seconds of every text.
    """
    assert len(pauses_s) == len(texts) + 1
    rate_hz = _library()[1]
    parts: list[npt.NDArray[np.float32]] = []
    spans_s: list[tuple[float, float]] = []
    position = 0
    for pause_s, text in zip(pauses_s, [*texts, None], strict=True):
        parts.append(np.zeros(round(pause_s * rate_hz), np.float32))
        position += len(parts[-1])
        if text is not None:
            parts.append(say(text, voice=voice)[0])
            spans_s.append((position / rate_hz, (position + len(parts[-1])) / rate_hz))
            position += len(parts[-1])
    return np.concatenate(parts), rate_hz, spans_s
