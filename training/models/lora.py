"""Low-rank adapters of a model's linear maps (Hu et al., 2021), with peft's names and numbers.

The map W gets scale * B A added, of which only A [rank, in] and B [out, rank] are trained. Base
weights keep their names, so that checkpoints and released files fit with adapters or without.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from manifests.errors import UsageError
from manifests.settings import Settings

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PEFT_PREFIX = "base_model.model."


class LoraSettings(Settings):
    """Adapters of a model's linear maps."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0, description="adapters count alpha / rank times")
    rank_stabilised: bool = Field(
        False, description="alpha / sqrt(rank) times instead (Kalajdzievski, 2023)"
    )
    targets: tuple[str, ...] = Field(
        ("*.self_attn.[qkvo]", "*.cross_attn.[qkvo]"),
        min_length=1,
        description="patterns of the model's linear maps that get one",
    )

    @property
    def scale(self) -> float:
        """Factor of an adapter's output."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def adapts(self, module: str) -> bool:
        """Whether a linear map gets an adapter, by its name in the model."""
        return any(fnmatch.fnmatchcase(module, pattern) for pattern in self.targets)


class LoraLinear(nn.Linear):
    """A linear map, itself frozen or not, with an adapter beside it.

    Args:
        base: whose weight and bias it takes over.
        rank: of the adapter.
        scale: factor of the adapter's output.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        device = base.weight.device
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, device=device)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, device=device)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The map of `x` [..., in], and what the adapter adds: [..., out]."""
        adapted: Tensor = self.lora_B(self.lora_A(x))
        return super().forward(x) + self.scale * adapted


def add_adapters(model: nn.Module, settings: LoraSettings) -> None:
    """Give each linear map that a pattern names an adapter; it changes nothing until trained.

    Raises:
        UsageError: `no_lora_targets`: a pattern names no linear map.
    """
    linear = {name for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    for pattern in settings.targets:
        if not fnmatch.filter(linear, pattern):
            raise UsageError(
                "no_lora_targets",
                "No linear map of the model has such a name.",
                subject=f"lora.targets: {pattern}",
                remedy=f"Names are like {', '.join(sorted(linear)[:3])}.",
            )
    for name in filter(settings.adapts, sorted(linear)):
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        model.set_submodule(name, LoraLinear(base, settings.rank, settings.scale))


def is_adapter(name: str) -> bool:
    """Whether a weight is an adapter's, by its name."""
    return name.endswith((_A, _B))


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters alone, by peft's names.

    Args:
        weights: state dict of the model that has them.
    """
    return {f"{_PEFT_PREFIX}{name}": value for name, value in weights.items() if is_adapter(name)}


def adapter_configuration(weights: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Any]:
    """What peft's `adapter_config.json` says, for `adapter_weights`."""
    targets = sorted(name.removesuffix(_A) for name in weights if name.endswith(_A))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "use_rslora": settings.rank_stabilised,
        "target_modules": targets,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def merged_weights(weights: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """The state dict that the model without adapters needs to do the same."""
    merged = {name: value for name, value in weights.items() if not is_adapter(name)}
    for name in list(merged):
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and f"{module}{_A}" in weights:
            product = weights[f"{module}{_B}"] @ weights[f"{module}{_A}"]
            merged[name] = merged[name] + settings.scale * product
    return merged
