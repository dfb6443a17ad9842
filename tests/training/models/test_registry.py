"""Families by name: the package's own, and one that a user brings along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.errors import UsageError
from tests.support.command_line import twinreel
from tests.training.models.made_up_family import LinearSettings
from training.checkpoint import code_fingerprint, latest_checkpoint, read_record
from training.models.registry import find_family
from training.recipe import load_recipe

HERE = "tests.training.models.made_up_family"
OWN = (f"model={{family: '{HERE}:linear', width: 4}}", "steps=2", "log.every=1")


def test_a_family_from_outside_is_planned_and_trained(
    curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    settings = [part for setting in OWN for part in ("--set", setting)]
    plan = twinreel("plan", "train", recipe_file, *settings, "--json").json()
    channels = 4 * 4 + 2, 16
    maps = sum(2 * 4 * one + 4 + one for one in channels)
    text = sum(one.numel() for one in load_recipe(recipe_file).text.build().parameters())
    assert plan["parameters"] == maps + 16 + 1 + text
    operations = plan["video_tokens"] * channels[0] + plan["audio_tokens"] * channels[1]
    assert plan["sample_tflop"] * 1e12 == pytest.approx(
        3 * (4 * 4 * operations + load_recipe(recipe_file).text.forward_flops())
    )

    run = tmp_path / "run"
    finished = twinreel("train", recipe_file, "--data", curated, "--run", run, *settings)
    assert finished.code == 0, finished.err
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2]
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    assert read_record(checkpoint).code == code_fingerprint(f"{HERE}:linear")
    # What is trained is what is generated with: the run's recipe names the family.
    again = load_recipe(run / "recipe.yaml")
    assert again.model == LinearSettings(family=f"{HERE}:linear", width=4)
    out = tmp_path / "clip.mp4"
    made = twinreel("generate", run, "--prompt", "words", "--out", out, "--steps", "1")
    assert made.code == 0, made.err


@pytest.mark.parametrize(
    ("name", "file"), [("own_model", "own_model.py"), ("own.model", "own/part/deep.py")]
)
def test_another_source_of_an_own_family_is_another_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    (tmp_path / "own" / "part").mkdir(parents=True)
    for one in ("own_model.py", "own/__init__.py", "own/model.py", "own/part/deep.py", "other.py"):
        (tmp_path / one).write_text(f"from {HERE} import linear as family\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_fingerprint(f"{name}:family")
    (tmp_path / "other.py").write_text("")
    assert code_fingerprint(f"{name}:family") == before != code_fingerprint("ovi")
    (tmp_path / file).write_text("")
    assert code_fingerprint(f"{name}:family") != before


def test_another_family_takes_none_of_the_settings_before(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [f"model.family={HERE}:linear", "model.width=3"])
    assert recipe.model == LinearSettings(family=f"{HERE}:linear", width=3)
    with pytest.raises(UsageError, match=r"model\.widht: There is no such setting.*model\.width"):
        load_recipe(recipe_file, [f"model={{family: '{HERE}:linear', widht: 3}}"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ovo", "Did you mean 'ovi'"),
        ("no_such_module:family", "No module named 'no_such_module'"),
        (f"{HERE}:quadratic", "quadratic"),
        (f"{HERE}:no_family", "returns a device"),
        ("json:loads", "TypeError"),
    ],
)
def test_what_is_no_family_is_said(name: str, words: str) -> None:
    with pytest.raises(UsageError) as found:
        find_family(name)
    assert found.value.code == "unknown_family"
    assert words in str(found.value)
