"""Recipes of one's own, as the documentation says that they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command_line import twinreel
from training.models.ovi.family import OviSettings
from training.recipe import load_recipe

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_documented_recipe_is_planned_and_trained(curated: Path, tmp_path: Path) -> None:
    (written,) = re.findall(r"^```yaml\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(written)
    assert twinreel("plan", "train", recipe).code == 0
    settings = ("--set", "steps=2", "--set", "evaluation.samples=1")
    finished = twinreel("train", recipe, "--data", curated, "--run", tmp_path / "run", *settings)
    assert finished.code == 0, finished.err


def test_the_documented_settings_of_the_model_are_all_and_no_others() -> None:
    (row,) = re.findall(r"^\| `model\.\*` \|(.*)\|$", DOCS.read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row)) - {"ovi"}
    assert named == set(OviSettings.model_fields) - {"family"}


@pytest.mark.parametrize("dim", [4, 64, 96, 128, 300, 350, 1000, 1536, 3072])
def test_a_width_alone_makes_a_model(dim: int) -> None:
    settings = load_recipe("ovi", [f"model.dim={dim}"]).model
    assert isinstance(settings, OviSettings)
    assert settings.dim == dim
    assert dim % (2 * settings.heads) == 0
    assert settings.heads == 1 or dim // settings.heads >= 128
    if dim == 3072:
        assert (settings.heads, settings.ffn_dim) == (24, 14336)
