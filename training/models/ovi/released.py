"""The released checkpoint's configuration files, in our terms; its names of weights are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.models.ovi.configuration import TowerConfiguration


def released_configuration(values: Mapping[str, Any]) -> TowerConfiguration:
    """A tower as one of the released JSON files describes it."""
    patch = list(values["patch_size"])
    return TowerConfiguration(
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
