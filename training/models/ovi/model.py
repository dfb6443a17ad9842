"""Ovi's joint generator (arXiv 2510.01284): two equal towers, fused block by block.

Module names and shapes are those of the released checkpoint, so that it loads as it is. Symbols in
shapes: B samples, C latent channels, F x H x W the video latent, L audio tokens, T text tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor, nn

from training.models.rope import Rope, grid_rope, line_rope

TIMESTEPS = 1000.0
"""Timesteps run from 0 (data) to this (noise)."""


_NEARLY_LINEAR = 2.0
"""Where SiLU is close to a straight line."""


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

    @classmethod
    def from_released(cls, values: Mapping[str, Any]) -> TowerConfiguration:
        """A tower as the released models' JSON files describe it."""
        patch = list(values["patch_size"])
        return cls(
            channels=values["in_dim"],
            dim=values["dim"],
            ffn_dim=values["ffn_dim"],
            freq_dim=values["freq_dim"],
            heads=values["num_heads"],
            layers=values["num_layers"],
            text_dim=values.get("text_dim", 4096),
            text_length=values["text_len"],
            patch_size=(patch[0], patch[1], patch[2]) if len(patch) == 3 else (1, 1, 1),
            rope_scale=values.get("temporal_rope_scaling_factor", 1.0),
            eps=values["eps"],
        )


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
class _Stream:
    """One tower's sequence on its way through the blocks."""

    tokens: Tensor
    text: Tensor
    time: Tensor
    given: Tensor | None
    rope: Rope

    def modulation(self, block: Block) -> Modulation:
        return Modulation(block.modulation(self.time), self.given)

    def at(self, tokens: Tensor) -> _Stream:
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

    def within(self, stream: _Stream, m: Modulation) -> Tensor:
        """Self-attention: the state that the other tower reads."""
        x = stream.tokens
        return x + self.self_attn(self.norm1(x) * (1 + m[1]) + m[0], stream.rope) * m[2]

    def across(self, stream: _Stream, m: Modulation, other: _Stream | None) -> Tensor:
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


class ConvSwiGlu(nn.Module):
    """A gated feed-forward part whose three maps see seven neighbouring tokens."""

    def __init__(self, dim: int, *, kernel: int = 7, multiple: int = 256) -> None:
        super().__init__()
        hidden = multiple * -(-int(2 * 4 * dim / 3) // multiple)
        self.w1 = nn.Conv1d(dim, hidden, kernel, padding=kernel // 2, bias=False)
        self.w2 = nn.Conv1d(hidden, dim, kernel, padding=kernel // 2, bias=False)
        self.w3 = nn.Conv1d(dim, hidden, kernel, padding=kernel // 2, bias=False)

    def reset_parameters(self) -> None:
        """Start as a linear map of each token, near enough: the gate nearly constant.

        A random gate over seven tokens would hide its input, and a model that must hand noise
        through would first have to learn to undo it. The gate is the mean over the width, which the
        activations before it hold well above zero; the gated branch sees none of that mean.
        """
        middle = self.w1.kernel_size[0] // 2
        for layer in (self.w1, self.w2, self.w3):
            centre_tap_(layer.weight, middle)
        with torch.no_grad():
            self.w1.weight[..., middle].mul_(0.1).add_(1 / self.w1.in_channels)
            self.w3.weight[..., middle].sub_(self.w3.weight[..., middle].mean(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim, tokens] to the same."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def centre_tap_(weight: Tensor, middle: int) -> None:
    """Xavier for the middle of a convolution's kernel [out, in, taps], zero for the rest."""
    nn.init.zeros_(weight)
    nn.init.xavier_uniform_(weight[..., middle])


class Tower(nn.Module):
    """Embeddings, blocks and head of one modality."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        dim = configuration.dim
        self.text_embedding = nn.Sequential(
            nn.Linear(configuration.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(configuration.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(configuration) for _ in range(configuration.layers))
        self.head = Head(configuration)

    def embed_time(self, timestep: Tensor, given: Tensor | None) -> Tensor:
        """Embed a sample's own timestep and, where tokens are given, timestep 0: [B, K, dim]."""
        times = timestep[:, None]
        if given is not None:
            times = torch.cat((times, torch.zeros_like(times)), dim=1)
        half = self.configuration.freq_dim // 2
        exponents = torch.arange(half, device=times.device, dtype=torch.float64) / half
        angles = times.double()[..., None] * 10_000**-exponents
        sinusoid = torch.cat((angles.cos(), angles.sin()), dim=-1).float()
        return self.time_embedding(sinusoid)

    def stream(
        self, tokens: Tensor, text: Tensor, time: Tensor, given: Tensor | None, rope: Rope
    ) -> _Stream:
        """The sequence as it enters the blocks."""
        projected = self.time_projection(time).unflatten(-1, (6, -1))
        return _Stream(tokens, self.text_embedding(text), projected, given, rope)

    def reset_parameters(self) -> None:
        """Xavier for every map, small normals for text and time, a head that says zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.time_embedding:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.text_embedding:
            if isinstance(module, nn.Linear):
                # About 0.02 at full width, and as loud a prompt at any other.
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(self.head.head.weight)


class VideoTower(Tower):
    """The tower of pictures: three axes, patches of latents."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__(configuration)
        patch = configuration.patch_size
        self.patch_embedding = nn.Conv3d(
            configuration.channels, configuration.dim, kernel_size=patch, stride=patch
        )
        self.reset_parameters()

    def enter(
        self, latent: Tensor, timestep: Tensor, text: Tensor, given: Tensor | None
    ) -> tuple[_Stream, Tensor]:
        """Tokens of a latent [B, C, F, H, W] and the embedded time."""
        self._check(latent)
        tokens = self.patch_embedding(latent)
        frames, height, width = tokens.shape[2:]
        rope = grid_rope((frames, height, width), self.configuration.head_dim, latent.device)
        time = self.embed_time(timestep, given)
        return self.stream(tokens.flatten(2).transpose(1, 2), text, time, given, rope), time

    def leave(
        self, tokens: Tensor, time: Tensor, given: Tensor | None, shape: torch.Size
    ) -> Tensor:
        """The velocity [B, C, F, H, W] of the latent of this shape."""
        y = self.head(tokens, time, given)
        f, h, w = self.configuration.patch_size
        grid = (shape[2] // f, shape[3] // h, shape[4] // w)
        y = y.unflatten(2, (f, h, w, -1)).unflatten(1, grid)
        # [B, F, H, W, f, h, w, C] to [B, C, F, f, H, h, W, w]
        return y.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(shape)

    def _check(self, latent: Tensor) -> None:
        patch = self.configuration.patch_size
        sides = latent.shape[2:]
        if latent.shape[1] != self.configuration.channels or any(
            side % size for side, size in zip(sides, patch, strict=True)
        ):
            raise ValueError(
                f"a video latent [B, {self.configuration.channels}, F, H, W] with F, H, W multiples"
                f" of {patch} is expected, not {list(latent.shape)}"
            )


class AudioTower(Tower):
    """The tower of sound: one axis, a token a latent."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__(configuration)
        dim = configuration.dim
        self.patch_embedding = nn.Sequential(
            nn.Conv1d(configuration.channels, dim, 7, padding=3), nn.SiLU(), ConvSwiGlu(dim)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As every tower, and an embedding through which tokens pass nearly linearly at first."""
        super().reset_parameters()
        first, _, gated = self.patch_embedding
        assert isinstance(first, nn.Conv1d)
        assert isinstance(gated, ConvSwiGlu)
        centre_tap_(first.weight, first.kernel_size[0] // 2)
        assert first.bias is not None
        nn.init.constant_(first.bias, _NEARLY_LINEAR)
        gated.reset_parameters()

    def enter(
        self, latent: Tensor, timestep: Tensor, text: Tensor, given: Tensor | None
    ) -> tuple[_Stream, Tensor]:
        """Tokens of a latent [B, L, C] and the embedded time."""
        if latent.shape[2] != self.configuration.channels:
            raise ValueError(
                f"an audio latent [B, L, {self.configuration.channels}] is expected,"
                f" not {list(latent.shape)}"
            )
        tokens = self.patch_embedding(latent.transpose(1, 2)).transpose(1, 2)
        configuration = self.configuration
        rope = line_rope(
            latent.shape[1], configuration.head_dim, latent.device, scale=configuration.rope_scale
        )
        time = self.embed_time(timestep, given)
        return self.stream(tokens, text, time, given, rope), time

    def leave(self, tokens: Tensor, time: Tensor, given: Tensor | None) -> Tensor:
        """The velocity [B, L, C]."""
        return self.head(tokens, time, given)


class OviModel(nn.Module):
    """Both towers. Either may be left out of a pass: then the other is an ordinary generator."""

    def __init__(self, video: TowerConfiguration, audio: TowerConfiguration) -> None:
        super().__init__()
        if (video.dim, video.heads, video.layers) != (audio.dim, audio.heads, audio.layers):
            raise ValueError("both towers need equal dim, heads and layers to be fused")
        self.video_model = VideoTower(video)
        self.audio_model = AudioTower(audio)

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        timestep: Tensor,
        text: Tensor,
        *,
        video_given: Tensor | None = None,
        audio_given: Tensor | None = None,
        audio_timestep: Tensor | None = None,
        audio_text: Tensor | None = None,
        skip_blocks: Collection[int] = (),
    ) -> tuple[Tensor | None, Tensor | None]:
        """Predict velocities.

        Args:
            video: noisy latent [B, C, F, H, W], or None to leave the tower out.
            audio: noisy latent [B, L, C], or None to leave the tower out.
            timestep: noise level [B] in 0..1000 of the generated tokens.
            text: [B, T, text_dim], zero-padded.
            video_given: bool [B, video tokens]: clean tokens, whose timestep is 0.
            audio_given: bool [B, L], the same for sound.
            audio_timestep: noise level [B] of the sound where it is not the video's.
            audio_text: the sound's own text where it is not the pictures' (negative prompts).
            skip_blocks: blocks that both towers pass over (guidance without them).

        Returns:
            (video velocity [B, C, F, H, W] or None, audio velocity [B, L, C] or None).

        Raises:
            ValueError: a latent has another shape than expected.
        """
        audio_timestep = timestep if audio_timestep is None else audio_timestep
        audio_text = text if audio_text is None else audio_text
        v, a = None, None
        if video is not None:
            v, video_time = self.video_model.enter(video, timestep, text, video_given)
        if audio is not None:
            a, audio_time = self.audio_model.enter(audio, audio_timestep, audio_text, audio_given)
        for index in range(len(self.video_model.blocks)):
            if index not in skip_blocks:
                v, a = self._block(index, v, a)
        return (
            None
            if v is None or video is None
            else self.video_model.leave(v.tokens, video_time, video_given, video.shape),
            None if a is None else self.audio_model.leave(a.tokens, audio_time, audio_given),
        )

    def _block(
        self, index: int, v: _Stream | None, a: _Stream | None
    ) -> tuple[_Stream | None, _Stream | None]:
        """One fusion block: each tower attends within, then to the other's state from before."""
        blocks = (self.video_model.blocks[index], self.audio_model.blocks[index])
        modulations: list[Any] = [None, None]
        within: list[_Stream | None] = [None, None]
        for side, (block, stream) in enumerate(zip(blocks, (v, a), strict=True)):
            assert isinstance(block, Block)
            if stream is not None:
                modulations[side] = stream.modulation(block)
                within[side] = stream.at(block.within(stream, modulations[side]))
        across: list[_Stream | None] = [None, None]
        for side, (block, stream) in enumerate(zip(blocks, within, strict=True)):
            assert isinstance(block, Block)
            if stream is not None:
                other = within[1 - side]
                across[side] = stream.at(block.across(stream, modulations[side], other))
        return across[0], across[1]

    def forward_flops(self, video_tokens: int, audio_tokens: int, text_tokens: int) -> float:
        """Floating-point operations of one sample's forward pass, two per multiplication.

        Only matrix products and convolutions count, as is usual. Where a tower has no tokens it is
        left out, and so is the attention of the other to it.
        """
        video, audio = self.video_model.configuration, self.audio_model.configuration
        return _tower_flops(video, video_tokens, audio_tokens, text_tokens) + _tower_flops(
            audio, audio_tokens, video_tokens, text_tokens, convolutions=True
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
    hidden = 256 * -(-int(2 * 4 * dim / 3) // 256)
    ends = tokens * patch * dim * (8 if convolutions else 2)
    ends += tokens * 3 * 7 * hidden * dim if convolutions else 0
    embeddings = text * (c.text_dim + dim) * dim + 8 * dim * dim
    return 2.0 * (c.layers * (linear + attention) + ends + embeddings)
