"""BigVGAN, from log-mel spectrograms to waveforms, with the names and shapes of its releases.

Lee et al., "BigVGAN: A Universal Neural Vocoder with Large-Scale Training" (2022). Snake functions
with logarithmic parameters, between a doubling and a halving of the rate that keep out aliases.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

_TAPS = 12
_EPSILON = 1e-9


@dataclasses.dataclass(frozen=True)
class BigVganSize:
    """Sizes of the vocoder; the defaults are those of MMAudio's 16 kHz release.

    Attributes:
        mels: of a spectrum.
        width: channels before the first upsampling; each halves them.
        rates: factors of the upsamplings; their product is the samples of a spectrum.
        rate_taps: of their convolutions.
        taps: of the residual blocks that follow each upsampling, side by side.
        dilations: of the layers of each residual block.
    """

    mels: int = 80
    width: int = 1536
    rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
    rate_taps: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
    taps: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)


class BigVgan(nn.Module):
    """The vocoder. Call `fold_weight_norm` once after loading weights."""

    def __init__(self, size: BigVganSize) -> None:
        super().__init__()
        widths = [size.width >> step for step in range(len(size.rates) + 1)]
        self.conv_pre = weight_norm(nn.Conv1d(size.mels, widths[0], 7, padding=3))
        self.ups = nn.ModuleList()
        # All blocks in one list, as the released names have it: those of an upsampling in a row.
        self.resblocks = nn.ModuleList()
        for step, (rate, taps) in enumerate(zip(size.rates, size.rate_taps, strict=True)):
            before, after = widths[step], widths[step + 1]
            convolution = nn.ConvTranspose1d(
                before, after, taps, stride=rate, padding=(taps - rate) // 2
            )
            # In a container of its own: the released names count there once more.
            self.ups.append(nn.Sequential(weight_norm(convolution)))
            self.resblocks.extend(_ResidualBlock(after, one, size.dilations) for one in size.taps)
        self.branches = len(size.taps)
        self.activation_post = _Activation(widths[-1])
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], 1, 7, padding=3))

    def forward(self, log_mel: Tensor) -> Tensor:
        """A waveform [B, frames * samples a spectrum] in [-1, 1] of [B, mels, frames]."""
        x = self.conv_pre(log_mel)
        for step, upsample in enumerate(self.ups):
            x = upsample(x)
            first = step * self.branches
            blocks = self.resblocks[first : first + self.branches]
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return self.conv_post(self.activation_post(x)).tanh()[:, 0]

    def fold_weight_norm(self) -> BigVgan:
        """Compute every convolution's weights from direction and length, once and for all."""
        for module in list(self.modules()):
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                remove_parametrizations(module, "weight")
        return self


class _ResidualBlock(nn.Module):
    """Layers of two convolutions, the first dilated, a snake before each (figure 1)."""

    def __init__(self, width: int, taps: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_convolution(width, taps, one) for one in dilations)
        self.convs2 = nn.ModuleList(_convolution(width, taps, 1) for _ in dilations)
        self.activations = nn.ModuleList(_Activation(width) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        for layer, (dilated, plain) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            first, second = self.activations[2 * layer], self.activations[2 * layer + 1]
            x = x + plain(second(dilated(first(x))))
        return x


def _convolution(width: int, taps: int, dilation: int) -> nn.Module:
    padding = dilation * (taps - 1) // 2
    return weight_norm(nn.Conv1d(width, width, taps, dilation=dilation, padding=padding))


class _Activation(nn.Module):
    """A snake at twice the rate, between low-pass filters (section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = _Snake(width)
        self.upsample = _Upsample()
        self.downsample = _Downsample()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


class _Snake(nn.Module):
    """x + sin^2(a x) / b, with the logarithms of a and b of each channel learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + (alpha * x).sin().square() / (beta + _EPSILON)


class _LowPass(nn.Module):
    """A filter of `_TAPS` taps; the released weights hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.zeros(1, 1, _TAPS))
        self.filter: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Filtered, and every second sample kept."""
        # An even number of taps: the output lies half a sample to the right.
        padded = F.pad(x, (_TAPS // 2 - 1, _TAPS // 2), mode="replicate")
        return F.conv1d(padded, self.filter.expand(x.shape[1], -1, -1), stride=2, groups=x.shape[1])


class _Downsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _LowPass()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class _Upsample(nn.Module):
    """Zeros between samples, filtered; twice as loud, to make up for the zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.zeros(1, 1, _TAPS))
        self.filter: Tensor

    def forward(self, x: Tensor) -> Tensor:
        margin = _TAPS // 2 - 1
        padded = F.pad(x, (margin, margin), mode="replicate")
        filters = 2 * self.filter.expand(x.shape[1], -1, -1)
        raised = F.conv_transpose1d(padded, filters, stride=2, groups=x.shape[1])
        # What the margin made, and the filter's own length.
        cut = 2 * margin + (_TAPS - 2) // 2
        return raised[..., cut:-cut]
