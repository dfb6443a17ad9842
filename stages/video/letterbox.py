"""Dark bars around a picture: letterbox and pillarbox."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stages.media.blocks import ByteImage, Frame

_FIRST_LINES = 16
"""How many lines are looked at for a bar's end at first; then twice as many, and so on."""
_LINE_STEP = 8
"""Every line is looked at, but only every eighth pixel of it."""
_LIT_SHARE = 0.02
"""A line of a bar may have this share of brighter pixels: compression rings near edges."""
_LEAST_ACTIVE_SHARE = 0.05
"""Less of a frame than this inside its margins says nothing about them: it is (nearly) black."""


class BarMargin(NamedTuple):
    """A bar's depth in lines and the share (0..1) of its inner edge beyond which there is light."""

    lines: int
    edge: float


def thinned_lines(frame: Frame) -> tuple[ByteImage, ByteImage]:
    """The full-size luma's rows and columns, thinned out, in 8 bits.

    Returns:
        uint8 [coded height, coded width / 8] and uint8 [coded width, coded height / 8].
    """
    luma = frame.source_luma
    shift = frame.source_luma_bits - 8
    rows, columns = (
        (lines >> shift if shift > 0 else lines).astype(np.uint8, copy=False)
        for lines in (luma[:, ::_LINE_STEP], luma[::_LINE_STEP].T)
    )
    return rows, columns


def bar_margins(
    lines: tuple[ByteImage, ByteImage],
    *,
    black: float,
    bar_luma: float,
    tolerance: float,
) -> dict[str, BarMargin] | None:
    """The dark bars on the four sides of a frame as the codec stores it.

    A bar's level is that of the outermost line, which must be dark; lines belong to the bar as long
    as nearly all of their pixels are within `tolerance` of it.

    Args:
        lines: rows and columns as `thinned_lines` gives them.
        black: luma of black.
        bar_luma: how much brighter than black a bar may be.
        tolerance: in luma.

    Returns:
        Margins by side, or None for a frame that is dark all over.
    """
    rows, columns = lines
    top, bottom = _bars(rows, black + bar_luma, tolerance)
    left, right = _bars(columns, black + bar_luma, tolerance)
    height, width = len(rows), len(columns)
    active = max(0, height - top - bottom) * max(0, width - left - right)
    if active < _LEAST_ACTIVE_SHARE * height * width:
        return None
    across = slice(left // _LINE_STEP, max(left // _LINE_STEP + 1, (width - right) // _LINE_STEP))
    down = slice(top // _LINE_STEP, max(top // _LINE_STEP + 1, (height - bottom) // _LINE_STEP))
    return {
        "top": BarMargin(top, _edge_share(rows[:, across], top, tolerance)),
        "bottom": BarMargin(bottom, _edge_share(rows[::-1, across], bottom, tolerance)),
        "left": BarMargin(left, _edge_share(columns[:, down], left, tolerance)),
        "right": BarMargin(right, _edge_share(columns[::-1, down], right, tolerance)),
    }


def _bars(lines: ByteImage, brightest: float, tolerance: float) -> tuple[int, int]:
    """How many lines at the start and at the end are a dark bar."""
    return _bar(lines, brightest, tolerance), _bar(lines[::-1], brightest, tolerance)


def _bar(lines: ByteImage, brightest: float, tolerance: float) -> int:
    """How many lines at the start are a dark bar; all of them in a dark frame."""
    level = float(np.median(lines[0]))
    if level > brightest:
        return 0
    first, count = 0, _FIRST_LINES
    while first < len(lines):
        part = lines[first : first + count]
        lit = np.count_nonzero(part > level + tolerance, axis=1) > _LIT_SHARE * lines.shape[1]
        if lit.any():
            return first + int(np.argmax(lit))
        first, count = first + count, 2 * count
    return len(lines)


def _edge_share(lines: ByteImage, depth: int, tolerance: float) -> float:
    """The share of pixels just inside a bar that are brighter than it."""
    level = float(np.median(lines[0]))
    # Compression rounds an edge off over a few lines, more of them in larger frames.
    inside = lines[depth : depth + max(3, len(lines) // 270)]
    return float(np.mean(inside.max(axis=0) > level + tolerance)) if len(inside) else 0.0
