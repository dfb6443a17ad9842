"""A video codec that is fitted to the data: principal components of blocks of pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from training.codecs.codec import FittedVideoCodec, VideoCodecSettings
from training.codecs.components import Components, gathered

_VECTORS = 3000
"""To fit to, at most: some dozens for each component."""


class PcaSettings(VideoCodecSettings):
    """Principal components of blocks in space and time: fitted in seconds, needs no weights."""

    kind: Literal["pca"]
    is_fitted: ClassVar[bool] = True
    rows: int = Field(32, ge=1, description="of a block")
    columns: int = Field(32, ge=1, description="of a block")
    frames: int = Field(4, ge=1, description="of a block, after the first frame")
    components: int = Field(96, ge=1, description="kept of a block")

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.components

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns a latent."""
        return self.frames, self.rows, self.columns

    def build(self) -> Pca:
        """The codec, not fitted yet."""
        return Pca(self.stride, self.components)


class Pca(FittedVideoCodec):
    """Blocks of pixels as their largest principal components.

    The first frame, a latent of its own, is encoded as a block in which nothing moves.

    Args:
        size: frames, rows and columns of a block.
        components: kept of it.
    """

    def __init__(self, size: tuple[int, int, int], components: int) -> None:
        super().__init__()
        self.size = size
        self.components = Components(3 * math.prod(size), components)

    def fit(self, clips: Iterable[Tensor]) -> None:
        """Find the components of clips [3, 1 + (F - 1) * frames, rows, columns] in [-1, 1]."""
        blocks = (self._blocks(clip[None]).flatten(0, 3) for clip in clips)
        self.components.fit(gathered(blocks, _VECTORS))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents [B, components, F, H, W] of [B, 3, 1 + (F - 1) * frames, rows, columns]."""
        return self.components.encode(self._blocks(frames)).permute(0, 4, 1, 2, 3)

    def decode(self, latent: Tensor) -> Tensor:
        """Frames [B, 3, 1 + (F - 1) * frames, rows, columns] in [-1, 1]."""
        blocks = self.components.decode(latent.permute(0, 2, 3, 4, 1))
        blocks = blocks.unflatten(-1, (3, *self.size))
        # [B, F, H, W, 3, f, h, w] to [B, 3, F, f, H, h, W, w]
        pixels = blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5)
        first = pixels[:, :, :1].mean(3)
        return torch.cat((first, pixels[:, :, 1:].flatten(2, 3)), dim=2).clamp(-1, 1)

    def _blocks(self, frames: Tensor) -> Tensor:
        """Blocks [B, F, H, W, 3 * f * h * w], of f frames, h rows and w columns."""
        f, h, w = self.size
        first = frames[:, :, :1].expand(-1, -1, f, -1, -1)
        pixels = torch.cat((first, frames[:, :, 1:]), dim=2).unflatten(2, (-1, f))
        pixels = pixels.unflatten(5, (-1, w)).unflatten(4, (-1, h))
        # [B, 3, F, f, H, h, W, w] to [B, F, H, W, 3, f, h, w]
        return pixels.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
