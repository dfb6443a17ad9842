"""Rotary position embedding over one or three axes (Su et al., 2021), as Wan and Ovi lay it out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotations of a sequence: cosines and sines [tokens, rotated pairs], float32.

    Only the first `rotated pairs` pairs of a head's channels turn; the others pass through.
    """

    cos: Tensor
    sin: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """Turn adjacent pairs of channels by their token's angles.

        Args:
            x: queries or keys [batch, tokens, heads, head_dim].
        """
        turned = 2 * self.cos.shape[-1]
        pairs = x[..., :turned].float().unflatten(-1, (-1, 2))
        real, imaginary = pairs.unbind(-1)
        cos, sin = self.cos[:, None], self.sin[:, None]
        rotated = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), -1)
        return torch.cat((rotated.flatten(-2).to(x.dtype), x[..., turned:]), dim=-1)


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """How many channel pairs of a head turn with time, height and width (22, 21, 21 for 128)."""
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def grid_rope(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Rope:
    """Rotations of the tokens of a video, time outermost.

    Args:
        grid: tokens along time, height and width.
        head_dim: channels of a head.
        device: where the tables go.
    """
    widths = axis_widths(head_dim)
    angles = [
        _angles(torch.arange(count, device=device), width).view(
            *(count if axis == own else 1 for own in range(3)), width
        )
        for axis, (count, width) in enumerate(zip(grid, widths, strict=True))
    ]
    full = [part.expand(*grid, -1) for part in angles]
    return _tables(torch.cat(full, dim=-1).flatten(0, 2))


def line_rope(tokens: int, head_dim: int, device: torch.device, *, scale: float) -> Rope:
    """Rotations of a sequence that has only time: the pairs of height and width stay as they are.

    Args:
        tokens: length of the sequence.
        head_dim: channels of a head.
        device: where the tables go.
        scale: factor of the frequencies. Ovi (section 3.2, "scaled RoPE") gives audio 31 / 157.5,
            so that simultaneous audio and video tokens turn alike.
    """
    return _tables(_angles(torch.arange(tokens, device=device), axis_widths(head_dim)[0], scale))


def _angles(positions: Tensor, width: int, scale: float = 1.0) -> Tensor:
    exponents = torch.arange(width, device=positions.device, dtype=torch.float64) / width
    return positions.double()[:, None] * (THETA**-exponents * scale)


def _tables(angles: Tensor) -> Rope:
    return Rope(angles.cos().float(), angles.sin().float())
