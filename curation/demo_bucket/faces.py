"""A drawn person whose mouth opens by a number: shaded enough that face detectors find the face.

The head is drawn in face units: the origin lies at the centre of the face, one unit is half the
height from hairline to chin, x grows to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.demo_bucket.scenes import Picture, fractal_noise, textured_picture

Field = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

# The person layer spans this many face units around the centre of the face.
_LEFT, _RIGHT, _TOP, _BOTTOM = -2.1, 2.1, -1.55, 2.75
_EYE_X, _EYE_Y = 0.335, -0.13
_MOUTH_Y = 0.53
_JAW_DROP = 0.13  # how far the chin falls when the mouth is wide open
_OPENINGS = 33  # mouth shapes drawn in advance
_BLINKS = 5  # positions of the lids drawn in advance

_SKINS_RGB = ((226, 182, 156), (206, 158, 126), (238, 200, 176), (176, 126, 94), (192, 144, 112))
_HAIRS_RGB = ((46, 32, 24), (92, 60, 34), (28, 26, 28), (140, 104, 60), (110, 52, 30))
_IRISES_RGB = ((70, 46, 28), (58, 84, 104), (74, 92, 58), (50, 36, 26))
_CLOTHS_RGB = ((52, 74, 112), (118, 46, 50), (58, 92, 68), (90, 84, 96), (160, 150, 138))


@dataclass(frozen=True)
class Identity:
    """What distinguishes one drawn person from another; colours are RGB 0-255."""

    skin_rgb: tuple[int, int, int]
    hair_rgb: tuple[int, int, int]
    iris_rgb: tuple[int, int, int]
    cloth_rgb: tuple[int, int, int]
    face_width: float
    brow_height: float
    mouth_width: float
    light_x: float
    texture_seed: int


def identity_of(seed: int) -> Identity:
    """Return the person of a seed."""
    rng = np.random.default_rng((seed, 701))
    return Identity(
        skin_rgb=_SKINS_RGB[int(rng.integers(len(_SKINS_RGB)))],
        hair_rgb=_HAIRS_RGB[int(rng.integers(len(_HAIRS_RGB)))],
        iris_rgb=_IRISES_RGB[int(rng.integers(len(_IRISES_RGB)))],
        cloth_rgb=_CLOTHS_RGB[int(rng.integers(len(_CLOTHS_RGB)))],
        face_width=float(rng.uniform(0.74, 0.80)),
        brow_height=float(rng.uniform(-0.37, -0.33)),
        mouth_width=float(rng.uniform(0.25, 0.29)),
        light_x=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0)),
        texture_seed=seed,
    )


def draw_face(
    mouth_open: float,
    *,
    seed: int = 0,
    width: int = 960,
    height: int = 540,
    face_height_share: float = 0.52,
    centre: tuple[float, float] = (0.5, 0.47),
    blink: float = 0.0,
    tilt_deg: float = 0.0,
    background: Picture | None = None,
) -> Picture:
    """Draw one person over a background, RGB uint8 `[height, width, 3]`.

    Args:
        mouth_open: opening of the mouth in [0, 1].
        seed: the person, and the background if none is given.
        width: picture width in px; that of the background if one is given.
        height: picture height in px; that of the background if one is given.
        face_height_share: hairline to chin as a share of the picture's height.
        centre: centre of the face as shares of width and height.
        blink: how far the lids are closed, in [0, 1].
        tilt_deg: clockwise tilt of the head.
        background: picture to draw over; it is not changed.
    """
    if background is None:
        background = textured_picture(width, height, seed=seed, shapes=120)
    height, width = background.shape[:2]
    painter = face_painter(seed, round(face_height_share * height))
    picture = background.copy()
    centre_px = (centre[0] * width, centre[1] * height)
    painter.paint(picture, centre_px, mouth_open, blink=blink, tilt_deg=tilt_deg)
    return picture


@lru_cache(maxsize=8)
def face_painter(seed: int, face_height_px: int) -> FacePainter:
    """Return the painter of a person at one size; the last few are kept."""
    return FacePainter(identity_of(seed), face_height_px)


class FacePainter:
    """Paints one person at one size; mouths and lids are drawn once and then pasted."""

    def __init__(self, identity: Identity, face_height_px: int) -> None:
        """Draw what does not move.

        Args:
            identity: the person.
            face_height_px: hairline to chin.
        """
        self._person = identity
        self._unit_px = face_height_px / 2
        self._grid = _Grid(_LEFT, _RIGHT, _TOP, _BOTTOM, self._unit_px)
        colour, alpha = _draw_still_parts(identity, self._grid)
        self._colour = colour
        self._alpha = alpha
        self._mouths: dict[int, Picture] = {}
        lids = _Grid(-0.62, 0.62, _EYE_Y - 0.16, _EYE_Y + 0.14, self._unit_px)
        self._lid_place = _place(lids, self._grid)
        self._lids = [
            _draw_eyes(identity, lids, colour[self._lid_place], step / (_BLINKS - 1))
            for step in range(_BLINKS)
        ]

    def layer(self, mouth_open: float, blink: float = 0.0) -> Picture:
        """Return the person as premultiplied RGBA uint8 `[height, width, 4]`."""
        step = round(float(np.clip(mouth_open, 0.0, 1.0)) * (_OPENINGS - 1))
        if step not in self._mouths:
            self._mouths[step] = self._with_mouth(step / (_OPENINGS - 1))
        layer = self._mouths[step].copy()
        lids = self._lids[round(float(np.clip(blink, 0.0, 1.0)) * (_BLINKS - 1))]
        layer[(*self._lid_place, slice(0, 3))] = lids
        return layer

    def paint(
        self,
        picture: Picture,
        centre_px: tuple[float, float],
        mouth_open: float,
        *,
        blink: float = 0.0,
        tilt_deg: float = 0.0,
    ) -> None:
        """Paint the person into `picture` (RGB uint8 `[height, width, 3]`, changed in place).

        Args:
            picture: what to paint over.
            centre_px: (x, y) of the centre of the face.
            mouth_open: opening of the mouth in [0, 1].
            blink: how far the lids are closed, in [0, 1].
            tilt_deg: clockwise tilt around the neck.
        """
        layer = self.layer(mouth_open, blink)
        pivot = self._grid.pixel(0.0, 1.5)
        matrix = cv2.getRotationMatrix2D(pivot, -tilt_deg, 1.0)
        face_x, face_y = self._grid.pixel(0.0, 0.0)
        left, top = int(np.floor(centre_px[0] - face_x)), int(np.floor(centre_px[1] - face_y))
        matrix[0, 2] += centre_px[0] - face_x - left
        matrix[1, 2] += centre_px[1] - face_y - top
        moved = cv2.warpAffine(layer, matrix, (layer.shape[1], layer.shape[0]))
        first_x, first_y = max(0, left), max(0, top)
        last_x = min(picture.shape[1], left + layer.shape[1])
        last_y = min(picture.shape[0], top + layer.shape[0])
        if last_x <= first_x or last_y <= first_y:
            return
        moved = moved[first_y - top : last_y - top, first_x - left : last_x - left]
        under = picture[first_y:last_y, first_x:last_x]
        clear = cv2.cvtColor(255 - moved[..., 3], cv2.COLOR_GRAY2RGB)
        under[:] = cv2.add(
            cv2.multiply(under, clear, scale=1 / 255), np.ascontiguousarray(moved[..., :3])
        )

    def _with_mouth(self, opening: float) -> Picture:
        colour, alpha = self._colour.copy(), self._alpha
        x, y = self._grid.x, self._grid.y
        # The jaw: rows below the mouth are taken from higher up, fading out at the neck.
        falls = _step(y, _MOUTH_Y - 0.12, _MOUTH_Y + 0.12) * _step(-y, -1.45, -1.0)
        falls = falls * np.exp(-((x / 0.75) ** 4))
        map_y = (self._grid.row(y) - falls * _JAW_DROP * opening * self._unit_px).astype(np.float32)
        map_x = np.broadcast_to(self._grid.column(x), map_y.shape).astype(np.float32)
        colour = np.asarray(cv2.remap(colour, map_x, map_y, cv2.INTER_LINEAR), np.float32)
        alpha = np.asarray(cv2.remap(alpha, map_x, map_y, cv2.INTER_LINEAR), np.float32)
        mouth = _Grid(-0.45, 0.45, 0.30, 0.98, self._unit_px)
        place = _place(mouth, self._grid)
        colour[place] = _draw_mouth(self._person, mouth, colour[place], opening)
        rgb = np.clip(colour * alpha[..., None], 0, 255)
        return np.dstack([rgb, alpha * 255.0]).round().astype(np.uint8)


class _Grid:
    """Pixel centres of a rectangle in face units: x `[1, width]` and y `[height, 1]`."""

    def __init__(
        self, left: float, right: float, top: float, bottom: float, unit_px: float
    ) -> None:
        # Whole px from the origin, so that a patch falls on the pixels of the layer.
        self.first_column, self.first_row = round(left * unit_px), round(top * unit_px)
        self.columns = round(right * unit_px) - self.first_column
        self.rows = round(bottom * unit_px) - self.first_row
        self.unit_px = unit_px
        columns = np.arange(self.columns, dtype=np.float32) + self.first_column
        rows = np.arange(self.rows, dtype=np.float32) + self.first_row
        self.x: Field = (columns / unit_px).astype(np.float32)[None, :]
        self.y: Field = (rows / unit_px).astype(np.float32)[:, None]

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        return x * self.unit_px - self.first_column, y * self.unit_px - self.first_row

    def column(self, x: Field) -> Field:
        return np.asarray(x * self.unit_px - self.first_column, dtype=np.float32)

    def row(self, y: Field) -> Field:
        return np.asarray(y * self.unit_px - self.first_row, dtype=np.float32)


def _place(patch: _Grid, whole: _Grid) -> tuple[slice, slice]:
    top, left = patch.first_row - whole.first_row, patch.first_column - whole.first_column
    return slice(top, top + patch.rows), slice(left, left + patch.columns)


def _step(value: Floats, low: float, high: float) -> Field:
    """Return a smooth step: 0 below `low`, 1 above `high`."""
    share = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(share * share * (3.0 - 2.0 * share), dtype=np.float32)


def _rgb(red: float, green: float, blue: float) -> Field:
    return np.array([red, green, blue], np.float32)


def _spot(grid: _Grid, x: float, y: float, width: float, height: float) -> Field:
    """Return a soft spot of deviation (width, height) at (x, y), peak 1."""
    across = np.exp(-0.5 * ((grid.x - x) / width) ** 2)
    down = np.exp(-0.5 * ((grid.y - y) / height) ** 2)
    return np.asarray(across * down, dtype=np.float32)


def _oval(grid: _Grid, x: float, y: float, width: float, height: float, *, edge: float) -> Field:
    """Return the mask of an ellipse with half axes (width, height) and an edge of share `edge`."""
    radius = np.hypot((grid.x - x) / width, (grid.y - y) / height)
    return _step(-radius, -1.0 - edge, -1.0 + edge)


def _mix(colour: Field, rgb: tuple[float, float, float] | Floats, mask: Floats) -> Field:
    paint = np.asarray(rgb, dtype=np.float32)
    return np.asarray(colour + mask[..., None] * (paint - colour), dtype=np.float32)


def _draw_still_parts(person: Identity, grid: _Grid) -> tuple[Field, Field]:
    """Return colour `[height, width, 3]` (0-255) and cover `[height, width]` (0-1)."""
    rng = np.random.default_rng((person.texture_seed, 809))
    shape = (grid.rows, grid.columns)
    noise = fractal_noise(grid.columns, grid.rows, rng, slope=1.0)
    specks = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 1.0)
    streaks = np.asarray(cv2.blur(specks, (1, max(3, round(0.25 * grid.unit_px)))), np.float32)
    strands: Field = streaks / streaks.std()

    colour = np.zeros((*shape, 3), np.float32)
    cover = np.zeros(shape, np.float32)

    def lay(rgb: tuple[float, float, float] | Floats, mask: Field) -> None:
        nonlocal colour, cover
        colour = _mix(colour, rgb, mask)
        cover = np.maximum(cover, mask)

    skin = np.array(person.skin_rgb, np.float32)
    hair_light = 1.0 + 0.12 * strands + 0.35 * _spot(grid, 0.3 * person.light_x, -1.0, 0.4, 0.18)
    hair = np.array(person.hair_rgb, np.float32) * hair_light[..., None]
    lay(hair, _oval(grid, 0.0, -0.28, 0.98, 1.02, edge=0.03))
    lay(_cloth(person, grid, noise), _shoulders(grid))
    lay(_neck_skin(person, grid, skin, noise), _neck(grid))
    ears = np.maximum(
        _oval(grid, -person.face_width * 0.98, 0.02, 0.11, 0.21, edge=0.1),
        _oval(grid, person.face_width * 0.98, 0.02, 0.11, 0.21, edge=0.1),
    )
    lay(0.80 * skin, ears)
    face = _face_outline(person, grid)
    lay(_face_skin(person, grid, skin, noise), face)
    fringe_line = -0.80 + 0.34 * (grid.x / person.face_width) ** 2 + 0.015 * strands
    fringe = _step(fringe_line - grid.y, -0.03, 0.03)
    head = _oval(grid, 0.0, -0.28, 0.98, 1.02, edge=0.03)
    lay(hair, np.asarray(fringe * head * _step(-grid.y, -0.10, 0.10), dtype=np.float32))
    colour = _draw_brows(person, grid, colour, strands)
    return np.asarray(colour, np.float32), cover


def _face_outline(person: Identity, grid: _Grid) -> Field:
    # An egg: full at the cheekbones, narrowing to the chin.
    half_width = person.face_width * (1.0 - 0.30 * _step(grid.y, 0.15, 1.05))
    radius = (np.abs(grid.x / half_width) ** 2.3 + np.abs(grid.y / 1.0) ** 2.6) ** (1 / 2.4)
    return _step(-radius.astype(np.float32), -1.025, -0.985)


def _face_skin(person: Identity, grid: _Grid, skin: Field, noise: Field) -> Field:
    """Return the lit skin of the face: what detectors look for is in these shadows."""
    side = person.light_x
    light = 1.0 + 0.03 * noise
    light -= 0.34 * np.abs(grid.x / person.face_width) ** 3.2  # the face turns away at the sides
    light += 0.10 * side * grid.x
    light -= 0.12 * _step(grid.y, 0.62, 1.05)
    light += 0.13 * _spot(grid, 0.0, -0.52, 0.34, 0.14)  # forehead
    for eye in (-1.0, 1.0):
        light -= 0.36 * _spot(grid, eye * _EYE_X, _EYE_Y - 0.03, 0.17, 0.10)  # socket
        light -= 0.16 * _spot(grid, eye * 0.15, _EYE_Y - 0.01, 0.06, 0.10)
        light += 0.14 * _spot(grid, eye * 0.40, 0.20, 0.17, 0.13)  # cheekbone
        light -= 0.10 * _spot(grid, eye * 0.13, 0.10, 0.04, 0.16)  # flank of the nose
        light -= 0.13 * _spot(grid, eye * 0.26, 0.38, 0.05, 0.10)  # fold beside the mouth
        light -= 0.20 * _spot(grid, eye * 0.17, 0.27, 0.035, 0.05)  # wing of the nose
    light += 0.20 * _spot(grid, 0.015 * side, 0.02, 0.05, 0.20)  # bridge of the nose
    light += 0.17 * _spot(grid, 0.02 * side, 0.23, 0.065, 0.06)  # tip of the nose
    light -= 0.24 * _spot(grid, 0.0, 0.345, 0.13, 0.028)  # shadow under the nose
    light -= 0.10 * _spot(grid, 0.0, 0.71, 0.16, 0.04)  # below the lower lip
    light += 0.08 * _spot(grid, 0.0, 0.86, 0.13, 0.07)  # chin
    colour = skin * light[..., None]
    for eye in (-1.0, 1.0):
        blush = skin * _rgb(1.0, 0.72, 0.68)
        colour = _mix(colour, blush, 0.30 * _spot(grid, eye * 0.43, 0.25, 0.15, 0.12))
        nostril = _oval(grid, eye * 0.08, 0.322, 0.05, 0.026, edge=0.5)
        colour = _mix(colour, (48.0, 22.0, 18.0), 0.85 * nostril)
    return colour


def _draw_brows(person: Identity, grid: _Grid, colour: Field, strands: Field) -> Field:
    rgb = np.array(person.hair_rgb, np.float32) * 0.8
    for eye in (-1.0, 1.0):
        along = (grid.x * eye - 0.34) / 0.21
        line = person.brow_height - 0.045 * (1.0 - along**2) + 0.02 * along
        thickness = 0.042 * np.clip(1.15 - 0.55 * (along + 0.4) ** 2, 0.2, 1.0)
        mask = _step(-np.abs(grid.y - line) / thickness, -1.2, -0.5)
        ends = _step(-np.abs(along), -1.1, -0.85)
        colour = _mix(colour, rgb, mask * ends * (0.80 + 0.10 * np.tanh(strands)))
    return colour


def _draw_eyes(person: Identity, grid: _Grid, under: Field, blink: float) -> Picture:
    """Return both eyes drawn over `under`, RGB uint8 of the grid's size."""
    colour = under.copy()
    half_width, half_height = 0.155, 0.078 * (1.0 - blink) + 0.006
    lash = np.array(person.hair_rgb, np.float32) * 0.35
    for eye in (-1.0, 1.0):
        along = (grid.x - eye * _EYE_X) / half_width
        inside = np.clip(1.0 - along**2, 0.0, 1.0)
        # Lids close downwards: the lower lid hardly moves.
        middle = _EYE_Y + 0.045 * blink
        upper = middle - half_height * inside**0.75
        lower = middle + 0.75 * half_height * inside**0.9
        within = _step(-np.abs(along), -1.03, -0.97)
        opened = _step(grid.y - upper, -0.008, 0.008) * _step(lower - grid.y, -0.008, 0.008)
        opened = np.asarray(opened * within, np.float32)
        lid_shadow = 0.30 * _step(upper + 0.05 - grid.y, 0.0, 0.05)
        white = _rgb(226, 218, 212) * (1.0 - lid_shadow)[..., None]
        ball = np.asarray(np.broadcast_to(white, colour.shape), np.float32)
        iris = _oval(grid, eye * _EYE_X, _EYE_Y - 0.005, 0.072, 0.072, edge=0.10)
        ball = _mix(ball, person.iris_rgb, iris)
        pupil = _oval(grid, eye * _EYE_X, _EYE_Y - 0.005, 0.034, 0.034, edge=0.2)
        ball = _mix(ball, (14.0, 10.0, 10.0), pupil)
        glint = _oval(
            grid, eye * _EYE_X + 0.02 * person.light_x, _EYE_Y - 0.03, 0.014, 0.014, edge=0.5
        )
        ball = _mix(ball, (250.0, 250.0, 250.0), glint)
        colour = _mix(colour, ball, opened)
        upper_line = np.exp(-0.5 * ((grid.y - upper + 0.006) / 0.014) ** 2) * within
        colour = _mix(colour, lash, np.asarray(0.92 * upper_line, np.float32))
        lower_line = np.exp(-0.5 * ((grid.y - lower) / 0.008) ** 2) * within
        colour = _mix(colour, lash * 1.6, np.asarray(0.45 * lower_line, np.float32))
        crease = np.exp(-0.5 * ((grid.y - upper + 0.05) / 0.010) ** 2) * within * (1.0 - blink)
        fold_rgb = 0.55 * np.array(person.skin_rgb, np.float32)
        colour = _mix(colour, fold_rgb, 0.4 * crease)
    return np.asarray(np.clip(colour, 0, 255).round(), np.uint8)


def _draw_mouth(person: Identity, grid: _Grid, under: Field, opening: float) -> Field:
    """Return lips and, as far as it is open, the inside of the mouth drawn over `under`."""
    skin = np.array(person.skin_rgb, np.float32)
    lip = skin * _rgb(0.80, 0.52, 0.52)
    width = person.mouth_width * (1.0 - 0.10 * opening)
    along = np.clip(np.abs(grid.x) / width, 0.0, 1.5)
    arch = np.clip(1.0 - along**2, 0.0, 1.0) ** 0.8
    seam = _MOUTH_Y + 0.012 * np.cos(np.pi * np.clip(along, 0, 1)) - 0.006
    gap_top = seam - 0.035 * opening * arch
    gap_bottom = seam + 0.235 * opening * arch
    bow = 0.052 * arch**0.7 - 0.014 * np.exp(-((grid.x / 0.035) ** 2))
    upper_edge = gap_top - bow
    lower_edge = gap_bottom + 0.072 * arch
    within = _step(-along, -1.04, -0.96)

    lips = _step(grid.y - upper_edge, -0.010, 0.010) * _step(lower_edge - grid.y, -0.014, 0.010)
    sheen = (
        1.0
        - 0.16 * _step(seam - grid.y, 0.0, 0.02)
        + 0.20 * np.exp(-0.5 * (((grid.y - gap_bottom - 0.03) / 0.014) ** 2 + (grid.x / 0.10) ** 2))
    )
    creases = 1.0 + 0.04 * np.sin(grid.x * 150.0) * arch
    colour = _mix(under, lip * (sheen * creases)[..., None], np.asarray(lips * within, np.float32))

    inside = _step(grid.y - gap_top, -0.006, 0.006) * _step(gap_bottom - grid.y, -0.006, 0.006)
    inside = np.asarray(inside * within * min(1.0, opening * 12.0), np.float32)
    dark = np.asarray(np.broadcast_to(_rgb(46, 14, 16), colour.shape), np.float32)
    teeth_height = min(0.055, 0.35 * 0.27 * opening)
    teeth = _step(gap_top + teeth_height - grid.y, -0.006, 0.006) * _step(-along, -0.80, -0.6)
    dark = _mix(dark, (206.0, 198.0, 186.0), np.asarray(0.9 * teeth, np.float32))
    tongue = _spot(grid, 0.0, _MOUTH_Y + 0.235 * opening, 0.12, 0.05 * opening + 0.01)
    dark = _mix(dark, (150.0, 66.0, 66.0), np.asarray(0.8 * tongue, np.float32))
    colour = _mix(colour, dark, inside)
    line = np.exp(-0.5 * ((grid.y - seam) / 0.010) ** 2) * within * max(0.0, 1.0 - 4.0 * opening)
    return _mix(colour, (64.0, 24.0, 24.0), np.asarray(0.85 * line, np.float32))


def _neck(grid: _Grid) -> Field:
    half_width = 0.44 + 0.25 * _step(grid.y, 1.2, 1.75) ** 2
    mask = _step(half_width - np.abs(grid.x), -0.02, 0.02) * _step(grid.y, 0.5, 0.55)
    collar = 1.62 - 0.35 * (grid.x / 0.6) ** 2
    return np.asarray(mask * _step(collar - grid.y, -0.02, 0.02), np.float32)


def _neck_skin(person: Identity, grid: _Grid, skin: Field, noise: Field) -> Field:
    light = 0.80 + 0.03 * noise + 0.06 * person.light_x * grid.x
    light -= 0.34 * _spot(grid, 0.0, 1.02, 0.5, 0.16)  # the chin's shadow
    light -= 0.20 * (grid.x / 0.5) ** 4 * np.exp(-((grid.x / 0.6) ** 4))
    return np.asarray(skin * light[..., None], np.float32)


def _shoulders(grid: _Grid) -> Field:
    reach = np.abs(grid.x)
    top = 1.30 + 0.42 * _step(reach, 0.25, 1.9) + 1.2 * _step(reach, 1.60, 2.05) ** 3
    return _step(grid.y - top, -0.02, 0.02)


def _cloth(person: Identity, grid: _Grid, noise: Field) -> Field:
    weave = 0.05 * np.sin(grid.x * 38.0) * np.sin(grid.y * 38.0)
    folds = 0.16 * np.sin(3.0 * grid.x + 2.5 * grid.y + noise * 0.5)
    light = 1.0 + weave + folds + 0.06 * noise + 0.12 * person.light_x * grid.x
    return np.asarray(np.array(person.cloth_rgb, np.float32) * light[..., None], np.float32)
