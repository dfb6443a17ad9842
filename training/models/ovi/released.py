"""Released files in our terms: Ovi's own, and Wan 2.2's as weights of the video tower.

Ovi's names of weights are ours. Wan2.2-TI2V-5B is the video tower without what fuses it to the
other (section 4.2): in the original's names or in diffusers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.models.ovi.configuration import TowerConfiguration
from training.models.released import ModuleNames, ReleasedLayout

VIDEO = "video_model."
_ATTENTION_PARTS = {
    "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
}  # fmt: skip
_DIFFUSERS = ModuleNames(
    {
        "patch_embedding": "patch_embedding",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
    },
    {
        **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION_PARTS.items()},
        **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in _ATTENTION_PARTS.items()},
        "norm3": "norm2",
        "ffn.0": "ffn.net.0.proj",
        "ffn.2": "ffn.net.2",
        "modulation.modulation": "scale_shift_table",
    },
)
_ORIGINAL = ModuleNames(
    {name: name for name in _DIFFUSERS.outside},
    {name: name for name in _DIFFUSERS.within_block} | {"modulation.modulation": "modulation"},
)


def released_layouts() -> tuple[ReleasedLayout, ...]:
    """Ovi's own files, and Wan 2.2's in both layouts."""
    return (
        ReleasedLayout("ovi", lambda name: name, lambda name: name),
        _video_tower("wan", _ORIGINAL),
        _video_tower("wan-diffusers", _DIFFUSERS),
    )


def _video_tower(name: str, names: ModuleNames) -> ReleasedLayout:
    """A layout of files that hold the video tower without its fusion layers.

    As in the release, the maps of its fusion layers then start at a tenth of Xavier, so that
    another tower's untrained voice is low at first.
    """

    def to_model(there: str) -> str | None:
        ours = names.ours(there)
        return None if ours is None else f"{VIDEO}{ours}"

    def to_file(ours: str) -> str | None:
        return names.there(ours.removeprefix(VIDEO)) if ours.startswith(VIDEO) else None

    maps = {f"{VIDEO}*.{part}_fusion.weight": 0.1 for part in ("k", "v")}
    return ReleasedLayout(name, to_model, to_file, {**maps, f"{VIDEO}*_fusion.*": 1.0})


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
