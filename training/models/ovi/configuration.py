"""The size of a tower."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class TowerConfiguration:
    """The size of one tower.

    Attributes:
        channels: of a latent, in and out.
        dim: width of a token, a multiple of `2 * heads`.
        ffn_dim: hidden width of a block's feed-forward part.
        freq_dim: width of the timestep's sinusoid, even.
        heads: attention heads.
        layers: blocks; equal in both towers.
        text_dim: width of a text token.
        text_length: text tokens; shorter prompts are zero-padded, and the padding attends.
        patch_size: video: latents a token along time, height and width. Audio has no patches.
        rope_scale: audio: factor of the rotary frequencies.
        eps: of every norm.
    """

    channels: int
    dim: int
    ffn_dim: int
    freq_dim: int
    heads: int
    layers: int
    text_dim: int
    text_length: int
    patch_size: tuple[int, int, int] = (1, 1, 1)
    rope_scale: float = 1.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} is no multiple of twice the {self.heads} heads")

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.dim // self.heads
