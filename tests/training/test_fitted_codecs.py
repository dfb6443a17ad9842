"""Codecs that are fitted to a run's samples: kept with the run, and needed by all that goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.command_line import Finished, twinreel, twinreel_process

FITTED = (
    "video.codec={kind: pca, rows: 16, columns: 16, frames: 8, components: 12}",
    "audio.codec={kind: log-mel-pca, mels: 16, frames: 4, components: 12}",
    "model.patch=[1, 1, 1]",
    "prediction=data",
    "text={kind: words, dim: 16, length: 16}",
    "steps=6",
)
FILE = "codecs.safetensors"


def train(recipe: Path, data: Path, run: Path, *more: str) -> Finished:
    assignments = [part for setting in FITTED for part in ("--set", setting)]
    return twinreel("train", recipe, "--data", data, "--run", run, *assignments, *more)


def losses(run: Path) -> list[tuple[Any, ...]]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [(one["step"], one["loss"]) for one in lines if one["kind"] == "step"]


@pytest.fixture(scope="module")
def run(curated: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps; a checkpoint after three."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    finished = train(recipe_file, curated, folder)
    assert finished.code == 0, finished.err
    return folder


def test_a_run_resumes_with_the_fit_it_was_begun_with(
    run: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    assert train(recipe_file, curated, again, "--set", "steps=3").code == 0
    # Whatever is fitted now would be another: what counts is what was kept.
    before = load_file(again / FILE)
    assert train(recipe_file, curated, again, "--resume").code == 0
    assert losses(again) == losses(run)
    after, undisturbed = load_file(again / FILE), load_file(run / FILE)
    for name, tensor in before.items():
        assert after[name].equal(tensor)
        assert undisturbed[name].equal(tensor)


def test_a_clip_is_generated_from_the_run_alone(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    out = tmp_path / "clip.mp4"
    finished = twinreel("generate", moved, "--prompt", "a scene", "--out", out)
    assert finished.code == 0, finished.err
    assert "49 frames of 32 x 16" in finished.out
    (moved / FILE).write_bytes(b"no longer what it was")
    finished = twinreel("generate", moved, "--prompt", "a scene", "--out", out)
    assert finished.code == 1
    assert "[codecs_unreadable]" in finished.message


def test_a_run_without_its_fit_does_not_go_on(
    run: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / FILE).unlink()
    finished = train(recipe_file, curated, bare, "--resume", "--set", "steps=8")
    assert finished.code == 1
    assert "[codecs_unreadable]" in finished.err
    assert not (bare / FILE).exists()


@pytest.mark.soak
def test_ranks_share_one_fit(run: Path, curated: Path, recipe_file: Path, tmp_path: Path) -> None:
    assignments = [part for setting in FITTED for part in ("--set", setting)]
    two = tmp_path / "two"
    finished = twinreel_process(
        "train", recipe_file, "--data", curated, "--run", two, *assignments, "--ranks", "2"
    )
    assert finished.code == 0, finished.err
    for (step, loss), (same_step, same_loss) in zip(losses(two), losses(run), strict=True):
        assert step == same_step
        assert loss == pytest.approx(same_loss, rel=1e-5)
