"""What an output of an earlier version is measured anew for, and what it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation import resolve
from curation.engine.tasks import Task
from manifests.errors import MediaError
from stages.run import unit
from tests.support.command_line import SMALL_SAMPLES, render_small, twinreel
from tests.support.in_process import InProcessEngine, engine

__all__ = ["engine"]

FEW_STAGES = tuple(
    f"--set=stages.{name}.enabled=false" for name in ("sync", "faces", "speech", "motion")
)
FEW_GATES = tuple(
    f"--set=gates.{name}="
    for name in ("sync_offset", "sync_confidence", "not_static", "not_frozen")
)


def test_what_failed_for_good_is_tried_again_by_a_version_that_may_decode_it(
    tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    render_small(raw / "good.mp4", 1)
    render_small(raw / "odd.mp4", 2)

    def refuse(task: Task[Any]) -> None:
        if task.function is unit.measure_unit and task.subject.endswith("odd.mp4"):
            raise MediaError("corrupt_bitstream", "It is called damaged.", subject=task.subject)

    def curate() -> list[tuple[str, str]]:
        engine.subjects.clear()
        finished = twinreel(
            "curate", raw, "--out", out, "--phase=measure", *SMALL_SAMPLES, *FEW_STAGES, *FEW_GATES
        )
        assert finished.code == 0, finished.err
        return sorted(engine.subjects)

    engine.fault = refuse
    assert ("measure_unit", "odd.mp4") in curate()
    assert curate() == []

    engine.fault = lambda task: None
    monkeypatch.setattr(unit, "UNIT_FAILURE_VERSION", unit.UNIT_FAILURE_VERSION + 1)
    monkeypatch.setattr(resolve, "PROBE_VERSION", resolve.PROBE_VERSION + 1)
    assert curate() == [
        ("measure_unit", "odd.mp4"),
        ("probe", "good.mp4"),
        ("probe", "odd.mp4"),
    ]
    rows = twinreel(
        "inspect", out, "--json", "--sql", "SELECT DISTINCT uri FROM dataset ORDER BY uri"
    ).json()
    assert [Path(row["uri"]).name for row in rows] == ["good.mp4", "odd.mp4"]
    assert curate() == []
