"""The towers: a modality's way from latents to tokens and back.

Symbols in shapes: B samples, C latent channels, F x H x W the video latent, L audio tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor, nn

from training.models.ovi.block import Block, Head, Stream
from training.models.ovi.configuration import TowerConfiguration
from training.models.rope import Rope, grid_rope, line_rope

_NEARLY_LINEAR = 2.0
"""Where SiLU is close to a straight line."""


KERNEL = 7
"""Neighbouring tokens that the convolutions of the audio tower's embedding see."""


def gated_width(dim: int, multiple: int = 256) -> int:
    """Hidden width of `ConvSwiGlu`: two thirds of four times `dim`, in whole multiples."""
    return multiple * -(-int(2 * 4 * dim / 3) // multiple)


class ConvSwiGlu(nn.Module):
    """A gated feed-forward part whose three maps see seven neighbouring tokens."""

    def __init__(self, dim: int, *, kernel: int = KERNEL) -> None:
        super().__init__()
        hidden = gated_width(dim)
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
    ) -> Stream:
        """The sequence as it enters the blocks."""
        projected = self.time_projection(time).unflatten(-1, (6, -1))
        return Stream(tokens, self.text_embedding(text), projected, given, rope)

    def reset_parameters(self) -> None:
        """Xavier for every map, small normals for text and time, a head whose output is zero."""
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
    """The tower of video: three axes, patches of latents."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__(configuration)
        patch = configuration.patch_size
        self.patch_embedding = nn.Conv3d(
            configuration.channels, configuration.dim, kernel_size=patch, stride=patch
        )
        self.reset_parameters()

    def enter(
        self, latent: Tensor, timestep: Tensor, text: Tensor, given: Tensor | None
    ) -> tuple[Stream, Tensor]:
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
    """The tower of audio: one axis, a token a latent."""

    def __init__(self, configuration: TowerConfiguration) -> None:
        super().__init__(configuration)
        dim = configuration.dim
        self.patch_embedding = nn.Sequential(
            nn.Conv1d(configuration.channels, dim, KERNEL, padding=KERNEL // 2),
            nn.SiLU(),
            ConvSwiGlu(dim),
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
    ) -> tuple[Stream, Tensor]:
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
