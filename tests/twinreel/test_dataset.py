"""`open_dataset`: the tables in memory, and nothing that the command would refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import twinreel
from tests.support.command_line import twinreel as command


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, twinreel; dir(twinreel); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "ray", "av", "duckdb", "numpy", "curation", "training"} & set(loaded)


def test_every_name_is_there() -> None:
    for name in twinreel.__all__:
        assert getattr(twinreel, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'curato'"):
        _ = twinreel.curato  # type: ignore[attr-defined]


def test_clips_are_those_that_the_command_shows(curated: Path) -> None:
    query = "SELECT clip_id, motion.score_px_s FROM dataset ORDER BY uri, start_s"
    shown = command("inspect", curated, "--sql", query, "--json").json()
    with twinreel.open_dataset(curated) as dataset:
        assert dataset.sql(query).to_pylist() == shown
        clips = dataset.clips()
        assert clips["clip_id"].to_pylist() == [row["clip_id"] for row in shown]
        assert dataset.arrow().equals(clips)
        kept = dataset.clips("state = 'keep' OR false")
        assert kept.num_rows == 5
        assert set(kept["state"].to_pylist()) == {"keep"}
        frame = dataset.pandas("state = 'reject'")
        assert list(frame["rejected_by"].map(list)) == [["length"]] * 5
        samples = dataset.samples().to_pylist()
    assert len(samples) == 5
    assert all((curated / sample["shard"]).stat().st_size > 0 for sample in samples)
    assert all(sample["caption"] and sample["frames"] == 25 for sample in samples)


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("stat = 'keep'", "sql_error"),
        ("uri IN (SELECT content FROM read_text('/etc/passwd'))", "sql_refused"),
    ],
)
def test_what_the_command_refuses_is_refused(curated: Path, where: str, code: str) -> None:
    with twinreel.open_dataset(curated) as dataset, pytest.raises(twinreel.TwinreelError) as caught:
        dataset.clips(where)
    assert caught.value.code == code


def test_a_folder_that_no_job_wrote_is_named(tmp_path: Path) -> None:
    with pytest.raises(twinreel.TwinreelError) as caught:
        twinreel.open_dataset(tmp_path)
    assert (caught.value.code, caught.value.subject) == ("not_an_output", str(tmp_path))
