"""Ranks, and a model spread over them (FSDP2). The only file that knows how work is divided."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from training.models.generator import Generator
from training.models.ovi.model import Block
from training.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among its equals.

    Attributes:
        rank: of this process, from 0.
        count: how many processes there are.
        device: where this one computes.
        mesh: all of them.
        checkpoint_group: for saving in the background: gloo, apart from the training's own group,
            so that the two never wait for each other's messages.
    """

    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh
    checkpoint_group: dist.ProcessGroup

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values added up over all ranks; each must have the same names."""
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64)
        if self.device.type == "cuda":
            total = total.to(self.device)
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def share(self, value: object) -> object:
        """The first rank's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def join_ranks() -> Ranks:
    """Join the ranks that torchrun started, or be the only one."""
    cuda = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        device = (
            torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
        )
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group(backend)
    else:
        device = torch.device("cuda", 0) if cuda else torch.device("cpu")
        alone = dist.HashStore()  # type: ignore[attr-defined]  # public, though not listed
        dist.init_process_group(backend, store=alone, rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    group = dist.new_group(backend="gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device, mesh, group)


def leave_ranks() -> None:
    """Undo `join_ranks`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(generator: Generator, recipe: Recipe, ranks: Ranks) -> Generator:
    """Spread parameters, gradients and optimiser state over the ranks, in place.

    Attention and feed-forward parts are units of their own: each runs exactly once a pass and holds
    tens of millions of parameters at full size. The rest, which is small, stays together, and stays
    in fp32.
    """
    # Residuals are added out of place, as it asks for.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    generator.to(ranks.device)
    bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and ranks.device.type == "cuda"
    )
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    for block in [module for module in generator.modules() if isinstance(module, Block)]:
        for name in ("self_attn", "cross_attn", "ffn"):
            unit: nn.Module = getattr(block, name)
            if recipe.recompute:
                unit = checkpoint_wrapper(unit)
                setattr(block, name, unit)
            fully_shard(unit, mesh=ranks.mesh, mp_policy=policy)
    fully_shard(generator, mesh=ranks.mesh)
    return generator


def last_micro_batch(generator: nn.Module, last: bool) -> None:
    """Say whether gradients are exchanged after the next backward pass: only after the last."""
    assert isinstance(generator, FSDPModule)
    generator.set_requires_gradient_sync(last)


def clip_gradients(generator: nn.Module, norm: float) -> Tensor:
    """Scale all gradients down to a norm over all ranks; returns what it was, a scalar tensor."""
    parameters = [one for one in generator.parameters() if one.grad is not None]
    total = torch.nn.utils.clip_grad_norm_(parameters, norm)
    return total.full_tensor() if isinstance(total, DTensor) else total
