"""First weights out of files, weights written as files, and what does not fit said by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from manifests.errors import UsageError
from tests.support.command_line import twinreel
from training.models.generator import Generator, build_generator
from training.recipe import Recipe, load_recipe
from training.weights import export_weights, load_initial

SEED = 7


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="module")
def other(recipe: Recipe) -> Generator:
    """Weights of another seed: none but zeros are those of the recipe's own."""
    generator = build_generator(recipe.model_copy(update={"seed": SEED}))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return generator


def started(recipe_file: Path, *sources: str) -> tuple[Generator, dict[str, Tensor]]:
    """A generator with its first weights, and those that its seed alone gives."""
    recipe = load_recipe(recipe_file, [f"initial=[{', '.join(sources)}]"])
    generator = build_generator(recipe)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    load_initial(generator, recipe)
    return generator, before


def exported(
    weights: Mapping[str, Tensor], recipe: Recipe, file: Path, layout: str
) -> dict[str, Tensor]:
    export_weights(weights, recipe, file, layout=layout, dtype=torch.float32)
    return load_file(file)


@pytest.mark.parametrize("layout", ["ovi", "wan", "wan-diffusers"])
@pytest.mark.parametrize("named", ["auto", "by name"])
def test_what_is_exported_is_what_was_imported(
    recipe_file: Path, recipe: Recipe, other: Generator, tmp_path: Path, layout: str, named: str
) -> None:
    first = exported(other.state_dict(), recipe, tmp_path / "first.safetensors", layout)
    told = "auto" if named == "auto" else layout
    generator, before = started(
        recipe_file, f"{{weights: {tmp_path / 'first.safetensors'}, layout: {told}}}"
    )
    again = exported(generator.state_dict(), recipe, tmp_path / "again.safetensors", layout)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)
    for name, value in generator.state_dict().items():
        if layout == "ovi" or ("video_model" in name and "_fusion" not in name):
            assert torch.equal(value, other.state_dict()[name])
        elif "video_model" in name and name.endswith((".k_fusion.weight", ".v_fusion.weight")):
            torch.testing.assert_close(value, before[name] / 10)
        else:
            assert torch.equal(value, before[name])


def test_towers_come_from_files_of_their_own_in_parts(
    recipe_file: Path, recipe: Recipe, other: Generator, tmp_path: Path
) -> None:
    whole = exported(other.state_dict(), recipe, tmp_path / "ovi.safetensors", "ovi")
    wan = exported(other.state_dict(), recipe, tmp_path / "wan.safetensors", "wan-diffusers")
    folder = tmp_path / "wan" / "transformer"
    folder.mkdir(parents=True)
    names, index = sorted(wan), {}
    for part in range(2):
        own = {name: wan[name] for name in names[part::2]}
        save_file(own, folder / f"part-{part}.safetensors")
        index |= dict.fromkeys(own, f"part-{part}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    sources = (
        f"{{weights: {folder.parent}}}",
        f"{{weights: {tmp_path / 'ovi.safetensors'}, only: ['audio_model.*']}}",
    )
    generator, before = started(recipe_file, *sources)
    for name, value in generator.state_dict().items():
        if "audio_model" in name:
            assert torch.equal(value, whole[name.removeprefix("model.")])
        elif "text_encoder" in name:
            assert torch.equal(value, before[name])
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(UsageError, match=r"part-1.safetensors are not there"):
        started(recipe_file, sources[0])


def test_half_precision_comes_back_as_it_was(
    recipe_file: Path, recipe: Recipe, other: Generator, tmp_path: Path
) -> None:
    file, back = tmp_path / "half.safetensors", tmp_path / "back.safetensors"
    export_weights(other.state_dict(), recipe, file, layout="ovi", dtype=torch.bfloat16)
    generator, _ = started(recipe_file, f"{{weights: {file}}}")
    export_weights(generator.state_dict(), recipe, back, layout="ovi", dtype=torch.bfloat16)
    assert file.read_bytes() == back.read_bytes()


def test_every_key_that_does_not_fit_is_named(
    recipe_file: Path, recipe: Recipe, other: Generator, tmp_path: Path
) -> None:
    file = tmp_path / "wan.safetensors"
    weights = exported(other.state_dict(), recipe, file, "wan")
    del weights["blocks.1.ffn.2.bias"]
    weights["blocks.0.self_attn.k_img.weight"] = torch.zeros(2)
    weights["head.head.bias"] = torch.zeros(3)
    save_file(weights, file)
    with pytest.raises(UsageError) as error:
        started(recipe_file, f"{{weights: {file}}}")
    assert error.value.code == "weights_do_not_fit"
    for words in (
        "1 missing: video_model.blocks.1.ffn.2.bias",
        "1 unexpected: blocks.0.self_attn.k_img.weight",
        "1 of another shape: head.head.bias [3] for [72]",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("{weights: nowhere}", "weights_missing"),
        ("{weights: FOLDER}", "weights_ambiguous"),
        ("{weights: FOLDER/b.safetensors}", "bad_weights"),
        ("{weights: FOLDER/a.safetensors, layout: wam}", "unknown_layout"),
        ("{weights: FOLDER/a.safetensors, only: ['audio_tower.*']}", "weights_do_not_fit"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    recipe_file: Path, recipe: Recipe, other: Generator, tmp_path: Path, source: str, code: str
) -> None:
    exported(other.state_dict(), recipe, tmp_path / "a.safetensors", "ovi")
    (tmp_path / "b.safetensors").write_bytes(b"words")
    with pytest.raises(UsageError) as error:
        started(recipe_file, source.replace("FOLDER", str(tmp_path)))
    assert error.value.code == code


def test_a_run_starts_from_files_and_is_exported(
    curated: Path, recipe_file: Path, recipe: Recipe, other: Generator, tmp_path: Path
) -> None:
    """A run of two ranks takes a file's weights over; frozen ones come out as they came in."""
    first = exported(other.state_dict(), recipe, tmp_path / "first.safetensors", "ovi")
    run, out = tmp_path / "run", tmp_path / "out.safetensors"
    finished = twinreel(
        "train", recipe_file, "--data", curated, "--run", run, "--ranks", "2",
        "--set", f"initial=[{{weights: {tmp_path / 'first.safetensors'}}}]", "--set", "steps=1",
        "--set", "trainable=['*.self_attn.*']", "--set", "evaluation.samples=0",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    done = twinreel("export", run, "--to", out)
    assert done.code == 0, done.err
    assert f"{len(first)} tensors" in done.out
    last = load_file(out)
    assert last.keys() == first.keys()
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed
    assert all(".self_attn." in name for name in changed)
    assert "[folder_missing]" in twinreel("export", run, "--to", tmp_path / "a" / "b").message
    assert "[no_adapter]" in twinreel("export", run, "--to", tmp_path / "b", "--adapter").message
    assert "[unknown_layout]" in twinreel("export", run, "--to", out, "--layout", "x").message
