"""A ball that bounces, with a thump at every bounce."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curation.demo_bucket.events.design import RGB, Event, EventSetting, EventTempo
from curation.demo_bucket.events.stage import Picture, Staged, gradient, jittered, oval
from curation.demo_bucket.sounds import FloatArray, amplitude

_PERIOD_S: dict[EventTempo, float] = {"slow": 1.25, "fast": 0.62}
_HEIGHT: dict[EventTempo, float] = {"slow": 0.45, "fast": 0.2}
"""How far it flies up, as a share of the picture's height: longer in the air, higher up."""
_RADIUS, _FLOOR = 0.2, 0.88
_SKY_RGB = ((120, 176, 232), (214, 232, 248))
_GROUND_RGB: dict[EventSetting, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "first": ((112, 150, 92), (76, 116, 64)),
    "second": ((232, 208, 160), (214, 184, 128)),
}
_GROUND: dict[EventSetting, str] = {"first": "green grass", "second": "pale sand"}
_HORIZON = 0.7
_THUMP_HZ, _THUMP_S, _THUMP_DB = 95.0, 0.09, -9.0


def stage_ball(event: Event, width: int, height: int, end_s: float, seed: int) -> Staged:
    """Have a ball bounce on grass or sand, slowly and high or fast and low."""
    rng = np.random.default_rng((seed, 1009))
    period_s = jittered(rng, _PERIOD_S[event.tempo])
    first_s = float(rng.uniform(0.1, period_s))
    # One bounce before the clip: the ball comes down from it.
    bounces_s = np.arange(first_s - period_s, end_s + period_s, period_s)
    moments_s = tuple(round(float(each), 6) for each in bounces_s if 0 <= each < end_s)
    x, radius = width / 2 + height * float(rng.uniform(-0.04, 0.04)), height * _RADIUS
    reach = height * jittered(rng, _HEIGHT[event.tempo])
    background = gradient(width, height, *_SKY_RGB)
    ground = gradient(width, height - round(_HORIZON * height), *_GROUND_RGB[event.setting])
    background[-len(ground) :] = ground
    shade_rgb = tuple(round(0.6 * each) for each in _GROUND_RGB[event.setting][1])

    def draw(time_s: float) -> Picture:
        phase = ((time_s - first_s) / period_s) % 1.0
        up = 4 * phase * (1 - phase)
        picture = background.copy()
        floor = _FLOOR * height
        shadow = radius * (1.0 - 0.4 * up)
        oval(picture, (x, floor + 0.02 * height), (shadow, 0.22 * shadow), shade_rgb)
        centre = (x, floor - radius - reach * up)
        rgb = RGB[event.colour]
        dark = tuple(round(0.6 * each) for each in rgb)
        light = tuple(round(255 - 0.45 * (255 - each)) for each in rgb)
        oval(picture, centre, (radius, radius), dark)
        oval(picture, (x - 0.1 * radius, centre[1] - 0.1 * radius), (0.86 * radius,) * 2, rgb)
        oval(picture, (x - 0.35 * radius, centre[1] - 0.38 * radius), (0.28 * radius,) * 2, light)
        return picture

    how = {"slow": "slowly and high", "fast": "fast and low"}
    return Staged(
        draw=draw,
        samples=thumps(moments_s, end_s),
        seen=f"A {event.colour} ball bounces {how[event.tempo]} on {_GROUND[event.setting]}.",
        heard="A dull thump at every bounce.",
        moments_s=moments_s,
    )


def thumps(moments_s: Sequence[float], end_s: float, *, rate_hz: int = 48_000) -> FloatArray:
    """Return a dull, quickly fading knock at every moment, float32 `[samples]`."""
    time_s = np.arange(round(5 * _THUMP_S * rate_hz)) / rate_hz
    # Falls in pitch as a struck skin does, and starts within two milliseconds.
    phase = 2 * np.pi * _THUMP_HZ * (time_s + 0.02 * (1 - np.exp(-time_s / 0.02)))
    knock = np.sin(phase) + 0.5 * np.sin(2.7 * phase)
    knock *= np.exp(-time_s / _THUMP_S) * np.minimum(1.0, time_s / 0.002) * amplitude(_THUMP_DB)
    samples = np.zeros(round(end_s * rate_hz) + len(knock), np.float32)
    for moment_s in moments_s:
        first = round(moment_s * rate_hz)
        samples[first : first + len(knock)] += knock.astype(np.float32)
    return samples[: round(end_s * rate_hz)]
