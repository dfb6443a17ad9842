"""RAFT (Teed and Deng 2020, arXiv:2003.12039): dense optical flow, by torchvision's networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.media.blocks import ByteImage
from stages.models.torchvision_guard import import_torchvision
from stages.weights.load import load_into, load_state_dict

if TYPE_CHECKING:
    import torch

SIDE_STEP_PX = 8
"""A frame's sides are multiples of this: the network's feature maps are an eighth of them."""
_PAIR_AREA_PX = 256 * 456
_CPU_PAIRS, _CUDA_PAIRS = 4, 32
"""Pairs of 16:9 that go through the network at once: about 0.3 and 2 GB of working memory."""

FlowField = npt.NDArray[np.float32]
"""Where every pixel goes from one frame to another: float32 [height, width, 2], right and down."""


@dataclasses.dataclass(frozen=True)
class RaftModel:
    """The network with its weights, and how it is run."""

    network: torch.nn.Module
    device: str
    half: bool
    flow_updates: int


def load_raft(name: str, weights: Path, device: str, *, half: bool, flow_updates: int) -> RaftModel:
    """One of the two networks with its weights, ready to be run.

    Args:
        name: `raft_large` or `raft_small`.
        weights: a file of torchvision's.
        device: `cpu` or `cuda`.
        half: whether to compute in half precision.
        flow_updates: times that the network improves on its flow.

    Raises:
        UsageError: `bad_weights`.
    """
    import_torchvision()
    from torchvision.models import optical_flow  # noqa: PLC0415 - only RAFT pays for torch

    build = {"raft_large": optical_flow.raft_large, "raft_small": optical_flow.raft_small}
    network = load_into(build[name](weights=None), load_state_dict(weights), weights)
    return raft_model(network, device, half=half, flow_updates=flow_updates)


def raft_model(
    network: torch.nn.Module, device: str, *, half: bool, flow_updates: int
) -> RaftModel:
    """A network of torchvision's, made ready to be run.

    Args:
        network: with its weights, on the CPU.
        device: `cpu` or `cuda`.
        half: whether to compute in half precision.
        flow_updates: times that the network improves on its flow.
    """
    import torch  # noqa: PLC0415 - only RAFT pays for torch

    kind = torch.device(device).type
    # As in the authors' own mixed precision, correlations are float32: sums over 256 channels may
    # pass what half precision can hold.
    correlations: Any = network.corr_block
    build_pyramid = correlations.build_pyramid

    def build_in_full_precision(first: torch.Tensor, second: torch.Tensor) -> None:
        with torch.autocast(kind, enabled=False):
            build_pyramid(first.float(), second.float())

    correlations.build_pyramid = build_in_full_precision
    return RaftModel(network.to(device), device, half, flow_updates)


def network_flow(model: RaftModel, first: ByteImage, second: ByteImage) -> FlowField:
    """What the network says of some pairs: float32 [pairs, height, width, 2].

    Args:
        model: as `load_raft` gives it.
        first: uint8 RGB [pairs, height, width, 3], sides multiples of 8 and at least 128.
        second: the same shape.
    """
    import torch  # noqa: PLC0415 - only RAFT pays for torch

    # Coordinates stay float32 under autocast: in half precision they would be off by whole pixels.
    kind = torch.device(model.device).type
    with torch.inference_mode(), torch.autocast(kind, torch.float16, enabled=model.half):
        one, two = (
            # -1..1, as torchvision's own transform for its weights has it.
            torch.from_numpy(frames).to(model.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            for frames in (first, second)
        )
        flow = model.network(one, two, num_flow_updates=model.flow_updates)[-1]
        return np.asarray(flow.float().permute(0, 2, 3, 1).cpu().numpy(), dtype=np.float32)


def pairs_at_once(device: str, size: tuple[int, ...]) -> int:
    """How many pairs of frames of a size (height, width) fit through the network together."""
    most = _CUDA_PAIRS if device.startswith("cuda") else _CPU_PAIRS
    # What a pair costs grows with the square of its area: all places are compared with all.
    return max(1, int(most * min(1.0, (_PAIR_AREA_PX / (size[0] * size[1])) ** 2)))
