"""Log-mel spectra of a waveform, and back by Griffin and Lim's method."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor

WINDOW = 1024
HOP = 256
_POWER_FLOOR, _MEL_FLOOR = 1e-9, 1e-5
_INVERSION_STEPS = 100


def mel_filters(rate_hz: int, mels: int) -> Tensor:
    """Slaney's mel filters up to half the rate, [mels, WINDOW // 2 + 1]."""
    import librosa  # noqa: PLC0415 - slow to import, and inspecting a recipe does not need it

    filters = librosa.filters.mel(sr=rate_hz, n_fft=WINDOW, n_mels=mels, fmin=0, fmax=rate_hz / 2)
    return torch.from_numpy(np.asarray(filters, dtype=np.float32))


def log_mel(waveform: Tensor, filters: Tensor) -> Tensor:
    """Log-mel spectrogram as MMAudio's 16 kHz codec has it (Ovi, section 3.1).

    Magnitudes of a Hann window, not centred, reflected at the ends; log10.

    Args:
        waveform: [B, samples] in [-1, 1]; what lies outside is clamped.
        filters: from `mel_filters`.

    Returns:
        [B, mels, frames].
    """
    margin = (WINDOW - HOP) // 2
    padded = F.pad(waveform.clamp(-1, 1)[:, None], (margin, margin), mode="reflect")[:, 0]
    window = torch.hann_window(WINDOW, device=waveform.device)
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + _POWER_FLOOR).sqrt()
    return (filters @ magnitude).clamp(min=_MEL_FLOOR).log10()


def spectrum_count(samples: int) -> int:
    """Spectra of a waveform; one shorter than a window has none."""
    return samples // HOP if samples >= WINDOW else 0


def waveform_of(mel: Tensor, filters: Tensor, *, iterations: int = 64) -> Tensor:
    """A waveform [B, frames * HOP] in [-1, 1] whose log-mel spectra are near those given.

    Phases by the fast Griffin-Lim algorithm (Perraudin et al., 2013), librosa's.

    Args:
        mel: log10 of mel magnitudes, [B, mels, frames], as `log_mel` makes them.
        filters: from `mel_filters`.
        iterations: of Griffin and Lim's.
    """
    import librosa  # noqa: PLC0415 - slow to import, and training never needs it

    samples = mel.shape[2] * HOP
    waves = []
    for magnitude in _magnitudes(10.0**mel, filters).cpu().numpy():
        wave = librosa.griffinlim(
            magnitude, n_iter=iterations, hop_length=HOP, n_fft=WINDOW, random_state=0
        )
        # Spectrum k is centred on sample (k + 1/2) * HOP here, on k * HOP in librosa.
        wave = np.pad(wave, (HOP // 2, samples))[:samples]
        waves.append(torch.from_numpy(np.asarray(wave, dtype=np.float32)))
    return torch.stack(waves).clamp(-1, 1).to(mel.device)


def _magnitudes(mel: Tensor, filters: Tensor) -> Tensor:
    """Non-negative spectra [B, bins, frames] that the filters turn into `mel`.

    Lee and Seung's multiplicative updates (2001): a hundredth of the time of an exact solver, and
    no worse after Griffin-Lim.
    """
    back = filters.T @ mel
    squares = filters.T @ filters
    magnitude = back / filters.sum(0)[:, None].clamp(min=_MEL_FLOOR)
    for _ in range(_INVERSION_STEPS):
        magnitude = magnitude * back / (squares @ magnitude).clamp(min=_POWER_FLOOR)
    return magnitude
