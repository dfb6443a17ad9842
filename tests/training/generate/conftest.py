"""A run of a few steps, and a clip to give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.demo_bucket import Shape, scenery_clip
from tests.support.command_line import twinreel


@pytest.fixture(scope="module")
def run(curated: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "run"
    finished = twinreel(
        "train", recipe_file, "--data", curated, "--run", folder, "--set", "evaluation.samples=0"
    )
    assert finished.code == 0, finished.err
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scenery_clip(path, seed=3, shape=Shape(160, 90, 25, 1.5))
    return path
