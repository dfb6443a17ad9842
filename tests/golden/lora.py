"""Adapters: outputs, gradients and merged weights of a small model."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.golden.files import Checks, Golden, compare
from training.models.lora import LoraSettings, adapter_weights, add_adapters, merged_weights


def check(golden: Golden) -> Checks:
    """The model alone, with the file's adapter, and with the adapter merged."""
    tensors, configuration = golden.tensors, golden.metadata["configuration"]
    settings = LoraSettings(
        rank=configuration["rank"],
        alpha=configuration["alpha"],
        rank_stabilised=configuration["rslora"],
        targets=tuple(f"*.{target}" for target in configuration["target_modules"]),
    )
    base = {
        name.removeprefix("model."): value
        for name, value in tensors.items()
        if name.startswith("model.")
    }
    model = _Model(configuration["dim"], configuration["ffn"], configuration["blocks"])
    model.load_state_dict(base, strict=True)
    x = tensors["in.x"]
    yield compare("out.base", model(x).detach(), tensors["out.base"])
    add_adapters(model, settings)
    yield compare("out.base (untrained adapter)", model(x).detach(), tensors["out.base"])
    with torch.no_grad():
        state = adapter_weights(model.state_dict())
        assert {f"adapter.{name}" for name in state} == {
            name for name in tensors if name.startswith("adapter.")
        }
        for name, value in state.items():
            value.copy_(tensors[f"adapter.{name}"])
    adapted = model(x)
    yield compare("out.adapted", adapted.detach(), tensors["out.adapted"])
    (adapted * tensors["in.output_weight"]).sum().backward()
    for name, parameter in model.named_parameters():
        reference = f"out.gradient.base_model.model.{name}"
        if reference in tensors:
            assert parameter.grad is not None
            yield compare(reference, parameter.grad, tensors[reference])
    merged = merged_weights(model.state_dict(), settings)
    for name, value in merged.items():
        reference = f"out.merged_weight.{name}"
        if reference in tensors:
            yield compare(reference, value, tensors[reference])
    plain = _Model(configuration["dim"], configuration["ffn"], configuration["blocks"])
    plain.load_state_dict(merged, strict=True)
    yield compare("out.merged", plain(x).detach(), tensors["out.merged"])


class _Block(nn.Module):
    """x + o(softmax(q k / sqrt(dim)) v), one head; then x + ffn(x), GELU(tanh)."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.o(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))
        return x + self.ffn(x)


class _Model(nn.Module):
    def __init__(self, dim: int, ffn: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(dim, ffn) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x
