"""Which events there are: a kind, and what is chosen of it, spread evenly over the bucket."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

from curation.demo_bucket.clips import Shape

EventKind = Literal["ball", "lamp", "speaker"]
EventColour = Literal["red", "yellow", "green", "blue"]
EventSetting = Literal["first", "second"]
EventTempo = Literal["slow", "fast"]

EVENT_SHAPE = Shape(width=256, height=144, fps=24, duration_s=10.25)
"""Two windows of 121 frames at 24 fps, and a few frames more."""

RGB: dict[EventColour, tuple[int, int, int]] = {
    "red": (224, 48, 40),
    "yellow": (244, 200, 40),
    "green": (48, 176, 72),
    "blue": (56, 96, 232),
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """What is chosen of an event; its words say all of it.

    Attributes:
        kind: a ball that bounces, a lamp that blinks, a person who speaks.
        colour: of the ball, the lamp (which also tells its pitch) or the speaker's wall.
        setting: which of two: a ball's ground (grass, sand), a lamp's room (dark, grey), a
            speaker's hair (dark, fair).
        tempo: how fast it goes; of a speaker, whether the voice is low (slow) or high (fast).
    """

    kind: EventKind = "ball"
    colour: EventColour = "red"
    setting: EventSetting = "first"
    tempo: EventTempo = "slow"


def event_design() -> tuple[Event, ...]:
    """Every combination once, so that one that is held out is one that was never trained on."""
    parts = map(get_args, (EventKind, EventColour, EventSetting, EventTempo))
    return tuple(
        Event(kind=kind, colour=colour, setting=setting, tempo=tempo)
        for kind, colour, setting, tempo in itertools.product(*parts)
    )
