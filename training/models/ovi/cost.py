"""What a step of the model costs: operations, and memory for the way back."""

from __future__ import annotations

import math

from training.models.family import Flops, Gradients, TokenCounts
from training.models.ovi.configuration import TowerConfiguration
from training.models.ovi.tower import KERNEL, gated_width

_BYTES_FP32 = 4


def step_flops(
    video: TowerConfiguration,
    audio: TowerConfiguration,
    tokens: TokenCounts,
    gradients: Gradients,
) -> Flops:
    """Operations of one sample's training step.

    Walks through the model as a pass does. Where a tower has no tokens it is left out, and so is
    the attention of the other to it.
    """
    towers = [
        _TowerCount(name, configuration, count, tokens.text, gradients)
        for name, configuration, count in (
            ("video_model", video, tokens.video),
            ("audio_model", audio, tokens.audio),
        )
        if count
    ]
    for tower in towers:
        tower.enter()
    for index in range(video.layers):
        for tower in towers:
            tower.within(index)
        # Both read the other's state from before its own cross-attention.
        met = [(other.tokens, other.needs) for other in reversed(towers)]
        for tower, other in zip(towers, met, strict=True):
            tower.across(index, *(other if len(towers) > 1 else (0, False)))
    for tower, judged in zip(towers, _judged(tokens, gradients), strict=True):
        tower.leave(judged=judged)
    return Flops(
        sum(tower.forward for tower in towers),
        sum(tower.backward for tower in towers),
        sum(tower.recomputed for tower in towers),
    )


def _judged(tokens: TokenCounts, gradients: Gradients) -> list[bool]:
    """Whether each tower that is there has a loss."""
    towers = (tokens.video, gradients.video), (tokens.audio, gradients.audio)
    return [judged for count, judged in towers if count]


class _TowerCount:
    """Adds up one tower's operations along a pass.

    Attributes:
        tokens: of its sequence.
        needs: whether the sequence, as far as it has come, needs a gradient.
        forward: operations of the forward pass.
        backward: of the backward pass.
        recomputed: of what units run again.
    """

    def __init__(
        self,
        name: str,
        configuration: TowerConfiguration,
        tokens: int,
        text: int,
        gradients: Gradients,
    ) -> None:
        self._name, self._c, self._text, self._gradients = name, configuration, text, gradients
        self.tokens = tokens
        self.needs = False
        self.forward = self.backward = self.recomputed = 0.0
        self._after = 0.0
        """Of the backward pass, what lies behind the last state that the other tower reads."""
        self._recomputed_after = 0.0

    def enter(self) -> None:
        """The embeddings of latents, text and time."""
        c = self._c
        patch = c.channels * math.prod(c.patch_size)
        if self._name == "video_model":
            self.needs = self._map("patch_embedding", self.tokens * patch * c.dim, needs=False)
        else:
            hidden = self.tokens * KERNEL * gated_width(c.dim) * c.dim
            embedded = self._map(
                "patch_embedding.0", self.tokens * KERNEL * patch * c.dim, needs=False
            )
            gated = [self._map(f"patch_embedding.2.{w}", hidden, embedded) for w in ("w1", "w3")]
            self.needs = self._map("patch_embedding.2.w2", hidden, any(gated))
        text = self._map("text_embedding.0", self._text * c.text_dim * c.dim, self._gradients.text)
        self._text_needs = self._map("text_embedding.2", self._text * c.dim * c.dim, text)
        time = self._map("time_embedding.0", c.freq_dim * c.dim, needs=False)
        self._time_needs = self._map("time_embedding.2", c.dim * c.dim, time)
        self._shift_needs = self._map("time_projection.1", 6 * c.dim * c.dim, self._time_needs)

    def within(self, index: int) -> None:
        """A block's self-attention."""
        block, square = f"blocks.{index}.self_attn", self.tokens * self._c.dim**2
        shifted = self._shift_needs or self._trained(f"blocks.{index}.modulation.modulation")
        before = self.forward
        x = self.needs or shifted
        q = self._map(f"{block}.q", square, x) or self._trained(f"{block}.norm_q.weight")
        k = self._map(f"{block}.k", square, x) or self._trained(f"{block}.norm_k.weight")
        v = self._map(f"{block}.v", square, x)
        self._attend(self.tokens, q=q, k=k, v=v)
        inner = self.forward - before
        y = self._map(f"{block}.o", square, q or k or v)
        self._recompute(inner, y)
        self.needs = x or y
        self._after = self._recomputed_after = 0.0

    def across(self, index: int, other: int, other_needs: bool) -> None:
        """A block's attention over the text and the other tower, and its feed-forward part.

        Args:
            index: of the block.
            other: tokens of the other tower, 0 without one.
            other_needs: whether their state needs a gradient.
        """
        c, block, before = self._c, f"blocks.{index}.cross_attn", self.forward
        behind = self.backward, self.recomputed
        square, text = self.tokens * c.dim**2, self._text * c.dim**2
        shifted = self._shift_needs or self._trained(f"blocks.{index}.modulation.modulation")
        x = self.needs or self._norm(f"blocks.{index}.norm3")
        q = self._map(f"{block}.q", square, x) or self._trained(f"{block}.norm_q.weight")
        k = self._map(f"{block}.k", text, self._text_needs)
        k = k or self._trained(f"{block}.norm_k.weight")
        v = self._map(f"{block}.v", text, self._text_needs)
        self._attend(self._text, q=q, k=k, v=v)
        y = q or k or v
        if other:
            source = other_needs or self._norm(f"{block}.pre_attn_norm_fusion")
            k = self._map(f"{block}.k_fusion", other * c.dim**2, source)
            k = k or self._trained(f"{block}.norm_k_fusion.weight")
            v = self._map(f"{block}.v_fusion", other * c.dim**2, source)
            self._attend(other, q=q, k=k, v=v)
            y = y or k or v
        inner = self.forward - before
        y = self._map(f"{block}.o", square, y)
        self._recompute(inner, y)
        x = self.needs or y or shifted
        hidden = self.tokens * c.dim * c.ffn_dim
        y = self._map(f"blocks.{index}.ffn.0", hidden, x)
        y = self._map(f"blocks.{index}.ffn.2", hidden, y)
        self._recompute(2.0 * hidden, y)
        self.needs = x or y
        self._after = self.backward - behind[0]
        self._recomputed_after = self.recomputed - behind[1]

    def leave(self, *, judged: bool) -> None:
        """The head; without a loss, nothing behind what the other tower read has a gradient."""
        c = self._c
        if not judged:
            self.backward -= self._after
            self.recomputed -= self._recomputed_after
        x = self.needs or self._time_needs or self._trained("head.modulation")
        backward = self.backward
        self._map("head.head", self.tokens * c.dim * c.channels * math.prod(c.patch_size), x)
        if not judged:
            self.backward = backward

    def _map(self, name: str, multiplications: float, needs: bool) -> bool:
        """A linear map or a convolution of something; whether its output needs a gradient."""
        trained = self._trained(f"{name}.weight")
        self.forward += 2.0 * multiplications
        self.backward += 2.0 * multiplications * (trained + needs)
        beside = ("bias", "lora_A.weight", "lora_B.weight")
        return needs or trained or any(self._trained(f"{name}.{one}") for one in beside)

    def _attend(self, keys: int, *, q: bool, k: bool, v: bool) -> None:
        """Scores and their product with the values, and of both the gradients that are needed."""
        product = 2.0 * self.tokens * keys * self._c.dim
        self.forward += 2 * product
        self.backward += product * ((q or k) + q + k + v)

    def _recompute(self, inner: float, needs: bool) -> None:
        """A unit runs again if anything goes back through it, up to what its last map reads."""
        self.recomputed += inner if needs else 0.0

    def _norm(self, name: str) -> bool:
        return self._trained(f"{name}.weight") or self._trained(f"{name}.bias")

    def _trained(self, name: str) -> bool:
        return self._gradients.trained(f"{self._name}.{name}")


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
