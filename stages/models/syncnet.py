"""SyncNet v2 (Chung and Zisserman 2016, "Out of time"): features of mouths and of voices.

Layers, state-dict keys, windows and distances are those of joonson/syncnet_python. A window is 5
frames of 25 fps and the 20 MFCC columns that sound meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch user knows
from torch import Tensor, nn

from stages.media.blocks import FloatArray
from stages.models.device import full_convolutions

WINDOW_FRAMES = 5
COLUMNS_A_FRAME = 4
WINDOW_COLUMNS = WINDOW_FRAMES * COLUMNS_A_FRAME
MAX_SHIFT_FRAMES = 15
WINDOWS_AT_ONCE = 32
"""Keeps what a pass needs at about half a gigabyte: the first layer makes 5 MB of a window."""

Mode = Literal["exact", "masked"]
Faces = npt.NDArray[np.uint8]
"""Crops of a face, uint8 BGR [frames, 224, 224, 3]."""
Cepstra = npt.NDArray[np.float32]
"""MFCC, float32 [columns, 13]."""


@dataclasses.dataclass(frozen=True)
class _Pool:
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | int = 0


@dataclasses.dataclass(frozen=True)
class _Block:
    """Convolution, norm, ReLU, and a maximum over neighbours where there is one."""

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] | int = 1
    padding: tuple[int, ...] | int = 0
    pool: _Pool | None = None


_VOICE_BLOCKS = (
    # The first maximum is over one value each: it holds a place in the numbering of the layers.
    _Block(64, (3, 3), padding=1, pool=_Pool((1, 1), (1, 1))),
    _Block(192, (3, 3), padding=1, pool=_Pool((3, 3), (1, 2))),
    _Block(384, (3, 3), padding=1),
    _Block(256, (3, 3), padding=1),
    _Block(256, (3, 3), padding=1, pool=_Pool((3, 3), (2, 2))),
    _Block(512, (5, 4)),
)
_LIP_BLOCKS = (
    _Block(96, (5, 7, 7), stride=(1, 2, 2), pool=_Pool((1, 3, 3), (1, 2, 2))),
    _Block(256, (1, 5, 5), (1, 2, 2), (0, 1, 1), _Pool((1, 3, 3), (1, 2, 2), (0, 1, 1))),
    _Block(256, (1, 3, 3), padding=(0, 1, 1)),
    _Block(256, (1, 3, 3), padding=(0, 1, 1)),
    _Block(256, (1, 3, 3), padding=(0, 1, 1), pool=_Pool((1, 3, 3), (1, 2, 2))),
    _Block(512, (1, 6, 6)),
)


class SyncNet(nn.Module):
    """Two towers that put a mouth and a voice that belong together near each other."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _tower(_VOICE_BLOCKS, 1, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
        self.netfcaud = _head()
        self.netcnnlip = _tower(_LIP_BLOCKS, 3, nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)
        self.netfclip = _head()

    def lips(self, windows: Tensor) -> Tensor:
        """Features [N, 1024] of faces, BGR 0..255, float32 [N, 3, 5, 224, 224]."""
        return self.netfclip(self.netcnnlip(windows).flatten(1))

    def voice(self, windows: Tensor) -> Tensor:
        """Features [N, 1024] of MFCC, float32 [N, 1, 13, 20]."""
        return self.netfcaud(self.netcnnaud(windows).flatten(1))


def _tower(
    blocks: Sequence[_Block],
    channels: int,
    convolution: type[nn.Conv2d] | type[nn.Conv3d],
    norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d],
    pool: type[nn.MaxPool2d] | type[nn.MaxPool3d],
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for block in blocks:
        layers += [
            convolution(channels, block.channels, block.kernel, block.stride, block.padding),  # type: ignore[arg-type]
            norm(block.channels),
            nn.ReLU(inplace=True),
        ]
        if block.pool is not None:
            layers.append(pool(block.pool.kernel, block.pool.stride, block.pool.padding))
        channels = block.channels
    return nn.Sequential(*layers)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def window_count(frames: int, samples: int) -> int:
    """Windows of a track as the reference counts them: one less than would fit.

    Args:
        frames: at 25 fps.
        samples: at 16 kHz, 640 a frame.
    """
    return max(0, min(frames, samples // 640) - WINDOW_FRAMES)


def lip_features(model: SyncNet, tracks: Sequence[Faces], windows: Sequence[int]) -> list[Tensor]:
    """Features of several tracks' windows: per track float32 [windows, 1024] on the CPU.

    Args:
        model: on the device to use.
        tracks: crops of each.
        windows: how many windows of each, from its first frame on.
    """

    def of(piece: _Piece) -> Tensor:
        last = piece.first + piece.count - 1
        frames = tracks[piece.track][piece.first : last + WINDOW_FRAMES]
        # [windows, height, width, channels, frames]
        unfolded = torch.tensor(frames, device=_device(model)).unfold(0, WINDOW_FRAMES, 1)
        return unfolded.permute(0, 3, 4, 1, 2)

    return _in_chunks(model.lips, of, windows)


def voice_features(
    model: SyncNet, tracks: Sequence[Cepstra], windows: Sequence[int]
) -> list[Tensor]:
    """As `lip_features`, of each track's MFCC."""

    def of(piece: _Piece) -> Tensor:
        start, last = (
            window * COLUMNS_A_FRAME for window in (piece.first, piece.first + piece.count - 1)
        )
        columns = torch.tensor(
            tracks[piece.track][start : last + WINDOW_COLUMNS], device=_device(model)
        )
        return columns.unfold(0, WINDOW_COLUMNS, COLUMNS_A_FRAME)[:, None]

    return _in_chunks(model.voice, of, windows)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Windows in a row of one track."""

    track: int
    first: int
    count: int


def _in_chunks(
    forward: Callable[[Tensor], Tensor],
    windows_of: Callable[[_Piece], Tensor],
    windows: Sequence[int],
) -> list[Tensor]:
    """What a tower makes of every track's windows, a bounded number of them at a time."""
    if not sum(windows):
        return [torch.zeros(0, 1024) for _ in windows]
    outputs = []
    with torch.inference_mode(), full_convolutions():
        for chunk in _chunks(windows):
            inputs = torch.cat([windows_of(piece) for piece in chunk])
            outputs.append(forward(inputs.float()).cpu())
    return list(torch.cat(outputs).split(list(windows)))


def _chunks(windows: Sequence[int]) -> Iterator[list[_Piece]]:
    """All windows in order, `WINDOWS_AT_ONCE` at a time, whichever tracks they belong to."""
    chunk: list[_Piece] = []
    room = WINDOWS_AT_ONCE
    for track, total in enumerate(windows):
        first = 0
        while first < total:
            count = min(room, total - first)
            chunk.append(_Piece(track, first, count))
            first += count
            room -= count
            if not room:
                yield chunk
                chunk, room = [], WINDOWS_AT_ONCE
    if chunk:
        yield chunk


def _device(model: SyncNet) -> torch.device:
    return next(model.parameters()).device


@dataclasses.dataclass(frozen=True)
class Distances:
    """How far mouth and voice are apart at every shift, and what follows from it.

    `mean` is float64 [2 * shifts + 1] at offsets from `shifts` down to -`shifts`, NaN where no
    window has a partner; `least` is its minimum. `offset_frames` counts frames of 25 fps, positive
    where the sound is early; `confidence` is the median less the minimum.
    """

    mean: FloatArray
    least: float
    offset_frames: int
    confidence: float


def distances(
    lips: Tensor, voice: Tensor, *, shifts: int = MAX_SHIFT_FRAMES, mode: Mode = "exact"
) -> Distances:
    """Euclidean distances of every mouth to the voices up to `shifts` frames beside it.

    Beyond the ends the reference takes a voice of zeros, whose distance is that of no voice at
    all: on short clips that moves the minimum of large offsets. `exact` does so too, to be
    comparable with published numbers; `masked` takes the mean over the pairs that there are.

    Args:
        lips: float32 [windows, features], at least one window.
        voice: the same shape.
        shifts: the largest offset tried, in frames.
        mode: `exact` or `masked`.
    """
    windows = len(lips)
    padded = F.pad(voice, (0, 0, shifts, shifts))
    apart = torch.stack(
        [
            # It adds 1e-6 to every difference, as the reference does.
            F.pairwise_distance(lips, padded[shift : shift + windows])
            for shift in range(2 * shifts + 1)
        ]
    )
    if mode == "masked":
        partner = torch.arange(windows) + torch.arange(-shifts, shifts + 1)[:, None]
        apart = apart.masked_fill((partner < 0) | (partner >= windows), torch.nan)
    mean = apart.nanmean(1)
    known = mean[~mean.isnan()]
    least = float(known.min())
    index = int(torch.nonzero(mean == least)[0])
    return Distances(
        mean.double().numpy(), least, shifts - index, float(known.quantile(0.5)) - least
    )
