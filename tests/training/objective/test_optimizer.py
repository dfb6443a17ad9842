"""The optimiser: rates that follow names, and fall with the steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.models.generator import build_generator
from training.objective.optimizer import build_optimizer, learning_rate, rate_factor
from training.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


def test_rates_follow_names(recipe: Recipe) -> None:
    rates = {"*.audio_model.patch_embedding.*": 0.5, "text_encoder.*": 0.0}
    settings = recipe.optimizer.model_copy(update={"rates": rates})
    assert rate_factor("model.audio_model.patch_embedding.0.weight", rates) == 0.5
    assert rate_factor("model.video_model.patch_embedding.weight", rates) == 1.0
    generator = build_generator(recipe)
    groups = {
        group["factor"]: len(group["params"])
        for group in build_optimizer(generator, settings).param_groups
    }
    assert groups[0.5] == 5
    assert groups[0.0] == len(list(generator.text_encoder.parameters()))
    assert sum(groups.values()) == len(list(generator.parameters()))


def test_the_learning_rate_warms_up_and_falls(recipe: Recipe) -> None:
    settings = recipe.optimizer.model_copy(update={"warmup_steps": 10, "decay": "cosine"})
    rates = [learning_rate(settings, step, steps=100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) < 1e-3
    assert max(rates) == max(rates[8:12])
    assert rates[-1] == pytest.approx(1e-4, rel=0.02)
    assert learning_rate(recipe.optimizer, 0, steps=100) == 1e-3
    assert learning_rate(recipe.optimizer, 99, steps=100) == 1e-3
