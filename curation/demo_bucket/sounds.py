"""Sounds with known truth: tones, beeps, room noise, and a formant-synthesised voice.

Every function is deterministic in its arguments and returns float32 samples in [-1, 1], mono
`[samples]` unless it says otherwise. Levels are RMS in dB relative to full scale (dBFS), as
ffmpeg's `volumedetect` reports them: a full-scale sine is at -3.01 dBFS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, resample_poly, sosfilt

FloatArray = NDArray[np.float32]

SYNTHESIS_RATE_HZ = 16_000
BLOCK_SAMPLES = 80  # the vocal tract is held still for 5 ms at a time
VOICE_RMS = 0.16  # RMS of a fully open vowel, about -16 dBFS

# Mean formants F1, F2, F3 in Hz of common vowels, and how far the jaw opens for each (1 = widest).
# Open vowels are also the louder ones, so one curve can drive both loudness and mouth.
_VOWELS: tuple[tuple[float, float, float, float], ...] = (
    (730.0, 1090.0, 2440.0, 1.00),
    (660.0, 1720.0, 2410.0, 0.92),
    (640.0, 1190.0, 2390.0, 0.80),
    (530.0, 1840.0, 2480.0, 0.70),
    (570.0, 840.0, 2410.0, 0.72),
    (490.0, 1350.0, 1690.0, 0.55),
    (300.0, 870.0, 2240.0, 0.42),
    (270.0, 2290.0, 3010.0, 0.45),
)
# Pass bands in Hz of the noise of s, sh and f.
_FRICATIVE_BANDS_HZ: tuple[tuple[float, float], ...] = (
    (4200.0, 7400.0),
    (2200.0, 5500.0),
    (1500.0, 7400.0),
)
_CONSONANTS = ("fricative", "plosive", "nasal", "liquid", "none")
_CONSONANT_CHANCES = (0.24, 0.24, 0.20, 0.20, 0.12)


@dataclass(frozen=True)
class SpeechSound:
    """A voice and the mouth that would make it.

    Attributes:
        samples: float32 `[samples]`, the sound.
        envelope: float32 `[samples]`, opening of the mouth in [0, 1] at every sample.
        rate_hz: sample rate of both.
        segments_s: (start, end) in seconds of every phrase; between them there is a pause.
    """

    samples: FloatArray
    envelope: FloatArray
    rate_hz: int
    segments_s: tuple[tuple[float, float], ...]

    def opening_at(self, time_s: float) -> float:
        """Return the opening of the mouth in [0, 1] at `time_s`; closed outside the sound."""
        index = round(time_s * self.rate_hz)
        return float(self.envelope[index]) if 0 <= index < len(self.envelope) else 0.0


def amplitude(level_db: float) -> float:
    """Return the linear RMS of a level in dBFS."""
    return float(10.0 ** (level_db / 20.0))


def mean_volume_db(samples: FloatArray) -> float:
    """Return the RMS level in dBFS of samples of any shape; -inf for digital silence."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return float(20.0 * np.log10(rms)) if rms > 0 else float("-inf")


def silence(duration_s: float, *, rate_hz: int = 48_000) -> FloatArray:
    """Return digital silence: zeros `[samples]`."""
    return np.zeros(round(duration_s * rate_hz), dtype=np.float32)


def tone(
    duration_s: float, *, frequency_hz: float = 440.0, level_db: float, rate_hz: int = 48_000
) -> FloatArray:
    """Return a sine whose RMS is `level_db` dBFS over the whole duration."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    peak = amplitude(level_db) * np.sqrt(2.0)
    return np.asarray(peak * np.sin(2 * np.pi * frequency_hz * time_s), dtype=np.float32)


def room_noise(
    duration_s: float, *, level_db: float = -45.0, seed: int = 0, rate_hz: int = 48_000
) -> FloatArray:
    """Return noise that falls with frequency, as of a room or a street, at `level_db` dBFS."""
    rng = np.random.default_rng((seed, 101))
    count = round(duration_s * rate_hz)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency_hz = np.fft.rfftfreq(count, 1 / rate_hz)
    spectrum *= (frequency_hz > 30.0) / np.maximum(frequency_hz, 60.0) ** 0.75
    noise = np.fft.irfft(spectrum, count)
    noise *= amplitude(level_db) / np.sqrt(np.mean(noise**2))
    return np.asarray(noise, dtype=np.float32)


def beep(
    duration_s: float,
    start_s: float,
    *,
    beep_s: float = 0.12,
    frequency_hz: float = 1000.0,
    level_db: float = -12.0,
    rate_hz: int = 48_000,
) -> FloatArray:
    """Return silence of `duration_s` with one tone of `beep_s` from the sample at `start_s` on."""
    samples = silence(duration_s, rate_hz=rate_hz)
    burst = tone(beep_s, frequency_hz=frequency_hz, level_db=level_db, rate_hz=rate_hz)
    # A cosine: the first sample of the beep is already loud, so its onset is exact.
    burst = np.roll(burst, -round(rate_hz / frequency_hz / 4))
    first = round(start_s * rate_hz)
    samples[first : first + len(burst)] = burst[: max(0, len(samples) - first)]
    return samples


def stereo(samples: FloatArray, *, balance: float = 0.0) -> FloatArray:
    """Return mono `[samples]` as `[samples, 2]`; `balance` in [-1, 1] leans to the right ear."""
    left, right = min(1.0, 1.0 - balance), min(1.0, 1.0 + balance)
    return np.stack([samples * left, samples * right], axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Syllable:
    """One consonant and one vowel, times in seconds."""

    start_s: float
    vowel_start_s: float
    end_s: float
    consonant: str
    vowel: tuple[float, float, float, float]
    stress: float


def speech_like_sound(
    duration_s: float,
    *,
    seed: int = 0,
    rate_hz: int = 48_000,
    pitch_hz: float | None = None,
    level_db: float | None = None,
) -> SpeechSound:
    """Synthesise a voice that says nonsense: 3-6 irregular syllables a second, with pauses.

    Glottal pulses with a falling, accented pitch pass four moving formants; fricatives and bursts
    are noise. Loudness follows the planned opening of the mouth, so the true offset between the
    sound and `SpeechSound.envelope` is zero.

    Args:
        duration_s: length of the sound.
        seed: chooses pitch, syllables and pauses.
        rate_hz: sample rate of the result.
        pitch_hz: mean pitch; drawn by seed between 100 and 210 Hz when None.
        level_db: RMS of the whole in dBFS; left as synthesised when None.
    """
    rng = np.random.default_rng((seed, 211))
    mean_pitch_hz = float(rng.uniform(100.0, 210.0)) if pitch_hz is None else pitch_hz
    # Higher voices have shorter vocal tracts: their formants lie up to 16 % higher.
    tract_scale = 1.0 + 0.16 * np.clip((mean_pitch_hz - 110.0) / 100.0, 0.0, 1.0)
    count = round(duration_s * SYNTHESIS_RATE_HZ)
    syllables, segments_s = _plan_syllables(duration_s, rng)

    opening = _mouth_opening(syllables, count)
    pulses = _glottal_pulses(_pitch_contour(syllables, segments_s, count, mean_pitch_hz, rng), rng)
    voiced = _voice(pulses, _formant_tracks(syllables, count, float(tract_scale)))
    sound = VOICE_RMS * (voiced * _voicing(syllables, opening))
    sound += VOICE_RMS * _consonant_noise(syllables, count, rng)
    sound += amplitude(-66.0) * rng.standard_normal(count)
    if level_db is not None:
        sound *= amplitude(level_db) / np.sqrt(np.mean(sound**2))
    sound = np.clip(sound, -0.99, 0.99)

    samples = _resampled(sound, rate_hz)
    time_s = np.arange(len(samples)) / rate_hz
    envelope = np.interp(time_s, np.arange(count) / SYNTHESIS_RATE_HZ, opening)
    return SpeechSound(samples, envelope.astype(np.float32), rate_hz, segments_s)


def _plan_syllables(
    duration_s: float, rng: np.random.Generator
) -> tuple[list[_Syllable], tuple[tuple[float, float], ...]]:
    """Lay out phrases of 4-9 syllables with pauses of 0.25-0.6 s between them."""
    syllables: list[_Syllable] = []
    segments: list[tuple[float, float]] = []
    time_s = float(rng.uniform(0.15, 0.35))
    while time_s < duration_s - 0.6:
        phrase_start_s = time_s
        length = int(rng.integers(4, 10))
        for position in range(length):
            consonant = str(rng.choice(_CONSONANTS, p=_CONSONANT_CHANCES))
            consonant_s = 0.01 if consonant == "none" else float(rng.uniform(0.05, 0.11))
            vowel_s = float(rng.uniform(0.09, 0.22)) * (1.3 if position == length - 1 else 1.0)
            end_s = time_s + consonant_s + vowel_s
            if end_s > duration_s - 0.15:
                break
            vowel = _VOWELS[int(rng.integers(len(_VOWELS)))]
            stress = float(rng.uniform(0.75, 1.0))
            syllables.append(
                _Syllable(time_s, time_s + consonant_s, end_s, consonant, vowel, stress)
            )
            time_s = end_s
        if time_s == phrase_start_s:
            break
        segments.append((round(phrase_start_s, 4), round(time_s, 4)))
        time_s += float(rng.uniform(0.25, 0.6))
    return syllables, tuple(segments)


def _span(start_s: float, end_s: float) -> slice:
    return slice(round(start_s * SYNTHESIS_RATE_HZ), round(end_s * SYNTHESIS_RATE_HZ))


def _mouth_opening(syllables: Sequence[_Syllable], count: int) -> NDArray[np.float64]:
    """Return the opening of the mouth in [0, 1], float64 `[samples]`: one hump for each vowel."""
    opening = np.zeros(count)
    for syllable in syllables:
        vowel = _span(syllable.vowel_start_s, syllable.end_s)
        phase = np.linspace(0.0, np.pi, vowel.stop - vowel.start)
        hump = np.sin(phase) ** 0.6 * syllable.vowel[3] * syllable.stress
        opening[vowel] = np.maximum(opening[vowel], hump)
        if syllable.consonant in ("liquid", "none"):
            whole = _span(syllable.start_s, syllable.end_s)
            opening[whole] = np.maximum(opening[whole], 0.12)
    smooth = gaussian_filter1d(opening, 0.014 * SYNTHESIS_RATE_HZ)
    return np.asarray(np.clip(smooth, 0.0, 1.0))


def _voicing(syllables: Sequence[_Syllable], opening: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the amplitude of the voice `[samples]`: the opening, and the hum of nasals."""
    hum = np.zeros_like(opening)
    for syllable in syllables:
        if syllable.consonant in ("nasal", "liquid"):
            hum[_span(syllable.start_s, syllable.vowel_start_s + 0.02)] = 0.16
    hum = gaussian_filter1d(hum, 0.008 * SYNTHESIS_RATE_HZ)
    return np.asarray(np.maximum(opening, hum))


def _voice(pulses: NDArray[np.float64], formants_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return glottal pulses filtered by moving formants, float64 `[samples]`, local RMS 1."""
    filtered = _formant_filter(pulses, formants_hz)
    power = gaussian_filter1d(filtered**2, 0.010 * SYNTHESIS_RATE_HZ)
    return np.asarray(filtered / np.sqrt(power + 1e-3 * np.mean(power)))


def _pitch_contour(
    syllables: Sequence[_Syllable],
    segments_s: Sequence[tuple[float, float]],
    count: int,
    mean_pitch_hz: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return pitch in Hz `[samples]`: falls over each phrase, rises on stressed syllables."""
    ratio = np.ones(count)
    for start_s, end_s in segments_s:
        phrase = _span(start_s, end_s)
        ratio[phrase] = np.linspace(1.18, 0.84, phrase.stop - phrase.start)
    for syllable in syllables:
        ratio[_span(syllable.start_s, syllable.end_s)] *= 1.0 + float(rng.normal(0.0, 0.07))
    ratio = gaussian_filter1d(ratio, 0.035 * SYNTHESIS_RATE_HZ, truncate=2.0)
    # Voices are never steady: about 1 % of slow wander.
    wander = gaussian_filter1d(rng.standard_normal(count), 0.012 * SYNTHESIS_RATE_HZ)
    ratio *= 1.0 + 0.010 * wander / wander.std()
    return np.asarray(mean_pitch_hz * ratio)


def _glottal_pulses(pitch_hz: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the derivative of the flow through the vocal folds, with breath, `[samples]`."""
    phase = np.cumsum(pitch_hz) / SYNTHESIS_RATE_HZ
    cycle = np.floor(phase).astype(np.int64)
    fraction = phase - cycle
    # Folds open slowly for 0.42 of a cycle and shut within 0.16: the sharp closing is what excites
    # the formants.
    opening = fraction < 0.42
    closing = (fraction >= 0.42) & (fraction < 0.58)
    pulse = np.where(opening, 0.5 * np.sin(np.pi * fraction / 0.42), 0.0)
    pulse = np.where(closing, -np.sin(0.5 * np.pi * (fraction - 0.42) / 0.16) * 1.6, pulse)
    shimmer = 1.0 + 0.04 * rng.standard_normal(int(cycle[-1]) + 1)
    breath = 0.03 * rng.standard_normal(len(pulse)) * (0.4 + opening)
    return np.asarray(pulse * shimmer[cycle] + breath)


def _formant_tracks(
    syllables: Sequence[_Syllable], count: int, tract_scale: float
) -> NDArray[np.float64]:
    """Return F1-F4 in Hz, float64 `[4, blocks]`, gliding from sound to sound."""
    blocks = -(-count // BLOCK_SAMPLES)
    block_rate_hz = SYNTHESIS_RATE_HZ / BLOCK_SAMPLES
    tracks = np.tile(np.array([[500.0], [1500.0], [2500.0], [3500.0]]), (1, blocks))
    closed = {"nasal": (260.0, 1150.0, 2250.0), "liquid": (340.0, 1250.0, 1900.0)}
    for syllable in syllables:
        start, vowel_start, end = (
            round(time_s * block_rate_hz)
            for time_s in (syllable.start_s, syllable.vowel_start_s, syllable.end_s)
        )
        before = closed.get(syllable.consonant, (320.0, 1700.0, 2550.0))
        tracks[:3, start:vowel_start] = np.array(before)[:, None]
        tracks[:3, vowel_start:end] = np.array(syllable.vowel[:3])[:, None]
    return np.asarray(gaussian_filter1d(tracks * tract_scale, 4.0, axis=1))


def _formant_filter(
    source: NDArray[np.float64], formants_hz: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pass `source` through a cascade of resonators whose frequencies change every 5 ms."""
    signal = source
    for formant, bandwidth_hz in zip(formants_hz, (70.0, 95.0, 140.0, 220.0), strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / SYNTHESIS_RATE_HZ)
        state = np.zeros(2)
        output = np.empty_like(signal)
        for block, frequency_hz in enumerate(formant):
            span = slice(block * BLOCK_SAMPLES, (block + 1) * BLOCK_SAMPLES)
            cosine = np.cos(2 * np.pi * frequency_hz / SYNTHESIS_RATE_HZ)
            denominator = [1.0, -2.0 * radius * cosine, radius**2]
            gain = [1.0 - 2.0 * radius * cosine + radius**2]
            output[span], state = lfilter(gain, denominator, signal[span], zi=state)
        signal = output
    return signal


def _consonant_noise(
    syllables: Sequence[_Syllable], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the noise of fricatives and bursts relative to an open vowel, `[samples]`."""
    noise = np.zeros(count)
    for syllable in syllables:
        span = _span(syllable.start_s, syllable.vowel_start_s)
        if syllable.consonant == "fricative":
            level = 0.20
        elif syllable.consonant == "plosive":
            level = 0.28
            burst_s = 0.018
            span = _span(syllable.vowel_start_s - burst_s, syllable.vowel_start_s)
        else:
            continue
        band_hz = _FRICATIVE_BANDS_HZ[int(rng.integers(len(_FRICATIVE_BANDS_HZ)))]
        sections = butter(2, band_hz, "bandpass", fs=SYNTHESIS_RATE_HZ, output="sos")
        hiss = sosfilt(sections, rng.standard_normal(span.stop - span.start))
        hiss *= np.hanning(len(hiss)) / (np.sqrt(np.mean(hiss**2)) + 1e-9)
        noise[span] += level * hiss
    return noise


def _resampled(sound: NDArray[np.float64], rate_hz: int) -> FloatArray:
    divisor = int(np.gcd(rate_hz, SYNTHESIS_RATE_HZ))
    samples = resample_poly(sound, rate_hz // divisor, SYNTHESIS_RATE_HZ // divisor)
    return np.asarray(samples, dtype=np.float32)
