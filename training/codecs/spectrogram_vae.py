"""MMAudio's VAE of log-mel spectrograms, with the names and shapes of its released weights.

Magnitude-preserving layers as in Karras et al., "Analyzing and Improving the Training Dynamics of
Diffusion Models" (EDM2, 2023), section 4 and appendix B, in one dimension.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor, nn

_SILU_GAIN = 1 / 0.596
"""Brings SiLU of a standard normal number to unit magnitude (EDM2, eq. 81)."""
_RESIDUAL_SHARE = 0.3
_LIMIT = 256.0
_EPSILON = 1e-4
_LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class SpectrogramVaeSize:
    """Sizes of the VAE; the defaults are those of the 16 kHz release.

    Attributes:
        mels: of a spectrum.
        latent: channels of a latent.
        hidden: channels of the first level.
        multipliers: channels of each level, in `hidden`.
        blocks: residual blocks a level; the decoder has one more.
    """

    mels: int = 80
    latent: int = 20
    hidden: int = 384
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.hidden * multiplier for multiplier in self.multipliers)


class SpectrogramVae(nn.Module):
    """Log-mel spectrograms to latents of half their length, and back.

    The released weights hold the mean and deviation of each mel, which spectrograms are normalised
    with. Call `freeze_magnitudes` once after loading them.
    """

    def __init__(self, size: SpectrogramVaeSize) -> None:
        super().__init__()
        self.register_buffer("data_mean", torch.zeros(1, size.mels, 1))
        self.register_buffer("data_std", torch.ones(1, size.mels, 1))
        self.encoder = _Encoder(size)
        self.decoder = _Decoder(size)
        self.data_mean: Tensor
        self.data_std: Tensor

    def encode(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, both [B, latent, frames // 2].

        Args:
            log_mel: [B, mels, frames].
        """
        moments = self.encoder((log_mel - self.data_mean) / self.data_std)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)

    def decode(self, latent: Tensor) -> Tensor:
        """A log-mel spectrogram [B, mels, 2 * length] of a latent [B, latent, length]."""
        return self.decoder(latent) * self.data_std + self.data_mean

    def freeze_magnitudes(self) -> SpectrogramVae:
        """Bring each output's weights to unit magnitude, as in every training step (EDM2, eq. 66).

        What is stored has whatever magnitude the last step left.
        """
        for module in self.modules():
            if isinstance(module, _Convolution):
                module.weight.data = _unit_magnitude(module.weight.data, (1, 2)) / math.sqrt(
                    module.weight[0].numel()
                )
        return self


class _Convolution(nn.Module):
    """A convolution without bias that keeps its input's length."""

    def __init__(self, inputs: int, outputs: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, taps))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return F.conv1d(x, self.weight * gain, padding=self.weight.shape[2] // 2)


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(inputs, outputs, 3)
        self.conv2 = _Convolution(outputs, outputs, 3)
        self.nin_shortcut = _Convolution(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        x = _unit_magnitude(x, (1,))
        change = self.conv2(_silu(self.conv1(_silu(x))))
        if self.nin_shortcut is not None:
            x = self.nin_shortcut(x)
        return _add(x, change)


class _Attention(nn.Module):
    """Self-attention of one head over time, with queries, keys and values of unit magnitude."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = _Convolution(width, 3 * width, 1)
        self.proj_out = _Convolution(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Stored with the three interleaved, channel by channel.
        projected = self.qkv(x).unflatten(1, (-1, 3))
        q, k, v = _unit_magnitude(projected, (1,)).transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return _add(x, self.proj_out(attended))


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(width, width)
        self.attn_1 = _Attention(width)
        self.block_2 = _ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_2(self.attn_1(self.block_1(x)))
        return x.clamp(-_LIMIT, _LIMIT)


class _Halve(nn.Module):
    """Half the length: the mean of two, between two maps of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(width, width, 1)
        self.conv2 = _Convolution(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class _Double(nn.Module):
    """Twice the length: every value repeated, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _Convolution(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=2))


class _Level(nn.Module):
    """Residual blocks of one width; the length changes after them, if at all."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResidualBlock(outputs if index else inputs, outputs) for index in range(blocks)
        )
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x).clamp(-_LIMIT, _LIMIT)
        for change_length in (self.downsample, self.upsample):
            if change_length is not None:
                x = change_length(x)
        return x


class _Encoder(nn.Module):
    def __init__(self, size: SpectrogramVaeSize) -> None:
        super().__init__()
        widths = size.widths
        self.conv_in = _Convolution(size.mels, size.hidden, 3)
        inputs = (size.hidden, *widths[:-1])
        self.down = nn.ModuleList(map(_Level, inputs, widths, [size.blocks] * len(widths)))
        self.down[0].downsample = _Halve(widths[0])
        self.mid = _Middle(widths[-1])
        self.conv_out = _Convolution(widths[-1], 2 * size.latent, 3)
        self.learnable_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(_silu(self.mid(x)), gain=1 + self.learnable_gain)


class _Decoder(nn.Module):
    """Its levels are numbered as the encoder's, and run from the last to the first."""

    def __init__(self, size: SpectrogramVaeSize) -> None:
        super().__init__()
        widths = size.widths
        self.conv_in = _Convolution(size.latent, widths[-1], 3)
        self.mid = _Middle(widths[-1])
        inputs = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(map(_Level, inputs, widths, [size.blocks + 1] * len(widths)))
        self.up[1].upsample = _Double(widths[1])
        self.conv_out = _Convolution(widths[0], size.mels, 3)
        self.learnable_gain = nn.Parameter(torch.zeros(()))

    def forward(self, latent: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(_silu(x), gain=1 + self.learnable_gain)


def _unit_magnitude(x: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    """Scaled so that the mean square over the dimensions is 1, where it is not near 0."""
    norm = torch.linalg.vector_norm(x, dim=dimensions, keepdim=True, dtype=torch.float32)
    magnitude = norm * math.sqrt(norm.numel() / x.numel())
    return x / (_EPSILON + magnitude).to(x.dtype)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x) * _SILU_GAIN


def _add(x: Tensor, change: Tensor) -> Tensor:
    """A residual sum that keeps the magnitude (EDM2, eq. 88)."""
    keep, take = 1 - _RESIDUAL_SHARE, _RESIDUAL_SHARE
    return (keep * x + take * change) / math.hypot(keep, take)
