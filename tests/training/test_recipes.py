"""Ovi's stages: the paper's numbers, and small twins that hand their weights on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import twinreel
from training.recipe import load_recipe, recipe_names

STAGES = ("ovi-audio-pretrain", "ovi-audio-finetune", "ovi-fusion", "ovi-lora")


def test_every_stage_has_a_small_twin_of_the_same_tasks() -> None:
    for stage in STAGES:
        full, tiny = load_recipe(stage), load_recipe(f"{stage}-tiny")
        assert full.tasks == tiny.tasks
        assert (full.lora is None) == (tiny.lora is None)
    assert {name for name in recipe_names() if name.startswith("ovi")} == {
        name for stage in STAGES for name in (stage, f"{stage}-tiny")
    }
    assert load_recipe("ovi") == load_recipe("ovi-fusion")


@pytest.mark.parametrize(
    ("stage", "rate", "betas", "batch", "steps"),
    [
        ("ovi-audio-pretrain", 1e-4, (0.9, 0.999), 2880, 50_000),
        ("ovi-fusion", 5e-5, (0.9, 0.95), 768, 40_000),
    ],
)
def test_the_numbers_are_the_papers(
    stage: str, rate: float, betas: tuple[float, float], batch: int, steps: int
) -> None:
    recipe = load_recipe(stage)
    optimizer = recipe.optimizer
    assert (optimizer.learning_rate, optimizer.betas, optimizer.eps) == (rate, betas, 1e-8)
    assert (recipe.batch, recipe.steps) == (batch, steps)
    assert (recipe.sampling.steps, recipe.sampling.shift) == (50, 5.0)


def test_the_fusion_stage_trains_what_the_paper_says_and_lora_a_hundredth() -> None:
    plan = twinreel("plan", "train", "ovi-fusion", "--json").json()
    assert plan["trained_parameters"] == 5_665_443_840
    adapters = twinreel("plan", "train", "ovi-lora", "--json").json()
    assert adapters["parameters"] - adapters["trained_parameters"] == plan["parameters"]
    # Eight maps of two towers of thirty blocks: 32 x 3072 twice.
    assert adapters["trained_parameters"] == 8 * 2 * 30 * 2 * 32 * 3072
    # Gradients come as far back, but none is taken of the maps' own weights.
    forward = twinreel("plan", "train", "ovi-lora", "--set", "recompute=false", "--json").json()
    both = twinreel("plan", "train", "ovi-fusion", "--set", "recompute=false", "--json").json()
    share = forward["sample_tflop"] / both["sample_tflop"]
    assert 0.85 < share < 0.92


def test_small_twins_hand_their_weights_on(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in STAGES:
        name = f"{stage}-tiny"
        finished = twinreel(
            "train", name, "--data", curated, "--run", tmp_path / name, "--set", "steps=2",
            "--set", "evaluation.samples=0", "--set", "video.area_px=512", "--set", "batch=4",
            "--set", "micro_batch=4",
        )  # fmt: skip
        assert finished.code == 0, finished.err
        exported = twinreel("export", name, "--to", f"{name}.safetensors")
        assert exported.code == 0, exported.err
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.safetensors")}
    assert len(sizes) == len(STAGES)
    assert len(set(sizes.values())) == 1


def test_a_stage_without_its_weights_says_which(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    finished = twinreel("train", "ovi-lora-tiny", "--data", curated, "--run", run)
    assert "[weights_missing]" in finished.message
    assert "ovi-fusion-tiny.safetensors" in finished.message
    assert not (run / "recipe.yaml").exists()
