"""The mix as a job sees it: shares among what is kept, stable when files are added."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curation.config import JobConfiguration, load_configuration
from curation.curate import run_curation, run_select
from curation.demo_bucket import Shape, VideoFormat
from curation.demo_bucket.clips import still_clip
from manifests.errors import UsageError
from manifests.explore.open import inspect_sql
from tests.support.in_process import InProcessEngine, jobs_by

FAST = VideoFormat(options={"preset": "ultrafast"})
TALL, WIDE, SQUARE = (96, 160), (160, 96), (128, 128)
BY = "CASE WHEN width > height THEN 'wide' WHEN width < height THEN 'tall' ELSE 'square' END"
SHARES = "mix.shares={wide: 0.5, tall: 0.25, square: 0.25}"


def configuration(*assignments: str) -> JobConfiguration:
    return load_configuration(
        "quickstart",
        None,
        [
            "clip.frames=6", "gates.not_static=", "gates.not_frozen=", "gates.sync_offset=",
            "gates.sync_confidence=", "gates.has_sound=", "gates.volume=",
            "stages.faces.enabled=false", "stages.sync.enabled=false", f"mix.by={BY}",
            *assignments,
        ],
    )  # fmt: skip


def curate(raw: Path, out: Path, *assignments: str) -> None:
    phases = ("measure", "annotate", "select")
    run_curation([str(raw)], str(out), configuration(*assignments), phases=phases)


def kept(out: Path) -> dict[str, set[str]]:
    rows: list[dict[str, Any]] = inspect_sql(
        str(out), f"SELECT clip_id, {BY} AS shape FROM dataset WHERE state = 'keep'"
    ).to_pylist()
    found = collections.defaultdict(set)
    for row in rows:
        found[row["shape"]].add(row["clip_id"])
    return found


def render(raw: Path, name: str, size: tuple[int, int], seconds: float) -> None:
    raw.mkdir(exist_ok=True)
    still_clip(raw / f"{name}.mp4", seed=len(name), shape=Shape(*size, 24, seconds, video=FAST))


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    with jobs_by(InProcessEngine()):
        yield


def test_shares_hold_and_clips_keep_their_places_when_files_are_added(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name, size, seconds in (("wide", WIDE, 20.0), ("tall", TALL, 4.0), ("square", SQUARE, 9.0)):
        render(raw, name, size, seconds)
    curate(raw, out, SHARES)
    before = kept(out)
    total = sum(map(len, before.values()))
    assert total >= 55
    for shape, share in (("wide", 0.5), ("tall", 0.25), ("square", 0.25)):
        assert len(before[shape]) / total == pytest.approx(share, abs=0.02)
    turned_down = inspect_sql(
        str(out), "SELECT DISTINCT rejected_by FROM dataset WHERE NOT mix.chosen"
    ).to_pylist()
    assert turned_down == [{"rejected_by": ["mix"]}]
    render(raw, "taller", TALL, 6.0)
    render(raw, "wider", WIDE, 10.0)
    curate(raw, out, SHARES)
    after = kept(out)
    assert all(after[shape] >= before[shape] for shape in before)
    assert len(after["tall"]) > len(before["tall"])
    total = sum(map(len, after.values()))
    for shape, share in (("wide", 0.5), ("tall", 0.25), ("square", 0.25)):
        assert len(after[shape]) / total == pytest.approx(share, abs=0.02)


@pytest.mark.soak
def test_other_gates_change_who_competes(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name, size in (("wide", WIDE), ("tall", TALL), ("square", SQUARE)):
        render(raw, name, size, 5.0)
    curate(raw, out, SHARES)
    first = kept(out)
    assert {shape: len(clips) for shape, clips in first.items()} == {
        "wide": len(first["wide"]),
        "tall": pytest.approx(len(first["wide"]) / 2, abs=1),
        "square": pytest.approx(len(first["wide"]) / 2, abs=1),
    }
    run_select(str(out), configuration(SHARES, "gates.early=start_s < 2.4"))
    second = kept(out)
    assert 0 < len(second["wide"]) < len(first["wide"])
    assert len(second["tall"]) == pytest.approx(len(second["wide"]) / 2, abs=1)
    run_select(str(out), configuration(SHARES))
    assert kept(out) == first


def test_a_number_of_clips_is_kept_to(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    render(raw, "wide", WIDE, 10.0)
    render(raw, "tall", TALL, 1.0)
    curate(raw, out, "mix.shares={wide: 0.5, tall: 0.5}", "mix.clips=20")
    found = kept(out)
    assert len(found["wide"]) == 10
    assert 3 <= len(found["tall"]) <= 4


def test_a_clip_whose_group_cannot_be_told_has_no_place_and_does_not_wait(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    render(raw, "wide", WIDE, 2.0)
    by = "mix.by=CASE WHEN start_s < 1.0 THEN licence ELSE 'late' END"
    curate(raw, out, by, "mix.shares={late: 1.0}")
    sql = "SELECT DISTINCT start_s >= 1.0 AS late, state, rejected_by, pending_on FROM dataset"
    found = inspect_sql(str(out), f"{sql} WHERE \"window\" = 'full' ORDER BY late").to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (False, "reject", ["mix"], []),
        (True, "keep", [], []),
    ]
    assert run_select(str(out), configuration(by, "mix.shares={late: 1.0}")).rows_written == 0


def test_wrong_mixes_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        configuration("mix.shares={wide: 0.5, tall: 0.6}")
    assert "add up to 1" in str(caught.value)
    render(tmp_path / "raw", "wide", WIDE, 1.0)
    with pytest.raises(UsageError) as caught:
        curate(tmp_path / "raw", tmp_path / "out", SHARES, "mix.by=no_such_column")
    assert (caught.value.code, caught.value.subject) == ("gate_unknown_column", "gate 'mix.by'")
    assert not (tmp_path / "out" / "manifests").exists()
