"""What an event comes to: a picture for every time, a sound, and the words for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.demo_bucket.sounds import FloatArray

Picture = NDArray[np.uint8]
_FIXED = 4  # bits after the point in OpenCV's coordinates


@dataclass(frozen=True)
class Staged:
    """An event, ready to be rendered.

    Attributes:
        draw: the picture at a presentation time in seconds, RGB uint8 `[height, width, 3]`.
        samples: float32 `[samples]` at 48 kHz.
        seen: one sentence.
        heard: one sentence.
        moments_s: when it sounds: a ball bounces, a lamp's pulse or a spoken phrase begins.
        speech_segments_s: (start, end) of every spoken phrase.
        face_kind: none or single.
    """

    draw: Callable[[float], Picture]
    samples: FloatArray
    seen: str
    heard: str
    moments_s: tuple[float, ...]
    speech_segments_s: tuple[tuple[float, float], ...] = ()
    face_kind: str = "none"

    @property
    def caption(self) -> str:
        """Both sentences, in the form of Ovi's captions."""
        return f"{self.seen} <AUDCAP>{self.heard}<ENDAUDCAP>"


def jittered(rng: np.random.Generator, value: float, share: float = 0.06) -> float:
    """Return a value that differs by at most a share of it, so that no two clips are alike."""
    return value * (1.0 + share * float(rng.uniform(-1.0, 1.0)))


def gradient(
    width: int, height: int, top_rgb: tuple[int, int, int], bottom_rgb: tuple[int, int, int]
) -> Picture:
    """Return a picture that goes from one colour at its top to another at its bottom."""
    share = np.linspace(0.0, 1.0, height)[:, None, None]
    column = (1 - share) * np.array(top_rgb) + share * np.array(bottom_rgb)
    picture = np.repeat(column.round().astype(np.uint8), width, axis=1)
    return np.ascontiguousarray(picture)


def oval(
    picture: Picture,
    centre: tuple[float, float],
    axes: tuple[float, float],
    rgb: tuple[int, ...],
) -> None:
    """Draw a filled ellipse to a sixteenth of a pixel, in place."""
    fixed_centre = (round(centre[0] * 2**_FIXED), round(centre[1] * 2**_FIXED))
    fixed_axes = (round(axes[0] * 2**_FIXED), round(axes[1] * 2**_FIXED))
    cv2.ellipse(picture, fixed_centre, fixed_axes, 0, 0, 360, rgb, -1, cv2.LINE_AA, _FIXED)


def polygon(picture: Picture, corners: list[tuple[float, float]], rgb: tuple[int, ...]) -> None:
    """Draw a filled polygon to a sixteenth of a pixel, in place."""
    points = (np.array(corners) * 2**_FIXED).round().astype(np.int32)
    cv2.fillPoly(picture, [points], rgb, cv2.LINE_AA, _FIXED)
