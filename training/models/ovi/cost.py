"""What a pass through the model costs: operations, and memory for the way back."""

from __future__ import annotations

import math

from training.models.family import TokenCounts
from training.models.ovi.configuration import TowerConfiguration
from training.models.ovi.tower import KERNEL, gated_width

_BYTES_FP32 = 4


def forward_flops(
    video: TowerConfiguration, audio: TowerConfiguration, tokens: TokenCounts
) -> float:
    """Floating-point operations of one sample's forward pass, two per multiplication.

    Only matrix products and convolutions count, as is usual. Where a tower has no tokens it is left
    out, and so is the attention of the other to it.
    """
    return _tower_flops(video, tokens.video, tokens.audio, tokens.text) + _tower_flops(
        audio, tokens.audio, tokens.video, tokens.text, convolutions=True
    )


def _tower_flops(
    c: TowerConfiguration, tokens: int, other: int, text: int, *, convolutions: bool = False
) -> float:
    if not tokens:
        return 0.0
    dim = c.dim
    linear = tokens * (4 * dim + 2 * dim + 2 * c.ffn_dim) * dim  # self; q and o across; FFN
    linear += (2 * text + 2 * other) * dim * dim  # keys and values of text and of the other tower
    attention = 2 * tokens * (tokens + text + other) * dim
    patch = c.channels * math.prod(c.patch_size)
    ends = tokens * patch * dim * (1 + KERNEL if convolutions else 2)
    ends += tokens * 3 * KERNEL * gated_width(dim) * dim if convolutions else 0
    embeddings = text * (c.text_dim + dim) * dim + 8 * dim * dim
    return 2.0 * (c.layers * (linear + attention) + ends + embeddings)


def activation_bytes(
    dim: int, ffn_dim: int, layers: int, tokens: TokenCounts, *, matmul_bytes: int, recompute: bool
) -> float:
    """Bytes that one sample's forward pass leaves behind for its backward pass, about.

    Counted per token of a block. Outside the units: the residual stream's norms, modulations and
    gates, in fp32, nine times the width. Inside, in the precision of matrix products: the inputs of
    the three units alone when they are recomputed; else also queries, keys, values, their norms and
    rotations, and both sides of the hidden layer.

    Args:
        dim: width of a token.
        ffn_dim: hidden width of a block's feed-forward part.
        layers: blocks of a tower.
        tokens: of a sample.
        matmul_bytes: of a number in a matrix product.
        recompute: whether the units run again on the way back.
    """
    outside = 9 * dim * _BYTES_FP32
    inside = 4 * dim * matmul_bytes
    if not recompute:
        inside += (16 * dim + 2 * ffn_dim) * matmul_bytes
    return float((tokens.video + tokens.audio) * layers * (outside + inside))
