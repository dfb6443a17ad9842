"""Released files: Wan's numbers through diffusers' own model, and every key of the layouts."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from stages.models.torchvision_guard import import_torchvision
from tests.conftest import SHARED
from training.models.ovi.configuration import TowerConfiguration
from training.models.ovi.model import OviModel
from training.models.ovi.released import released_configuration, released_layouts

LAYOUT = json.loads((SHARED / "golden" / "ovi_11b_layout.json").read_text())
LAYOUTS = {layout.name: layout for layout in released_layouts()}


def without_fusion(names: list[str]) -> set[str]:
    return {name for name in names if name.startswith("video_model.") and "_fusion" not in name}


@pytest.mark.parametrize("name", ["wan", "wan-diffusers"])
def test_every_weight_of_the_video_tower_has_one_name_there(name: str) -> None:
    layout = LAYOUTS[name]
    names = list(LAYOUT["state_dict"])
    there = {own: layout.to_file(own) for own in names}
    assert {own for own, other in there.items() if other is not None} == without_fusion(names)
    named = [other for other in there.values() if other is not None]
    assert len(set(named)) == len(named)
    for own, other in there.items():
        assert other is None or layout.to_model(other) == own
    assert layout.to_model("blocks.0.attn9.weight") is None
    assert layout.to_model("blocks.0.self_attn.k_img.weight") is None


def test_the_original_has_wans_own_names() -> None:
    layout = LAYOUTS["wan"]
    assert layout.to_file("video_model.blocks.3.modulation.modulation") == "blocks.3.modulation"
    assert layout.to_file("video_model.head.modulation") == "head.modulation"
    name = "blocks.29.cross_attn.norm_k.weight"
    assert layout.to_file(f"video_model.{name}") == name


def test_diffusers_full_model_has_the_mapped_keys_and_shapes() -> None:
    import_torchvision()
    import diffusers

    with torch.device("meta"):
        full = diffusers.WanTransformer3DModel(
            num_attention_heads=24, attention_head_dim=128, in_channels=48, out_channels=48,
            ffn_dim=14336, num_layers=30,
        )  # fmt: skip
    mapped = {
        LAYOUTS["wan-diffusers"].to_file(name): shape
        for name, shape in LAYOUT["state_dict"].items()
        if name in without_fusion(list(LAYOUT["state_dict"]))
    }
    assert {name: list(one.shape) for name, one in full.state_dict().items()} == mapped


@pytest.mark.parametrize("first_frame_given", [False, True])
@torch.no_grad()
def test_the_video_tower_is_wans_transformer(first_frame_given: bool) -> None:
    """The same made-up weights in diffusers' model and in ours, audio left out."""
    import_torchvision()
    import diffusers

    torch.manual_seed(0)
    wan = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=6, out_channels=6, text_dim=20,
        freq_dim=32, ffn_dim=96, num_layers=3,
    ).eval()  # fmt: skip
    for parameter in wan.parameters():
        parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    sizes = {
        "dim": 48, "ffn_dim": 96, "freq_dim": 32, "heads": 2, "layers": 3, "text_dim": 20,
        "text_length": 9,
    }  # fmt: skip
    model = OviModel(
        TowerConfiguration(channels=6, patch_size=(1, 2, 2), **sizes),
        TowerConfiguration(channels=5, **sizes),
    ).eval()
    layout = LAYOUTS["wan-diffusers"]
    weights = {str(layout.to_model(name)): value for name, value in wan.state_dict().items()}
    result = model.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == []

    video, text = torch.randn(2, 6, 3, 8, 12), torch.randn(2, 9, 20)
    timestep = torch.tensor([437.0, 901.0])
    tokens = 3 * 4 * 6
    given = torch.arange(tokens)[None].expand(2, -1) < 4 * 6 if first_frame_given else None
    told = timestep if given is None else torch.where(given, 0.0, timestep[:, None])
    reference: Tensor = wan(video, told, text, return_dict=False)[0]
    found, _ = model(video, None, timestep, text, video_given=given)
    assert found is not None
    assert (found - reference).abs().max() <= 1e-4 * reference.abs().max()


def test_ovis_own_files_have_our_names() -> None:
    with torch.device("meta"):
        full = OviModel(
            released_configuration(LAYOUT["video_config"]),
            released_configuration(LAYOUT["audio_config"]),
        )
    shapes = {
        LAYOUTS["ovi"].to_file(name): list(one.shape) for name, one in full.state_dict().items()
    }
    assert shapes == LAYOUT["state_dict"]
    assert len(shapes) == 2073
