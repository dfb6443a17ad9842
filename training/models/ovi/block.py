"""A block of one tower, in two halves between which the towers meet, and the head after the last.

Symbols in shapes: B samples, T text tokens, K distinct timesteps of a sample.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor, nn

from training.models.ovi.configuration import TowerConfiguration
from training.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class Modulation:
    """Shift, scale and gate of a block's two halves, each [B, K, dim], for K distinct timesteps.

    The reference computes six vectors a token; given and generated tokens have only two timesteps
    a sample, so that these are embedded once and chosen per token when they are used.
    """

    parts: tuple[Tensor, ...]
    given: Tensor | None

    def __getitem__(self, index: int) -> Tensor:
        """One of the vectors, for each token: [B, tokens or 1, dim]."""
        part = self.parts[index]
        if self.given is None:
            return part[:, :1]
        return torch.where(self.given[..., None], part[:, 1:], part[:, :1])


@dataclasses.dataclass(frozen=True)
class Stream:
    """One tower's sequence on its way through the blocks."""

    tokens: Tensor
    text: Tensor
    time: Tensor
    given: Tensor | None
    rope: Rope

    def modulation(self, block: Block) -> Modulation:
        """Shift, scale and gate that a block gives this stream."""
        return Modulation(block.modulation(self.time), self.given)

    def at(self, tokens: Tensor) -> Stream:
        """The stream with other tokens."""
        return dataclasses.replace(self, tokens=tokens)


class BlockModulation(nn.Module):
    """A block's own offset to the time embedding's projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        """Six vectors [B, K, dim] from the projection [B, K, 6, dim]."""
        return (self.modulation[:, None] + time).unbind(2)


class SelfAttention(nn.Module):
    """Attention within a sequence; queries and keys normalised over the whole width."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__()
        dim, self.head_dim = configuration.dim, configuration.head_dim
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=configuration.eps)
        self.norm_k = nn.RMSNorm(dim, eps=configuration.eps)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Attend over `x` [B, tokens, dim]."""
        q = rope.rotate(self.split(self.norm_q(self.q(x))))
        k = rope.rotate(self.split(self.norm_k(self.k(x))))
        return self.o(attend(q, k, self.split(self.v(x))))

    def split(self, x: Tensor) -> Tensor:
        """[B, tokens, dim] as [B, tokens, heads, head_dim]."""
        return x.unflatten(-1, (-1, self.head_dim))


class CrossAttention(SelfAttention):
    """One query over the text and, added to it, over the other tower (section 3.2)."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__(configuration)
        dim, eps = configuration.dim, configuration.eps
        self.k_fusion = nn.Linear(dim, dim)
        self.v_fusion = nn.Linear(dim, dim)
        self.norm_k_fusion = nn.RMSNorm(dim, eps=eps)
        self.pre_attn_norm_fusion = nn.LayerNorm(dim, eps=eps)

    def forward(  # type: ignore[override]  # another signature than its parent's, on purpose
        self,
        x: Tensor,
        text: Tensor,
        rope: Rope,
        other: Tensor | None = None,
        other_rope: Rope | None = None,
    ) -> Tensor:
        """Attend from `x` [B, tokens, dim] to `text` [B, T, dim] and `other` [B, tokens, dim]."""
        q = self.split(self.norm_q(self.q(x)))
        k, v = self.split(self.norm_k(self.k(text))), self.split(self.v(text))
        y = attend(q, k, v)
        if other is not None and other_rope is not None:
            source = self.pre_attn_norm_fusion(other)
            k = other_rope.rotate(self.split(self.norm_k_fusion(self.k_fusion(source))))
            y = y + attend(rope.rotate(q), k, self.split(self.v_fusion(source)))
        return self.o(y)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of [B, tokens, heads, head_dim]; [B, tokens, dim]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A transformer block of one tower, in two halves between which the towers meet."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__()
        dim, eps = configuration.dim, configuration.eps
        self.modulation = BlockModulation(dim)
        self.norm1 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.self_attn = SelfAttention(configuration)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(configuration)
        self.norm2 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, configuration.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(configuration.ffn_dim, dim),
        )

    def within(self, stream: Stream, m: Modulation) -> Tensor:
        """Self-attention: the state that the other tower reads."""
        x = stream.tokens
        return x + self.self_attn(self.norm1(x) * (1 + m[1]) + m[0], stream.rope) * m[2]

    def across(self, stream: Stream, m: Modulation, other: Stream | None) -> Tensor:
        """Attention over text and the other tower, then the feed-forward part."""
        x = stream.tokens
        source = (other.tokens, other.rope) if other is not None else ()
        x = x + self.cross_attn(self.norm3(x), stream.text, stream.rope, *source)
        return x + self.ffn(self.norm2(x) * (1 + m[4]) + m[3]) * m[5]


class Head(nn.Module):
    """The last norm, modulated by the time embedding itself, and the way back to latents."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__()
        dim = configuration.dim
        self.norm = nn.LayerNorm(dim, eps=configuration.eps, elementwise_affine=False)
        self.head = nn.Linear(dim, configuration.channels * math.prod(configuration.patch_size))
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, time: Tensor, given: Tensor | None) -> Tensor:
        """Velocities [B, tokens, patch * channels] from `time` [B, K, dim]."""
        parts = (self.modulation[:, None] + time[:, :, None]).unbind(2)
        m = Modulation(parts, given)
        return self.head(self.norm(x) * (1 + m[1]) + m[0])
