"""A gradient that is not finite: no rank steps on it, and nothing that came of it is saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Finished, twinreel, twinreel_process
from tests.training.models.made_up_family import TRIPS_ABOVE
from training.checkpoint import latest_checkpoint, load_weights
from training.models.generator import build_generator
from training.objective.flow import draw_sigma
from training.objective.keys import generator as keyed
from training.run import read_recipe

FAMILY = "tests.training.models.made_up_family:tripping"
TRIPPING = (
    f"model={{family: '{FAMILY}', width: 4}}", "steps=12", "checkpoint.every=2",
    "checkpoint.keep=9", "tasks={t2av: 1, i2av: 0, a2v: 0, v2a: 0}", "evaluation.samples=0",
)  # fmt: skip


def train(
    recipe: Path, data: Path, run: Path, *settings: str, more: tuple[str, ...] = ()
) -> Finished:
    assignments = [part for setting in settings for part in ("--set", setting)]
    command = twinreel_process if "--ranks" in more else twinreel
    return command("train", recipe, "--data", data, "--run", run, *assignments, *more)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def trips(line: dict[str, Any]) -> bool:
    """Whether a noise level of a step's samples is one at which the model is not finite."""
    names = [("sigma", 0, line["step"] - 1, name) for name in line["sample_ids"]]
    return bool((draw_sigma([keyed(*name) for name in names], "uniform", 1.0) > TRIPS_ABOVE).any())


def saved_steps(run: Path) -> list[int]:
    return sorted(int(path.name[-8:]) for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def tripped(curated: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which some steps cannot be taken."""
    run = tmp_path_factory.mktemp("tripped") / "run"
    finished = train(recipe_file, curated, run, *TRIPPING)
    assert finished.code == 0, finished.err
    assert "skipped, as its gradient is not finite: step" in finished.err
    return run


def test_such_a_step_is_not_taken_and_said(tripped: Path) -> None:
    noted = lines(tripped)
    assert [line["step"] for line in noted] == list(range(1, 13))
    skipped = {line["step"] for line in noted if line["kind"] == "skipped"}
    assert skipped == {line["step"] for line in noted if trips(line)}
    assert 2 < len(skipped) < 10
    # A checkpoint that was due at one waits for the next that is taken.
    due = {2, 4, 6, 8, 10, 12}
    wanted = {min(set(range(step, 13)) - skipped) for step in due}
    assert set(saved_steps(tripped)) == wanted != due
    checkpoint = latest_checkpoint(tripped)
    assert checkpoint is not None
    generator = build_generator(read_recipe(tripped))
    load_weights(checkpoint, generator)
    assert all(bool(one.isfinite().all()) for one in generator.parameters())


def test_a_resumed_run_skips_the_same(
    tripped: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tripped, tmp_path / "run"))
    for later in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    finished = train(recipe_file, curated, run, *TRIPPING, more=("--resume",))
    assert finished.code == 0, finished.err
    parts = ("kind", "step", "loss", "gradient_norm")
    again, before = ([[line.get(part) for part in parts] for line in lines(one)]
                     for one in (run, tripped))  # fmt: skip
    assert again == before


@pytest.mark.soak
def test_all_ranks_skip_what_one_cannot_take(
    tripped: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finished = train(recipe_file, curated, run, *TRIPPING, more=("--ranks", "2"))
    assert finished.code == 0, finished.err
    for line, same in zip(lines(run), lines(tripped), strict=True):
        assert (line["kind"], line["step"]) == (same["kind"], same["step"])
        assert line.get("loss", 0.0) == pytest.approx(same.get("loss", 0.0), rel=1e-5)
    assert saved_steps(run) == saved_steps(tripped)


def test_a_ruined_model_ends_the_run_and_is_not_saved(
    curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("steps=40", "checkpoint.every=1", "evaluation.samples=0")
    finished = train(recipe_file, curated, run, *settings, "optimizer.learning_rate=1e30")
    assert finished.code == 1
    assert "[gradient_not_finite]" in finished.err
    assert "Traceback" not in finished.err
    noted = lines(run)
    taken = [line["step"] for line in noted if line["kind"] == "step"]
    assert len(noted) == len(taken) + 10
    assert saved_steps(run)[-1] == taken[-1]

    # Even if the run were to end before its patience does.
    short = tmp_path / "short"
    settings = (*settings, f"steps={taken[-1] + 3}")
    finished = train(recipe_file, curated, short, *settings, "optimizer.learning_rate=1e30")
    assert "[gradient_not_finite]" in finished.err
    assert saved_steps(short)[-1] == taken[-1]


def test_a_log_file_has_the_first_and_the_last_step(
    curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    finished = train(recipe_file, curated, tmp_path / "run", "steps=3", "evaluation.samples=0")
    assert finished.code == 0, finished.err
    assert "step 1 of 3: loss" in finished.err
    assert "step 3 of 3: loss" in finished.err
