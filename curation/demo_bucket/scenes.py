"""Pictures without people: textured backgrounds and the ways a camera moves over them.

Pictures are RGB uint8 `[height, width, 3]`. They follow the dead-leaves model: overlapping shapes
whose radii follow a power law, lit and textured with 1/f noise. That has the edges, occlusions and
spectrum of natural pictures, so optical flow, blur and cut detectors behave as on real footage.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def frame_times_s(
    duration_s: float, frame_rate: float, *, start_s: float = 0.0
) -> NDArray[np.float64]:
    """Return the presentation times in seconds, float64 `[frames]`, of a constant rate."""
    return np.asarray(start_s + np.arange(round(duration_s * frame_rate)) / frame_rate)


def variable_frame_times_s(
    duration_s: float, *, seed: int = 0, start_s: float = 0.0
) -> NDArray[np.float64]:
    """Return times in seconds as a phone gives them: steps of 1/60 to 1/15 s, to whole ms."""
    rng = np.random.default_rng((seed, 307))
    steps_ms = rng.choice([17, 33, 33, 34, 42, 50, 67], size=int(duration_s * 60) + 1)
    times_s = start_s + np.concatenate([[0], np.cumsum(steps_ms)]) / 1000.0
    return np.asarray(times_s[times_s < start_s + duration_s])


def fractal_noise(
    width: int, height: int, rng: np.random.Generator, *, slope: float = 1.6
) -> NDArray[np.float32]:
    """Return noise whose spectrum falls as 1/f^slope, float32 `[height, width]`, deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum /= np.maximum(frequency, 2.0 / max(width, height)) ** slope
    noise = np.fft.irfft2(spectrum, (height, width))
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def textured_picture(
    width: int,
    height: int,
    *,
    seed: int,
    hue: float | None = None,
    shapes: int = 420,
    brightness: float = 1.0,
) -> Picture:
    """Draw a dead-leaves picture.

    Args:
        width: picture width in px.
        height: picture height in px.
        seed: chooses everything.
        hue: centre of the palette in [0, 1]; drawn by seed when None.
        shapes: number of shapes for every 960x540 px of area.
        brightness: factor on the result.
    """
    rng = np.random.default_rng((seed, 401))
    hue = float(rng.random()) if hue is None else hue
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = _palette_rgb(rng, hue)
    count = max(20, round(shapes * width * height / (960 * 540)))
    largest_px = 0.30 * height
    # Radii with density r^-3, the law under which the picture looks alike at every scale.
    radii_px = 5.0 / np.sqrt(1.0 - rng.random(count) * (1.0 - (5.0 / largest_px) ** 2))
    for radius_px in np.sort(radii_px)[::-1]:
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        _draw_shape(picture, centre, float(radius_px), _palette_rgb(rng, hue), rng)
    light = 1.0 + 0.16 * fractal_noise(width, height, rng, slope=1.3)
    light += 0.22 * np.linspace(1.0, -1.0, height, dtype=np.float32)[:, None]
    speckle = rng.standard_normal((height, width)).astype(np.float32)
    grain = np.asarray(cv2.GaussianBlur(speckle, (0, 0), 0.8))
    lit = picture.astype(np.float32) * (light * brightness)[..., None] + (9.0 * grain)[..., None]
    return np.asarray(np.clip(lit, 0, 255), dtype=np.uint8)


def faceless_picture(
    width: int,
    height: int,
    *,
    seed: int,
    hue: float | None = None,
    shapes: int = 420,
    brightness: float = 1.0,
    blur_px: float = 0.0,
) -> Picture:
    """Draw a dead-leaves picture in which a cascade detector takes nothing for a face.

    Cascades are easily fooled by blobs; a clip whose truth is "no face" had better not fool them.
    Of a few drawings the first without such a pattern is returned, else the last.

    Args:
        width: picture width in px.
        height: picture height in px.
        seed: chooses everything.
        hue: centre of the palette in [0, 1]; drawn by seed when None.
        shapes: number of shapes for every 960x540 px of area.
        brightness: factor on the result.
        blur_px: deviation of a blur laid over the drawing.
    """
    picture = np.empty((0, 0, 3), np.uint8)
    for attempt in range(8):
        picture = textured_picture(
            width,
            height,
            seed=seed + 1_000_003 * attempt,
            hue=hue,
            shapes=shapes,
            brightness=brightness,
        )
        if blur_px:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur_px), np.uint8)
        if not _fools_cascade(picture):
            break
    return picture


@lru_cache(maxsize=1)
def _face_cascade() -> cv2.CascadeClassifier:
    # `cv2.data` is a module that type checkers do not see.
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))


def _fools_cascade(picture: Picture) -> bool:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    for short_side_px in (290, 355):
        scale = short_side_px / min(grey.shape)
        proxy = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        # Far fewer agreeing windows than a detector asks for: the pattern will be seen again from
        # slightly elsewhere, and must not tip over then.
        if len(_face_cascade().detectMultiScale(proxy, 1.15, 1, minSize=(40, 40))):
            return True
    return False


def _palette_rgb(rng: np.random.Generator, hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(
        (hue + float(rng.normal(0.0, 0.09))) % 1.0,
        float(np.clip(rng.normal(0.45, 0.18), 0.05, 0.9)),
        float(np.clip(rng.normal(0.55, 0.22), 0.10, 0.95)),
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_shape(
    picture: Picture,
    centre: tuple[int, int],
    radius_px: float,
    rgb: tuple[int, int, int],
    rng: np.random.Generator,
) -> None:
    if rng.random() < 0.5:
        axes = (round(radius_px), max(2, round(radius_px * rng.uniform(0.35, 1.0))))
        angle_deg = float(rng.uniform(0, 180))
        cv2.ellipse(picture, centre, axes, angle_deg, 0, 360, rgb, -1, cv2.LINE_AA)
        return
    corners = int(rng.integers(3, 7))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = radius_px * rng.uniform(0.6, 1.1, corners)
    points = np.stack([np.cos(angles) * reach, np.sin(angles) * reach], axis=1) + np.array(centre)
    cv2.fillPoly(picture, [points.round().astype(np.int32)], rgb, cv2.LINE_AA)


class Grain:
    """Sensor noise, so that a still camera does not repeat a picture to the bit."""

    def __init__(self, width: int, height: int, *, seed: int, deviation: float = 3.0) -> None:
        """Draw noise for pictures of one size.

        Args:
            width: picture width in px.
            height: picture height in px.
            seed: chooses the noise.
            deviation: standard deviation in 8-bit levels.
        """
        self._rng = np.random.default_rng((seed, 503))
        # One field a little larger than a picture; every frame sees another window of it.
        white = self._rng.standard_normal((height + 64, width + 64)).astype(np.float32)
        field = np.asarray(cv2.GaussianBlur(white, (0, 0), 0.9))
        self._field = (field * deviation / field.std()).round().astype(np.int16)

    def over(self, picture: Picture) -> Picture:
        """Return the picture under the next window of noise."""
        top, left = self._rng.integers(0, 64, 2)
        height, width = picture.shape[:2]
        noise = self._field[top : top + height, left : left + width]
        grey = cv2.merge([noise, noise, noise])
        return np.asarray(cv2.add(picture, grey, dtype=cv2.CV_8U))


def panned(
    canvas: Picture, width: int, times_s: Sequence[float] | NDArray[np.float64], speed_px_s: float
) -> Iterator[Picture]:
    """Yield windows of a wide canvas; the camera moves right at `speed_px_s` (left if negative).

    Windows start at whole px: a speed that is a multiple of the frame rate is exact.
    """
    room_px = canvas.shape[1] - width
    origin_px = 0 if speed_px_s >= 0 else room_px
    for time_s in times_s:
        left = round(origin_px + speed_px_s * (time_s - float(times_s[0])))
        left = min(max(left, 0), room_px)
        yield np.ascontiguousarray(canvas[:, left : left + width])


def drifting(
    canvas: Picture,
    width: int,
    height: int,
    times_s: Sequence[float] | NDArray[np.float64],
    *,
    seed: int = 0,
    speed_px_s: float = 18.0,
) -> Iterator[Picture]:
    """Yield what a hand-held camera sees: a slow drift with sub-pixel sway and a slight zoom.

    The canvas should exceed the picture by about 15 % on every side of motion.
    """
    rng = np.random.default_rng((seed, 601))
    heading = float(rng.uniform(0, 2 * np.pi))
    phase = rng.uniform(0, 2 * np.pi, 3)
    span_s = float(times_s[-1] - times_s[0]) or 1.0
    middle = np.array([canvas.shape[1] / 2, canvas.shape[0] / 2])
    for time_s in times_s:
        elapsed_s = float(time_s - times_s[0])
        along_px = speed_px_s * (elapsed_s - span_s / 2)
        sway_px = 3.0 * np.sin(2 * np.pi * np.array([0.31, 0.23]) * elapsed_s + phase[:2])
        centre = middle + along_px * np.array([np.cos(heading), 0.35 * np.sin(heading)]) + sway_px
        zoom = 1.0 + 0.03 * np.sin(0.5 * elapsed_s + phase[2])
        offset = centre - zoom * np.array([width / 2, height / 2])
        matrix = np.array([[zoom, 0.0, offset[0]], [0.0, zoom, offset[1]]])
        yield np.asarray(
            cv2.warpAffine(
                canvas,
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        )


def with_margins(
    picture: Picture, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0
) -> Picture:
    """Return a copy with black bars of so many px laid over its sides."""
    framed = np.zeros_like(picture)
    height, width = picture.shape[:2]
    inner = (slice(top, height - bottom), slice(left, width - right))
    framed[inner] = picture[inner]
    return framed


def faded(picture: Picture, brightness: float) -> Picture:
    """Return the picture scaled towards black; 1 leaves it, 0 is black."""
    return np.asarray(cv2.convertScaleAbs(picture, alpha=brightness))
