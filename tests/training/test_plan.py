"""Plans before the money is spent, held against what is counted and what is known."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import SHARED
from tests.support.command_line import twinreel
from training.data.geometry import geometry_of
from training.data.loader import MicroBatch
from training.data.order import GlobalBatch, Shape
from training.data.samples import KeptSample
from training.distributed import recompute_units
from training.models.family import TokenCounts
from training.models.generator import Generator, build_generator
from training.models.registry import find_family
from training.objective.loss import errors, generated_elements, weighted_loss
from training.objective.noise import Draw
from training.objective.tasks import TASKS, TaskName
from training.plan import task_flops
from training.recipe import Recipe, load_recipe, recipe_names


def test_the_full_size_is_that_of_the_paper() -> None:
    finished = twinreel("plan", "train", "ovi", "--json")
    assert finished.code == 0, finished.err
    plan = finished.json()
    layout = json.loads((SHARED / "golden" / "ovi_11b_layout.json").read_text())
    assert plan["parameters"] == layout["parameters"]
    assert plan["trained_parameters"] == layout["fusion_trainable_parameters"]
    assert (plan["shape"], plan["video_tokens"]) == ("704 x 704 x 121", 15_004)
    assert plan["audio_tokens"] == 157
    # Two operations a weight and token forwards, and where it is frozen two backwards: the floor.
    floor = 6 * plan["parameters"] / 2 * 15_004 / 1e12
    assert floor < plan["sample_tflop"] < 2 * floor


def test_adapters_count_as_what_is_trained() -> None:
    lora = ("--set", "initial=[{weights: none}]", "--set", "lora={rank: 16}")
    plan = twinreel("plan", "train", "ovi", *lora, "--json").json()
    # Two towers of 30 blocks, eight maps of 3072 x 3072 in each.
    assert plan["trained_parameters"] == 2 * 30 * 8 * 16 * 2 * 3072
    whole = twinreel("plan", "train", "ovi", "--json").json()
    assert plan["parameters"] == whole["parameters"] + plan["trained_parameters"]
    assert plan["sample_tflop"] < 0.95 * whole["sample_tflop"]
    assert plan["gradients_gb"] < 0.05 * whole["gradients_gb"]


def test_memory_has_a_line_for_each_of_its_parts() -> None:
    """At 64 ranks a rank has twelve micro-batches, and keeps the sum of their gradients whole."""
    plan = twinreel("plan", "train", "ovi", "--ranks", "64", "--json").json()
    layout = json.loads((SHARED / "golden" / "ovi_11b_layout.json").read_text())
    sizes = {name: math.prod(shape) for name, shape in layout["state_dict"].items()}
    in_units = sum(
        size
        for name, size in sizes.items()
        if any(f".{part}." in name for part in ("self_attn", "cross_attn", "ffn"))
    )
    root_gb = 4 * (layout["parameters"] - in_units) / 1e9
    assert root_gb == pytest.approx(2.8, abs=0.05)
    unit_gb = 2 * (2 * 3072 * 14336 + 3072 + 14336) / 1e9
    assert plan["gathered_gb"] == pytest.approx(root_gb + 2 * unit_gb, rel=1e-6)
    accumulated_gb = 4 * layout["fusion_trainable_parameters"] / 1e9
    assert plan["gradients_gb"] == pytest.approx(accumulated_gb, rel=0.03)
    parts = ("state_gb_per_rank", "gathered_gb", "gradients_gb", "activations_gb")
    assert plan["memory_gb_per_rank"] == pytest.approx(sum(plan[part] for part in parts))
    # With one micro-batch a rank nothing is accumulated.
    once = twinreel("plan", "train", "ovi", "--ranks", "768", "--json").json()
    assert once["gradients_gb"] < 0.03 * plan["gradients_gb"]


def test_plan_and_run_count_the_same_parameters(
    curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    settings = ("--set", "steps=1", "--set", "evaluation.samples=0")
    plan = twinreel("plan", "train", recipe_file, *settings, "--json").json()
    run = twinreel("train", recipe_file, "--data", curated, "--run", tmp_path / "run", *settings)
    assert run.code == 0, run.err
    counted = f"{plan['parameters']:,} parameters ({plan['trained_parameters']:,} trained)"
    assert counted in run.err


ATTENTION = "trainable=['model.*.self_attn.*', 'model.*.cross_attn.*']"


FEW: tuple[TaskName, ...] = ("i2av", "v2a", "t2a", "t2v")


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ((ATTENTION, "recompute=true"), FEW),
        # A narrow one: what it adds itself is left out.
        (("initial=[{weights: none}]", "lora={rank: 1}"), ("t2av",)),
        *(
            pytest.param(settings, tuple(TASKS), marks=pytest.mark.soak)
            for settings in (
                (),
                (ATTENTION,),
                (ATTENTION, "recompute=true"),
                ("recompute=true",),
                ("trainable=['model.audio_model.*']",),
                ("trainable=['*.blocks.1.*', 'text_encoder.*']",),
            )
        ),
    ],
)
def test_operations_are_those_that_torch_counts(
    settings: tuple[str, ...], tasks: tuple[TaskName, ...]
) -> None:
    """A whole step of every task, forwards and backwards, on the meta device."""
    own = ("model.layers=2", "video.area_px=2048", "video.frames=49")
    recipe = load_recipe("tiny-patches", (*own, *settings))
    with torch.device("meta"):
        generator = build_generator(recipe)
    if recipe.recompute:
        recompute_units(generator)
    aspects = [(3, 2), (1, 2)] if len(tasks) == len(TASKS) else [(3, 2)]
    shapes = [geometry_of(recipe).clip(*aspect) for aspect in aspects]
    for task, shape in itertools.product(tasks, shapes):
        counted = counted_flops(generator, recipe, shape, task)
        assert task_flops(recipe, generator, shape, task) == pytest.approx(counted, rel=0.01), (
            task,
            shape,
        )


def counted_flops(generator: Generator, recipe: Recipe, shape: Shape, task: TaskName) -> int:
    """What torch counts in a step on one sample."""
    geometry = geometry_of(recipe)
    with torch.device("meta"):
        video = torch.randn(1, *geometry.video_latent(shape))
        audio = torch.randn(1, *geometry.audio_latent(shape))
        ones = torch.ones(1)
    drawn = Draw(ones, ones, video, audio, ("words",))
    micro = MicroBatch(video, audio, ("words",), ("s",), ones)
    whole = GlobalBatch(shape, task, (KeptSample("s", "s", *[None] * 12),))  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        sums = errors(generator, micro, TASKS[task], drawn)
        elements = generated_elements(whole, geometry)
        loss, _ = weighted_loss(sums, micro.weights, elements, recipe.loss)
        if loss.requires_grad:
            loss.backward()
    return int(counter.get_total_flops())


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
