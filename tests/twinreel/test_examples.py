"""The scripts in `examples/` run, and do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import twinreel
from tests.support.command_line import render_small
from twinreel._names import ROOT


def run(name: str, *arguments: str | Path) -> list[str]:
    """What a script prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_folder_is_curated_and_decided_again(tmp_path: Path) -> None:
    for seed in range(2):
        render_small(tmp_path / "raw" / f"{seed}.mp4", seed)
    lines = run("curate_folder.py", tmp_path / "raw", tmp_path / "out")
    assert lines[0] == "2 clips kept, 2 rejected"
    assert lines[1] == "  length: 2, 2 of them by it alone"
    assert lines[-1].startswith("1 clips kept where loudness.mean_volume_db >= ")
    with twinreel.open_dataset(tmp_path / "out") as dataset:
        assert dataset.clips("state = 'keep'").num_rows == 1


def test_a_file_is_measured(curated: Path) -> None:
    lines = run("measure_file.py", curated.parent / "raw" / "0.mp4")
    assert lines[0].endswith("0.mp4: 1.21 s, h264")
    assert "faces none" in lines[1]
    assert len([line for line in lines if "#" in line]) == 3


@pytest.mark.soak
def test_an_own_loop_goes_on_where_it_was(curated: Path, tmp_path: Path) -> None:
    # Five samples in batches of two: the first call ends one batch into the second epoch.
    lines = run("train_own_loop.py", curated, tmp_path / "state.pt")
    lines += run("train_own_loop.py", curated, tmp_path / "state.pt")
    assert [line.partition(":")[0] for line in lines] == [f"step {n}" for n in range(1, 9)]
    loader = twinreel.CuratedSamples(curated).loader(2)
    expected = [batch["sample_id"] for _ in range(3) for batch in loader][:8]
    assert [line.split(", ")[1].split() for line in lines] == expected
