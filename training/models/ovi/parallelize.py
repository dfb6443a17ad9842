"""Which parts of the model are sharded, recomputed and compiled as units."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from training.models.ovi.block import Block

_PARTS = ("self_attn", "cross_attn", "ffn")


def units(model: nn.Module) -> Iterator[str]:
    """Names of the attention and feed-forward parts of all blocks.

    Each runs exactly once a pass and holds tens of millions of parameters at full size. What is
    left is small.
    """
    for name, module in model.named_modules():
        if isinstance(module, Block):
            yield from (f"{name}.{part}" for part in _PARTS)
