"""A lamp that lights up with every tone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from curation.demo_bucket.events.design import RGB, Event, EventColour, EventSetting, EventTempo
from curation.demo_bucket.events.stage import Picture, Staged, gradient, jittered, polygon
from curation.demo_bucket.sounds import FloatArray, amplitude

PULSE_EDGE_S = 0.2
"""How long a pulse swells, and fades: a light within a frame or two passes for a cut."""

_PULSE_S: dict[EventTempo, tuple[float, float]] = {"slow": (0.8, 1.5), "fast": (0.42, 0.75)}
"""Length of a pulse, and from one to the next."""
# Much below 300 Hz, voice detectors take a short pulse for a voice.
_PITCH_HZ: dict[EventColour, float] = {
    "red": 330.0,
    "yellow": 600.0,
    "green": 1100.0,
    "blue": 2000.0,
}
_HARMONICS, _LEVEL_DB = 3, -14.0
_WALL_RGB: dict[EventSetting, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "first": ((30, 28, 44), (46, 42, 58)),
    "second": ((92, 94, 98), (122, 124, 128)),
}
_ROOM: dict[EventSetting, str] = {"first": "dark", "second": "grey"}
_TABLE_RGB = (74, 52, 40)
_RADIUS, _MIDDLE, _TABLE = 0.2, 0.42, 0.84
_DIM = 0.16  # of the lit lamp's colour


def stage_lamp(event: Event, width: int, height: int, end_s: float, seed: int) -> Staged:
    """Have a lamp on a table blink, as bright as its tone is loud; its colour tells the pitch."""
    rng = np.random.default_rng((seed, 1019))
    pulse_s, every_s = (jittered(rng, each) for each in _PULSE_S[event.tempo])
    first_s = 0.04 + float(rng.uniform(0.0, every_s - pulse_s))
    pulses_s = tuple(
        (round(float(start_s), 6), round(float(start_s) + pulse_s, 6))
        for start_s in np.arange(first_s, end_s, every_s)
    )
    x, y = width / 2 + height * float(rng.uniform(-0.04, 0.04)), _MIDDLE * height
    radius = height * _RADIUS
    dark = gradient(width, height, *_WALL_RGB[event.setting])
    dark[round(_TABLE * height) :] = _TABLE_RGB
    polygon(
        dark,
        [(x - 0.04 * height, y), (x + 0.04 * height, y), (x + 0.1 * height, _TABLE * height),
         (x - 0.1 * height, _TABLE * height)],
        (20, 18, 22),
    )  # fmt: skip
    rows, columns = np.mgrid[:height, :width] + 0.5
    distance = np.hypot(columns - x, rows - y) / radius
    bulb = np.clip((1.0 - distance) / 0.12, 0.0, 1.0)[..., None]
    halo = np.exp(-np.square(np.maximum(distance - 1.0, 0.0) / 0.7))[..., None] * (1 - bulb)
    colour = np.array(RGB[event.colour], np.float32)
    core = colour + (255 - colour) * np.clip(0.75 - distance, 0.0, 1.0)[..., None]
    unlit = dark * (1 - bulb) + _DIM * colour * bulb
    lit = dark * (1 - bulb) + 0.35 * colour * halo + core * bulb

    def draw(time_s: float) -> Picture:
        level = float(pulse_envelope(np.array([time_s]), pulses_s)[0])
        return np.asarray((unlit + level * (lit - unlit)).clip(0, 255).round(), np.uint8)

    pitch = {"red": "Low", "yellow": "Middling", "green": "High", "blue": "Very high"}
    length = {"slow": "long", "fast": "short"}[event.tempo]
    how = {"slow": "slowly", "fast": "fast"}[event.tempo]
    return Staged(
        draw=draw,
        samples=_tones(_PITCH_HZ[event.colour], pulses_s, end_s),
        seen=f"A {event.colour} lamp blinks {how} in a {_ROOM[event.setting]} room.",
        heard=f"{pitch[event.colour]} {length} beeps.",
        moments_s=tuple(start_s for start_s, _ in pulses_s if start_s < end_s),
    )


def pulse_envelope(
    times_s: npt.NDArray[np.float64], pulses_s: Sequence[tuple[float, float]]
) -> npt.NDArray[np.float64]:
    """Return the amplitude in [0, 1] at every time, float64 `[times]`.

    Args:
        times_s: presentation times.
        pulses_s: (start, end) of every pulse, in order; within `PULSE_EDGE_S` of either the
            amplitude swells or fades as half a cosine.
    """
    corners_s = [
        (start_s, start_s + PULSE_EDGE_S, end_s - PULSE_EDGE_S, end_s)
        for start_s, end_s in pulses_s
    ]
    ramps = np.interp(times_s, np.ravel(corners_s), np.tile([0.0, 1.0, 1.0, 0.0], len(pulses_s)))
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ramps))


def _tones(
    pitch_hz: float,
    pulses_s: Sequence[tuple[float, float]],
    end_s: float,
    *,
    rate_hz: int = 48_000,
) -> FloatArray:
    """Return a tone of a few harmonics under the pulses' envelope, float32 `[samples]`."""
    time_s = np.arange(round(end_s * rate_hz)) / rate_hz
    numbers = np.arange(1, _HARMONICS + 1)
    wave = (np.sin(2 * np.pi * pitch_hz * numbers[:, None] * time_s) / numbers[:, None]).sum(0)
    wave *= amplitude(_LEVEL_DB) / np.sqrt(np.mean(np.square(wave)))
    return np.asarray(wave * pulse_envelope(time_s, pulses_s), dtype=np.float32)
