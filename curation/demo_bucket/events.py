"""Clips of a lamp that lights up with every sound: text, picture and sound go by a few plain rules.

A generator that has learned these clips shows it: the lamp's colour tells the pitch, its size tells
the loudness, its brightness follows the sound at every frame, and the words of a caption made from
measurements (dark or bright, loud or quiet, without high frequencies, broken by silence) tell how
bright the surroundings are, how large the lamp is, whether it is red and how it pulses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from curation.demo_bucket.clips import Shape, write_clip
from curation.demo_bucket.render import AudioTrack
from curation.demo_bucket.scenes import Picture, drifting, faceless_picture
from curation.demo_bucket.sounds import FloatArray, amplitude, stereo
from curation.demo_bucket.truth import ClipTruth, LampTruth

LampColour = Literal["red", "green", "blue"]
LampSize = Literal["small", "middle", "large"]
LampLight = Literal["dark", "middle", "bright"]
LampPattern = Literal["long", "short"]

EVENT_SHAPE = Shape(width=640, height=360, fps=24, duration_s=5.25)
"""A window of 121 frames at 24 fps, and a few frames more."""
PULSE_EDGE_S = 0.2
"""How long a pulse swells, and fades: a large lamp lit within a frame or two passes for a cut."""

_DIM = 0.28  # of the lit lamp's colour
_RIM_SHARE = 0.18  # of the radius, over which the disc fades out
_SATURATION = 0.25  # of the background's colours: the lamp's is the one that counts
_COARSENESS = 2  # backgrounds are drawn so much smaller: soft, and cheap to draw and to encode
_BLUR_PX = 1.0  # of the small drawing: its grain, spread out, would be all there is to see
_DRIFT_PX_S = 16.0
_LONG_GAP_S = 0.14
_SHORT_PULSE_S = 0.45


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """What is chosen of a lamp; pitch and loudness follow from it.

    Attributes:
        colour: red sounds at 330 Hz without anything above 2 kHz, green at 700 Hz, blue at
            1800 Hz; the harmonics of these two reach 6.3 and 7.2 kHz.
        size: radius 13, 21 or 30 % of the picture's height; small is quiet (below -36 LUFS), middle
            moderately loud (about -25 LUFS), large loud (above -16 LUFS).
        light: what the surroundings' luma is on average: 32 (dark), 125 or 222 (bright) of 255.
        pattern: long pulses every 0.8 to 1 s with gaps of 0.14 s, or short ones of 0.45 s every
            1.1 to 1.4 s.
    """

    colour: LampColour = "red"
    size: LampSize = "large"
    light: LampLight = "middle"
    pattern: LampPattern = "long"


@dataclass(frozen=True)
class _Tint:
    """A colour of lamps, and how it sounds: the harmonics fall as 1/n."""

    lit_rgb: tuple[int, int, int]
    pitch_hz: float
    harmonics: int
    words: str


@dataclass(frozen=True)
class _Extent:
    """A size of lamps; the level in dBFS is the RMS of a pulse at its height."""

    radius_share: float
    level_db: float
    words: str


@dataclass(frozen=True)
class _Surround:
    """How luma is spread: from `least` to `most`, as the power `exponent` of a pixel's rank."""

    least: float
    most: float
    exponent: float
    words: str


# Much below 300 Hz, voice detectors take a short pulse for a voice.
_TINTS: dict[LampColour, _Tint] = {
    "red": _Tint((255, 72, 48), 330.0, 6, "low"),
    "green": _Tint((64, 255, 88), 700.0, 9, "middling"),
    "blue": _Tint((80, 112, 255), 1800.0, 4, "high"),
}
_EXTENTS: dict[LampSize, _Extent] = {
    "small": _Extent(0.13, -43.0, "quiet"),
    "middle": _Extent(0.21, -26.0, "moderately loud"),
    "large": _Extent(0.30, -10.0, "loud"),
}
_SURROUNDS: dict[LampLight, _Surround] = {
    "dark": _Surround(4.0, 130.0, 3.5, "in the dark"),
    "middle": _Surround(20.0, 230.0, 1.0, "in ordinary light"),
    "bright": _Surround(130.0, 255.0, 0.36, "in bright light"),
}
_PATTERN_WORDS: dict[LampPattern, str] = {
    "long": "long pulses close together",
    "short": "short pulses far apart",
}


def lamp_design() -> tuple[Lamp, ...]:
    """Return 24 lamps over which every property is spread evenly and independently of the others.

    Every colour, size and light comes eight times, any two of them together two or three times;
    every pattern comes four times with each.
    """
    lamps = []
    for light, size, colour in itertools.product(range(3), repeat=3):
        # Of the 27 combinations, the three of one number thrice are left out.
        if light == size == colour:
            continue
        # Of the 24 left, half, and half of those with any one level: where two numbers are equal
        # the sum says by how much the third is off; else the order says which way it turns.
        total = (light + size + colour) % 3
        is_long = total == 1 or (total == 0 and (size - light) % 3 == 1)
        lamps.append(
            Lamp(
                colour=get_args(LampColour)[colour],
                size=get_args(LampSize)[size],
                light=get_args(LampLight)[light],
                pattern="long" if is_long else "short",
            )
        )
    return tuple(lamps)


def lamp_clip(
    path: Path, lamp: Lamp = Lamp(), *, seed: int = 0, shape: Shape = EVENT_SHAPE
) -> ClipTruth:
    """Render a lamp before a drifting background: it is as bright as its sound is loud.

    Args:
        path: file to write.
        lamp: what the lamp looks like, which settles how it sounds.
        seed: chooses the background, where the lamp is and when it pulses.
        shape: size, rate and encoder of the clip.
    """
    rng = np.random.default_rng((seed, 947))
    tint, extent = _TINTS[lamp.colour], _EXTENTS[lamp.size]
    end_s = shape.video_start_s + shape.duration_s
    pulses_s = _pulse_times(lamp.pattern, end_s, rng)
    radius_px = extent.radius_share * shape.height
    margins_px = np.array([shape.width, shape.height]) - 2 * radius_px
    x_px, y_px = (float(each) for each in radius_px + rng.random(2) * margins_px)

    times_s = shape.times_s(seed)
    envelope = pulse_envelope(times_s, pulses_s)
    disc = _Disc((x_px, y_px), radius_px, tint.lit_rgb)

    def frames() -> Iterator[tuple[float, Picture]]:
        background = _background(_SURROUNDS[lamp.light], shape, times_s, seed)
        for time_s, level, picture in zip(times_s, envelope, background, strict=True):
            disc.draw(picture, float(level))
            yield time_s, picture

    truth = ClipTruth(
        file="",
        what="",
        lamp=LampTruth(
            **asdict(lamp),
            pitch_hz=tint.pitch_hz,
            centre_px=(round(x_px, 3), round(y_px, 3)),
            radius_px=round(radius_px, 3),
            pulses_s=pulses_s,
        ),
    )
    audio = AudioTrack(stereo(_pulsed_tone(tint, extent.level_db, pulses_s, end_s)))
    return write_clip(path, _words(lamp), frames(), shape, audio=audio, truth=truth)


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


def _pulse_times(
    pattern: LampPattern, end_s: float, rng: np.random.Generator
) -> tuple[tuple[float, float], ...]:
    """Draw (start, end) in seconds of pulses in a regular rhythm; the last may be cut short."""
    if pattern == "long":
        period_s = float(rng.uniform(0.8, 1.0))
        pulse_s = period_s - _LONG_GAP_S
    else:
        period_s, pulse_s = float(rng.uniform(1.1, 1.4)), _SHORT_PULSE_S
    # The first pulse is whole, and waits no longer than the others do.
    first_s = 0.04 + float(rng.uniform(0.0, period_s - pulse_s))
    starts_s = np.arange(first_s, end_s, period_s)
    return tuple(
        (round(float(start_s), 6), round(float(start_s) + pulse_s, 6)) for start_s in starts_s
    )


def _pulsed_tone(
    tint: _Tint,
    level_db: float,
    pulses_s: Sequence[tuple[float, float]],
    end_s: float,
    *,
    rate_hz: int = 48_000,
) -> FloatArray:
    """Return a tone of harmonics under the pulses' envelope, float32 `[samples]`."""
    time_s = np.arange(round(end_s * rate_hz)) / rate_hz
    numbers = np.arange(1, tint.harmonics + 1)
    # One period at many samples, read off over and over: a sine for every harmonic costs more.
    phase = np.arange(4096) / 4096
    period = (np.sin(2 * np.pi * numbers[:, None] * phase) / numbers[:, None]).sum(axis=0)
    period *= amplitude(level_db) / np.sqrt(np.mean(period**2))
    wave = np.interp(time_s * tint.pitch_hz % 1.0, phase, period, period=1.0)
    return np.asarray(wave * pulse_envelope(time_s, pulses_s), dtype=np.float32)


class _Disc:
    """A lamp of one place, size and colour, drawn within its box alone."""

    def __init__(
        self, centre_px: tuple[float, float], radius_px: float, lit_rgb: tuple[int, int, int]
    ) -> None:
        x, y = centre_px
        left, top = int(x - radius_px), int(y - radius_px)
        right, bottom = int(np.ceil(x + radius_px)), int(np.ceil(y + radius_px))
        self._box = (slice(top, bottom), slice(left, right))
        rows, columns = np.mgrid[top:bottom, left:right] + 0.5
        inside_px = radius_px - np.hypot(columns - x, rows - y)
        cover = np.clip(inside_px / (_RIM_SHARE * radius_px), 0.0, 1.0).astype(np.float32)
        self._clear = 1.0 - cover[..., None]
        self._lit = cover[..., None] * np.array(lit_rgb, np.float32)

    def draw(self, picture: Picture, level: float) -> None:
        """Draw the lamp into a picture: dim at level 0, fully lit at 1."""
        box = picture[self._box]
        glow = _DIM + (1.0 - _DIM) * level
        np.rint(box * self._clear + glow * self._lit, out=box, casting="unsafe")


def _background(
    surround: _Surround, shape: Shape, times_s: npt.NDArray[np.float64], seed: int
) -> Iterator[Picture]:
    """Yield pictures of a drifting scene whose luma is spread alike for every seed."""
    width, height = shape.width, shape.height
    canvas_size = (width * 5 // 4, height * 5 // 4)
    coarse = faceless_picture(
        *(side_px // _COARSENESS for side_px in canvas_size), seed=seed, blur_px=_BLUR_PX
    )
    grey = np.asarray(cv2.cvtColor(coarse, cv2.COLOR_RGB2GRAY), np.uint8)
    counts = np.bincount(grey.ravel(), minlength=256)
    rank = (np.cumsum(counts) - counts / 2) / grey.size
    tones = surround.least + (surround.most - surround.least) * rank**surround.exponent
    # Luma becomes what its rank says; of the colour a part is kept.
    shift = (tones - _SATURATION * np.arange(256)).astype(np.float32)
    toned = np.clip(_SATURATION * coarse.astype(np.float32) + shift[grey][..., None], 0, 255)
    canvas = cv2.resize(toned.astype(np.uint8), canvas_size, interpolation=cv2.INTER_CUBIC)
    return drifting(
        np.asarray(canvas, np.uint8), width, height, times_s, seed=seed, speed_px_s=_DRIFT_PX_S
    )


def _words(lamp: Lamp) -> str:
    tint, extent, surround = _TINTS[lamp.colour], _EXTENTS[lamp.size], _SURROUNDS[lamp.light]
    size = "middle-sized" if lamp.size == "middle" else lamp.size
    return (
        f"A {size} {lamp.colour} lamp that lights up with {extent.words} {tint.words} tones, "
        f"{surround.words}, in {_PATTERN_WORDS[lamp.pattern]}."
    )
