"""A text encoder that needs no weights: a small transformer over bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from training.text.encoder import TextEncoder, TextEncoderSettings


class ByteTextSettings(TextEncoderSettings):
    """A small encoder of bytes, trained with the model."""

    kind: Literal["bytes"]
    dim: int = Field(128, ge=1, description="width of a token")
    length: int = Field(64, ge=1, description="tokens")
    stride: int = Field(4, ge=2, multiple_of=2, description="bytes a token")
    layers: int = Field(1, ge=1)
    heads: int = Field(4, ge=1)

    @pydantic.model_validator(mode="after")
    def _heads_divide(self) -> ByteTextSettings:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of the {self.heads} heads")
        return self

    def forward_flops(self) -> float:
        """Operations of one prompt: the strided convolution, and the layers' maps and attention."""
        joined = self.length * 2 * self.stride * self.dim**2
        layer = self.length * (4 + 2 * 4) * self.dim**2 + 2 * self.length**2 * self.dim
        return 2.0 * (joined + self.layers * layer)

    def build(self) -> ByteEncoder:
        """The encoder."""
        return ByteEncoder(
            dim=self.dim,
            length=self.length,
            stride=self.stride,
            layers=self.layers,
            heads=self.heads,
        )


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
