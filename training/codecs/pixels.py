"""A video codec without weights: patches of pixels, with coarser colour and coarser time."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from pydantic import Field
from torch import Tensor

from training.codecs.codec import VideoCodec, VideoCodecSettings

# Kr and Kb of ITU-R BT.709.
_RED, _BLUE = 0.2126, 0.0722
_LUMA_GAIN, _CHROMA_GAIN, _CHANGE_GAIN = 2.0, 4.0, 2.0
"""Factors that bring common frames near unit variance."""


class PixelPatchesSettings(VideoCodecSettings):
    """Patches of pixels: needs no weights."""

    kind: Literal["pixels"]
    patch: int = Field(4, ge=1, description="rows and columns of a patch")
    frames: int = Field(8, ge=1, description="frames a latent, after the first")
    terms: int = Field(1, ge=1, description="cosine terms in time kept of them")

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.terms * (self.patch**2 + 2)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns a latent."""
        return self.frames, self.patch, self.patch

    def build(self) -> PixelPatches:
        """The codec."""
        return PixelPatches(patch=self.patch, frames=self.frames, terms=self.terms)


class PixelPatches(VideoCodec):
    """Luma of a patch's pixels, chroma of its mean, and the first cosine terms of a group in time.

    Exact where chroma is constant in a patch and frames change no faster than the kept terms.

    Args:
        patch: rows and columns of a patch.
        frames: frames of a group.
        terms: cosine terms kept of a group, at most `frames`: 1 keeps its mean alone.
    """

    def __init__(self, *, patch: int, frames: int, terms: int) -> None:
        super().__init__()
        self.patch, self.terms = patch, terms
        self.group = frames
        self.register_buffer("basis", _cosines(frames)[:terms], persistent=False)
        self.basis: Tensor

    def encode(self, frames: Tensor) -> Tensor:
        """Latents [B, channels, F, H, W] of [B, 3, 1 + (F - 1) * frames, rows, columns]."""
        planes = self._planes(frames)
        first = F.pad(planes[:, None, :1], (0,) * 6 + (0, self.terms - 1))
        groups = planes[:, 1:].unflatten(1, (-1, self.group))
        terms = torch.einsum("tn,bgnchw->bgtchw", self.basis, groups) / self.group
        latent = torch.cat((first, terms), dim=1) * self._gains(planes)
        return latent.flatten(2, 3).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """Frames [B, 3, 1 + (F - 1) * frames, rows, columns] in [-1, 1]."""
        terms = latent.transpose(1, 2).unflatten(2, (self.terms, -1)) / self._gains(latent)
        groups = torch.einsum("tn,bgtchw->bgnchw", self.basis, terms[:, 1:]).flatten(1, 2)
        planes = torch.cat((terms[:, :1, 0], groups), dim=1)
        luma = F.pixel_shuffle(planes[:, :, :-2], self.patch)
        blue, red = (
            F.interpolate(planes[:, :, -2:].flatten(0, 1), scale_factor=self.patch, mode="nearest")
            .unflatten(0, planes.shape[:2])
            .unbind(2)
        )
        luma = luma[:, :, 0]
        r = luma + red * 2 * (1 - _RED)
        b = luma + blue * 2 * (1 - _BLUE)
        g = (luma - _RED * r - _BLUE * b) / (1 - _RED - _BLUE)
        return torch.stack((r, g, b), dim=1).clamp(-1, 1)

    def _planes(self, frames: Tensor) -> Tensor:
        """Luma pixels and mean chroma of each patch, [B, frames, patch * patch + 2, H, W]."""
        r, g, b = frames.unbind(1)
        luma = _RED * r + (1 - _RED - _BLUE) * g + _BLUE * b
        blue = (b - luma) / (2 * (1 - _BLUE))
        red = (r - luma) / (2 * (1 - _RED))
        chroma = F.avg_pool2d(torch.stack((blue, red), dim=2).flatten(0, 1), self.patch)
        pixels = F.pixel_unshuffle(luma[:, :, None], self.patch)
        return torch.cat((pixels, chroma.unflatten(0, luma.shape[:2])), dim=2)

    def _gains(self, like: Tensor) -> Tensor:
        """Factor of each term and plane, [terms, planes, 1, 1]."""
        planes = torch.full((self.patch**2 + 2,), _LUMA_GAIN)
        planes[-2:] = _CHROMA_GAIN
        changes = torch.full((self.terms,), _CHANGE_GAIN)
        changes[0] = 1.0
        return (changes[:, None] * planes).to(like)[..., None, None]


def _cosines(count: int) -> Tensor:
    """The cosine basis [terms, count], each row of mean square 1 (DCT-II)."""
    steps = torch.arange(count, dtype=torch.float64)
    rows = torch.cos(math.pi / count * (steps + 0.5) * steps[:, None]) * math.sqrt(2)
    rows[0] = 1.0
    return rows.float()
