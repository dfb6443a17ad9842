"""Beside other people's `curation`, `stages`, `manifests` and `training`, ours are ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import SMALL_SAMPLES, Finished, render_small, twinreel_process
from twinreel._names import NAMES, ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's folder: a raw bucket, a recipe, and packages that must not be imported."""
    folder = tmp_path_factory.mktemp("project")
    for name in NAMES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('somebody else: {name}')")
    for seed in range(2):
        render_small(folder / "raw" / f"{seed}.mp4", seed)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


RECIPE = """
steps: 2
batch: 2
micro_batch: 1
model: {dim: 16, ffn_dim: 32, freq_dim: 8, heads: 2, layers: 1}
video: {area_px: 512, codec: {kind: pixels, patch: 4, frames: 8, terms: 1}}
audio: {codec: {kind: log-mel, mels: 16, frames: 4}}
text: {kind: bytes, dim: 16, length: 16, stride: 16, layers: 1, heads: 2}
checkpoint: {every: 2}
log: {every: 1}
sampling: {steps: 1}
"""


def in_project(project: Path, *arguments: str) -> Finished:
    """A command there, with the folder on Python's path as well, as in a job of Ray's."""
    path = os.pathsep.join((str(project), str(ROOT)))
    finished = twinreel_process(*arguments, environment={"PYTHONPATH": path}, folder=project)
    assert finished.code == 0, finished.err
    return finished


CURATE = ("curate", "raw", "--out", "out", "--set", "split.held_out_share=0", *SMALL_SAMPLES)


@pytest.mark.soak
def test_every_command_works_where_others_have_our_names(project: Path) -> None:
    in_project(project, "plan", "curate", "raw")
    summary = in_project(project, *CURATE, "--json").json()
    assert summary["funnel"]["kept"]["count"] == 2
    assert summary["funnel"]["samples"]["samples"] == 2
    rows = in_project(project, "inspect", "out", "--sql", "SELECT uri FROM dataset", "--json")
    assert len(rows.json()) == 4
    in_project(project, "select", "out", "--set", "gates.volume=loudness.mean_volume_db > -70")
    assert "0 bad" in in_project(project, "verify", "out").out
    in_project(project, "compact", "out")
    in_project(project, "doctor", "--json")
    in_project(project, "weights", "list")
    in_project(project, "plan", "train", "tiny", "--json")
    train = ("train", "recipe.yaml", "--data", "out", "--run", "run", "--ranks", "2")
    in_project(project, *train)
    log = (project / "run" / "log.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, log) if line["kind"] == "step"] == [1, 2]
    in_project(project, "generate", "run", "--prompt", "a room", "--out", "clip.mp4")
    assert (project / "clip.mp4").stat().st_size > 0


@pytest.mark.soak
def test_a_demo_bucket_is_rendered_where_others_have_our_names(project: Path) -> None:
    in_project(project, "demo-bucket", "demo")
    assert (project / "demo" / "truth.json").exists()


@pytest.mark.soak
def test_a_submitted_job_works_where_others_have_our_names(project: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    job = [sys.executable, "-m", "twinreel", "curate", str(project / "raw")]
    job += ["--out", str(tmp_path / "out"), *SMALL_SAMPLES]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.one_node_cluster", str(project), *job],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Else the loopback address is turned into the outer one.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    query = "SELECT count(*) AS clips FROM dataset WHERE state = 'keep'"
    rows = in_project(project, "inspect", str(tmp_path / "out"), "--sql", query, "--json").json()
    assert rows == [{"clips": 2}]


def python(code: str, *, path: Path, folder: Path) -> Finished:
    """Code in a process of its own, as in a notebook that was started in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def own_training(folder: Path) -> Path:
    """A user's package `training`."""
    (folder / "training").mkdir()
    (folder / "training" / "__init__.py").write_text("mine = True\n")
    return folder / "training" / "__init__.py"


def test_a_package_that_was_loaded_under_a_name_is_named(tmp_path: Path) -> None:
    file = own_training(tmp_path)
    code = """
import training, twinreel._names as names
assert training.mine
names.claim("stages", "manifests")
from manifests.errors import UsageError
try:
    names.claim("training")
except UsageError as error:
    print(error.code, error.subject)
"""
    assert python(code, path=ROOT, folder=tmp_path).out.split() == ["name_taken", str(file)]


def test_the_error_needs_none_of_the_packages(tmp_path: Path) -> None:
    (tmp_path / "manifests.py").write_text("")
    code = """
import manifests, twinreel._names as names
try:
    names.claim("manifests")
except names.errors().TwinreelError as error:
    print(error.code, error.subject)
"""
    found = python(code, path=ROOT, folder=tmp_path).out.split()
    assert found == ["name_taken", str(tmp_path / "manifests.py")]


def test_a_package_that_can_not_be_had_any_more_is_warned_of(tmp_path: Path) -> None:
    file = own_training(tmp_path)
    code = "import twinreel._names as names; names.claim(); import training; print(training)"
    done = python(code, path=ROOT, folder=tmp_path)
    assert str(ROOT / "training") in done.out
    assert f"{file} is hidden" in done.err


def test_a_users_own_package_stays_until_ours_is_needed(tmp_path: Path) -> None:
    own_training(tmp_path)
    code = """
import twinreel._names as names
names.claim("curation", "stages", "manifests")
import curation, training
assert training.mine
"""
    done = python(code, path=ROOT, folder=tmp_path)
    assert (done.code, done.err) == (0, "")


def test_another_distribution_in_our_place_is_named(tmp_path: Path) -> None:
    for name in (*NAMES, "twinreel"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "stages" / "__init__.py").write_text("")
    metadata = tmp_path / "theatre-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theatre\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("stages/__init__.py,,\n")
    finished = twinreel_process("doctor", environment={"PYTHONPATH": ""}, folder=tmp_path)
    assert finished.code == 2
    assert finished.message.startswith(f"error: {tmp_path / 'stages' / '__init__.py'}: ")
    assert "theatre" in finished.message
    assert finished.message.endswith("[name_taken]")
