"""The ranks of a run, and a model spread over them (FSDP2). No other file divides work."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils.checkpoint import checkpoint

from training.models.generator import Generator


@dataclasses.dataclass(frozen=True)
class DistributedContext:
    """This process and the others that train the same model.

    Attributes:
        rank: of this process, from 0.
        world_size: how many processes there are.
        device: where this one computes.
        mesh: all of them.
        checkpoint_group: for saving in the background: gloo, apart from the training's own group,
            so that the two never wait for each other's messages.
    """

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh
    checkpoint_group: dist.ProcessGroup

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values added up over all ranks; each must have the same names."""
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64)
        if self.device.type == "cuda":
            total = total.to(self.device)
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def broadcast(self, value: object) -> object:
        """The first rank's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait_for_all(self) -> None:
        """Go on when every rank has come here."""
        dist.barrier()


@contextlib.contextmanager
def distributed_context() -> Iterator[DistributedContext]:
    """Join the ranks that torchrun started, or be the only one; they are left at the end."""
    try:
        yield _join()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join() -> DistributedContext:
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
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device, mesh, group)


def shard(
    generator: Generator,
    context: DistributedContext,
    *,
    precision: Literal["auto", "fp32", "bf16"],
    recompute: bool,
) -> Generator:
    """Spread parameters, gradients and optimiser state over the ranks, in place.

    The generator's units are sharded one by one; the rest, which is small, stays together, and
    stays in fp32.

    Args:
        generator: on any device.
        context: of the ranks.
        precision: of matrix products; `auto` is bf16 on CUDA.
        recompute: whether the units' activations are computed again for the backward pass.
    """
    # Residuals are added out of place, as it asks for.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    generator.to(context.device)
    bf16 = precision == "bf16" or (precision == "auto" and context.device.type == "cuda")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    if recompute:
        recompute_units(generator)
    for name in generator.units:
        fully_shard(generator.get_submodule(name), mesh=context.mesh, mp_policy=policy)
    fully_shard(generator, mesh=context.mesh)
    return generator


def recompute_units(generator: Generator) -> None:
    """Have the units keep nothing for the backward pass and run again in it."""
    for name in generator.units:
        unit = generator.get_submodule(name)
        # In place: a wrapper of its own would give the parameters other names.
        unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)


def local_part(tensor: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """What this rank holds of a tensor, to be written to, and where that lies in the whole."""
    if not isinstance(tensor, DTensor):
        return tensor, tuple(slice(0, size) for size in tensor.shape)
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    where = tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))
    return tensor.to_local(), where


def last_micro_batch(generator: nn.Module, last: bool) -> None:
    """Say whether gradients are exchanged after the next backward pass: only after the last."""
    assert isinstance(generator, FSDPModule)
    generator.set_requires_gradient_sync(last)


def clip_gradients(generator: nn.Module, norm: float) -> Tensor:
    """Scale all gradients down to a norm over all ranks; returns what it was, a scalar tensor."""
    parameters = [one for one in generator.parameters() if one.grad is not None]
    total = torch.nn.utils.clip_grad_norm_(parameters, norm)
    return total.full_tensor() if isinstance(total, DTensor) else total
