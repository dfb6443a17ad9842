"""Plans before the money is spent, held against what is counted and what is known."""

from __future__ import annotations

import json

import pytest
import torch

from tests.conftest import SHARED
from tests.support.command_line import twinreel
from training.data.geometry import geometry_of
from training.data.order import Shape
from training.models.family import TokenCounts
from training.models.generator import build_generator
from training.models.registry import find_family
from training.recipe import load_recipe, recipe_names


def test_the_full_size_is_that_of_the_paper() -> None:
    finished = twinreel("plan", "train", "ovi", "--json")
    assert finished.code == 0, finished.err
    plan = finished.json()
    layout = json.loads((SHARED / "golden" / "ovi_11b_layout.json").read_text())
    assert plan["parameters"] == layout["parameters"]
    assert plan["trained_parameters"] == layout["fusion_trainable_parameters"]
    assert (plan["shape"], plan["video_tokens"]) == ("704 x 704 x 121", 15_004)
    assert plan["audio_tokens"] == 157
    # Six operations a weight and token, and a recomputed forward pass, are the floor.
    floor = 8 * plan["parameters"] / 2 * 15_004 / 1e12
    assert floor < plan["sample_tflop"] < 2 * floor


def test_more_ranks_hold_less_each_and_finish_sooner() -> None:
    few, many = (
        twinreel("plan", "train", "ovi", "--ranks", ranks, "--json").json() for ranks in ("8", "64")
    )
    assert few["state_gb_per_rank"] == pytest.approx(8 * many["state_gb_per_rank"])
    assert few["run_hours"] == pytest.approx(8 * many["run_hours"])
    assert few["rank_hours"] == many["rank_hours"]
    table = twinreel("plan", "train", "tiny")
    assert "parameters" in table.out


def test_audio_turns_with_the_video() -> None:
    assert geometry_of(load_recipe("ovi")).latent_rate_ratio() == pytest.approx(0.19676, abs=5e-6)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_survive_being_written(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = load_recipe(name)
    path = tmp_path_factory.mktemp("recipe") / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("dim", [128, 256])
def test_activations_are_about_what_is_kept(dim: int) -> None:
    settings = (f"model.dim={dim}", f"model.ffn_dim={4 * dim}", "precision=fp32")
    recipe = load_recipe("tiny-patches", settings)
    generator, geometry = build_generator(recipe), geometry_of(recipe)
    shape = Shape(121, 32, 64, 80_667)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {one.untyped_storage().data_ptr() for one in generator.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = generator(
            torch.randn(1, *geometry.video_latent(shape)),
            torch.randn(1, *geometry.audio_latent(shape)),
            torch.tensor([0.5]),
            ["words"],
        )
    assert all(output is not None for output in outputs)
    counted = sum(size for at, size in kept.items() if at not in parameters)
    tokens = TokenCounts(geometry.video_tokens(shape), geometry.audio_tokens(shape), 0)
    estimate = find_family("ovi").activation_bytes(
        recipe.model, tokens, matmul_bytes=4, recompute=False
    )
    assert estimate == pytest.approx(counted, rel=0.25)
