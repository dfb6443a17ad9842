"""A person who speaks before a coloured wall."""

from __future__ import annotations

import numpy as np

from curation.demo_bucket.events.design import RGB, Event, EventSetting, EventTempo
from curation.demo_bucket.events.stage import Picture, Staged, gradient
from curation.demo_bucket.faces import face_painter
from curation.demo_bucket.sounds import speech_like_sound

_FACE_HEIGHT = 0.62
_PERSON: dict[EventSetting, int] = {"first": 0, "second": 1}
"""Seeds of a person with dark hair and of one with fair hair."""
_PITCH_HZ: dict[EventTempo, float] = {"slow": 105.0, "fast": 205.0}
_LEVEL_DB = -20.0


def stage_speaker(event: Event, width: int, height: int, end_s: float, seed: int) -> Staged:
    """Have a drawn person speak nonsense in a low or a high voice; the mouth goes with it."""
    voice = speech_like_sound(end_s, seed=seed, pitch_hz=_PITCH_HZ[event.tempo], level_db=_LEVEL_DB)
    painter = face_painter(_PERSON[event.setting], round(_FACE_HEIGHT * height))
    wall = tuple(round(0.55 * each + 0.3 * 255) for each in RGB[event.colour])
    floor = tuple(round(0.85 * each) for each in wall)
    background = gradient(width, height, wall, floor)  # type: ignore[arg-type]
    centre = (width / 2, 0.47 * height)

    def draw(time_s: float) -> Picture:
        picture = background.copy()
        sway = np.sin(2 * np.pi * np.array([0.21, 0.17]) * time_s + seed)
        at = (centre[0] + 0.012 * height * sway[0], centre[1] + 0.006 * height * sway[1])
        painter.paint(picture, at, voice.opening_at(time_s), tilt_deg=1.8 * float(sway[1]))
        return picture

    hair = {"first": "dark", "second": "fair"}[event.setting]
    pitch = {"slow": "low", "fast": "high"}[event.tempo]
    return Staged(
        draw=draw,
        samples=voice.samples,
        seen=f"A person with {hair} hair speaks before a {event.colour} wall.",
        heard=f"A {pitch} voice says something.",
        moments_s=tuple(round(start_s, 6) for start_s, _ in voice.segments_s),
        speech_segments_s=voice.segments_s,
        face_kind="single",
    )
