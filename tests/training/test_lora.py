"""Adapters: the reference's numbers, runs that train nothing else, and files that peft reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manifests.errors import UsageError
from tests.conftest import SHARED
from tests.golden.files import Golden
from tests.golden.lora import check
from tests.support.command_line import twinreel
from training.models.generator import build_generator
from training.models.lora import LoraLinear, LoraSettings
from training.recipe import load_recipe
from training.weights import export_weights

LORA = "lora={rank: 3, alpha: 6, rank_stabilised: true, targets: ['*.self_attn.[qv]']}"


def test_outputs_gradients_and_merged_weights_are_pefts() -> None:
    checks = list(check(Golden.read(SHARED / "golden" / "lora.safetensors")))
    assert len(checks) == 2 + 1 + 16 + 8 + 1
    assert [one for one in checks if not one.ok] == []


def test_a_stabilised_adapter_counts_by_the_root_of_its_rank() -> None:
    assert LoraSettings(rank=16, alpha=8).scale == 0.5
    assert LoraSettings(rank=16, alpha=8, rank_stabilised=True).scale == 2.0
    base = torch.nn.Linear(5, 4)
    adapted = LoraLinear(base, rank=2, scale=3.0)
    with torch.no_grad():
        adapted.lora_B.weight.normal_()
    x = torch.randn(7, 5)
    own = x @ adapted.lora_A.weight.T @ adapted.lora_B.weight.T
    torch.testing.assert_close(adapted(x), base(x) + 3 * own)


@pytest.fixture(scope="module")
def base(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model that says something: as it starts, its heads give zeros."""
    recipe = load_recipe(recipe_file)
    generator = build_generator(recipe)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    file = tmp_path_factory.mktemp("base") / "base.safetensors"
    export_weights(generator.state_dict(), recipe, file, layout=None, dtype=torch.float32)
    return file


@pytest.fixture(scope="module")
def run(
    curated: Path, recipe_file: Path, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Six steps, with checkpoints after the third and the last."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    assert train(recipe_file, curated, base, folder) == 0
    return folder


def train(recipe_file: Path, curated: Path, base: Path, run: Path, *arguments: str) -> int:
    finished = twinreel(
        "train", recipe_file, "--data", curated, "--run", run, "--set", LORA,
        "--set", f"initial=[{{weights: {base}}}]", "--set", "evaluation.samples=0", *arguments,
    )  # fmt: skip
    assert "Traceback" not in finished.err, finished.err
    return finished.code


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_trains_its_adapters_alone_and_merges_them(
    run: Path, base: Path, tmp_path: Path
) -> None:
    folder, merged = tmp_path / "adapter", tmp_path / "merged.safetensors"
    assert twinreel("export", run, "--to", folder, "--adapter").code == 0
    assert twinreel("export", run, "--to", merged).code == 0
    adapter = load_file(folder / "adapter_model.safetensors")
    configuration = json.loads((folder / "adapter_config.json").read_text())
    # Two towers of two blocks with two maps each.
    assert len(configuration["target_modules"]) == 8
    assert len(adapter) == 16
    assert (configuration["r"], configuration["lora_alpha"]) == (3, 6.0)
    assert configuration["use_rslora"] is True
    before, after = load_file(base), load_file(merged)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in configuration["target_modules"]}
    for name in changed:
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (adapter[f"{prefix}.lora_{one}.weight"] for one in "AB")
        assert a.shape == (3, 32)
        torch.testing.assert_close(after[name], before[name] + 6 / 3**0.5 * b @ a)


def test_it_goes_on_to_the_bit_without_the_file_it_started_from(
    run: Path, curated: Path, recipe_file: Path, base: Path, tmp_path: Path
) -> None:
    again, own_base = tmp_path / "again", tmp_path / "base.safetensors"
    shutil.copy(base, own_base)
    assert train(recipe_file, curated, own_base, again) == 0
    assert losses(again) == losses(run)
    shutil.rmtree(again / "checkpoints" / "step-00000006")
    own_base.unlink()
    assert train(recipe_file, curated, own_base, again, "--resume") == 0
    assert losses(again)[-3:] == losses(run)[-3:]
    files = [tmp_path / "again.safetensors", tmp_path / "first.safetensors"]
    for folder, file in zip((again, run), files, strict=True):
        assert twinreel("export", folder, "--to", file).code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_cannot_be_adapted_is_said(recipe_file: Path) -> None:
    with pytest.raises(UsageError, match=r"initial.*names.*\[bad_setting\]"):
        load_recipe(recipe_file, ["lora={rank: 2}"])
    recipe = load_recipe(
        recipe_file, ["lora={rank: 2, targets: ['*.atention.q']}", "initial=[{weights: x}]"]
    )
    with pytest.raises(UsageError, match=r"lora.targets: \*.atention.q.*\[no_lora_targets\]"):
        build_generator(recipe)
