"""Prompts to vectors: the interface, and an encoder that needs no weights."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module, abc.ABC):
    """Turns prompts into [B, length, dim]: a prompt's tokens, then zeros.

    Attributes:
        dim: width of a token.
        length: tokens; what a prompt has beyond them is cut.
    """

    dim: int
    length: int

    @abc.abstractmethod
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts; an empty one is all zeros, which is what a dropped caption is."""


class ByteEncoder(TextEncoder):
    """A small transformer over UTF-8 bytes, trained from scratch with the model.

    A strided convolution joins `stride` bytes to a token, so that a caption's sentences fit.
    """

    def __init__(self, *, dim: int, length: int, stride: int, layers: int, heads: int) -> None:
        super().__init__()
        self.dim, self.length, self.stride = dim, length, stride
        self.bytes = nn.Embedding(257, dim, padding_idx=256)
        self.join = nn.Conv1d(dim, dim, 2 * stride, stride=stride, padding=stride // 2)
        self.positions = nn.Parameter(0.02 * torch.randn(length, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts into [B, length, dim]."""
        device = self.positions.device
        room = self.length * self.stride
        codes = torch.full((len(prompts), room), 256)
        for row, prompt in enumerate(prompts):
            data = prompt.encode()[:room]
            codes[row, : len(data)] = torch.tensor(list(data), dtype=torch.long)
        used = (codes != 256).sum(1).add(self.stride - 1).div(self.stride, rounding_mode="floor")
        tokens = self.join(self.bytes(codes.to(device)).transpose(1, 2)).transpose(1, 2)
        padding = torch.arange(self.length)[None] >= used[:, None]
        # A row without any token would attend to nothing: it sees its own zeros instead.
        blind = padding & (used > 0)[:, None]
        hidden = self.layers(tokens + self.positions, src_key_padding_mask=blind.to(device))
        return self.norm(hidden).masked_fill(padding[..., None].to(device), 0.0)
