"""The whole job on a small rendered bucket: once, twice, with other gates, other lengths.

The first is done by Ray, the others in this process: results do not depend on who does them.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import webdataset

from curation.config import JobConfiguration, load_configuration
from curation.curate import Summary, run_curation, run_select
from curation.demo_bucket import (
    Shape,
    VideoFormat,
    cuts_clip,
    letterbox_clip,
    scenery_clip,
    talking_face_clip,
)
from curation.phases.plan import plan_curation
from manifests.explore.open import inspect_sql, open_view
from tests.support.in_process import engine
from training.data.verify import verify_samples

__all__ = ["engine"]

FAST = VideoFormat(options={"preset": "ultrafast"})
PACK = ["pack.area_px=16384", "pack.preset=ultrafast", "split.held_out_share=0.5"]


def configuration(*assignments: str) -> JobConfiguration:
    return load_configuration("quickstart", None, [*PACK, *assignments])


def files_of(out: Path) -> dict[str, tuple[int, str]]:
    """Every file's time of change and hash."""
    return {
        str(path.relative_to(out)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def rows(out: Path, sql: str) -> list[dict[str, Any]]:
    return inspect_sql(str(out), sql).to_pylist()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    shape = Shape(width=320, height=180, fps=24, duration_s=11.0, video=FAST)
    cuts_clip(folder / "cuts.mp4", cut_times_s=(5.5,), seed=1, shape=shape)
    letterbox_clip(
        folder / "bars.mp4", seed=2, shape=Shape(width=320, height=240, duration_s=6.0, video=FAST)
    )
    scenery_clip(
        folder / "silent.mp4",
        seed=3,
        shape=Shape(width=320, height=180, fps=25, duration_s=6.0, video=FAST),
        audio=None,
    )
    face = Shape(width=512, height=288, fps=25, duration_s=6.0, video=FAST)
    talking_face_clip(folder / "face.mp4", 0, "synced", seed=4, shape=face)
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "notes.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def done(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("out") / "run"
    return out, run_curation([str(bucket)], str(out), configuration())


def test_every_file_has_its_row_and_every_clip_its_verdict(done: tuple[Path, Summary]) -> None:
    out, summary = done
    assert summary.skipped_files == 1
    sources = {row["uri"].rsplit("/", 1)[-1]: row for row in rows(out, "SELECT * FROM sources")}
    assert len(sources) == 5
    assert sources["broken.mp4"]["error"]["code"] == "unreadable_container"
    assert all(row["status"] == "ok" for name, row in sources.items() if name != "broken.mp4")
    states = rows(out, "SELECT DISTINCT state FROM dataset")
    assert {row["state"] for row in states} <= {"keep", "reject", "pending"}
    assert summary.funnel.kept.count >= 3


def test_clips_add_up_to_what_decodes(done: tuple[Path, Summary]) -> None:
    found = rows(
        done[0],
        """SELECT source_id, sum(end_s - start_s) AS clips, any_value(decoded) AS decoded
        FROM clips JOIN (SELECT source_id, sum(decoded_end_s - decoded_start_s) AS decoded
        FROM units GROUP BY source_id) USING (source_id) GROUP BY source_id""",
    )
    assert len(found) == 4
    assert all(row["clips"] == pytest.approx(row["decoded"], rel=1e-3) for row in found)


def test_clips_without_sound_are_rejected(done: tuple[Path, Summary]) -> None:
    silent = rows(done[0], "SELECT rejected_by FROM dataset WHERE uri LIKE '%silent.mp4'")
    assert silent
    assert all("has_sound" in row["rejected_by"] for row in silent)


def test_samples_are_read_back_and_by_stock_webdataset(done: tuple[Path, Summary]) -> None:
    out, summary = done
    with open_view(str(out)) as connection:
        found = verify_samples(str(out), connection)
    assert (found.bad, found.samples) == ([], summary.funnel.kept.count)
    assert found.frames == 121 * found.samples
    assert found.audio_s == pytest.approx(found.samples * 80_667 / 16_000)
    shards = [str(path) for path in sorted(out.glob("shards/*/*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert {tuple(sorted(k for k in s if not k.startswith("__"))) for s in samples} == {
        ("flac", "json", "mp4", "txt")
    }
    assert len(samples) == found.samples
    assert not list(out.glob("shards/*/fragments/*"))


def test_bars_do_not_reach_the_samples(done: tuple[Path, Summary]) -> None:
    (row,) = rows(
        done[0],
        "SELECT picture.active_width_px AS w, picture.active_height_px AS h, sample.width,"
        " sample.height FROM dataset WHERE uri LIKE '%bars.mp4' AND sample.status = 'ok'",
    )
    assert row["h"] < 240
    assert row["width"] / row["height"] == pytest.approx(row["w"] / row["h"], rel=0.03)


@pytest.mark.usefixtures("engine")
def test_a_second_run_decodes_and_writes_nothing(done: tuple[Path, Summary], bucket: Path) -> None:
    out, _ = done
    before = files_of(out)
    assert plan_curation([str(bucket)], str(out), configuration()).units_to_decode == 0
    again = run_curation([str(bucket)], str(out), configuration())
    assert again.did_nothing
    assert files_of(out) == before


def comparable(out: Path) -> list[dict[str, Any]]:
    return rows(out, "SELECT * EXCLUDE (sample) FROM dataset ORDER BY clip_id")


@pytest.mark.usefixtures("engine")
def test_two_runs_into_fresh_folders_are_the_same(
    done: tuple[Path, Summary], bucket: Path, tmp_path: Path
) -> None:
    run_curation([str(bucket)], str(tmp_path), configuration())
    assert comparable(tmp_path) == comparable(done[0])
    tars = [
        {path.name: path.read_bytes() for path in sorted(out.glob("shards/*/*.tar"))}
        for out in (done[0], tmp_path)
    ]
    assert tars[0]
    assert tars[0] == tars[1]


def test_other_gates_decide_again_without_decoding(
    done: tuple[Path, Summary], tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(done[0], out)
    levels = rows(out, "SELECT loudness.mean_volume_db AS v FROM dataset WHERE state = 'keep'")
    middle = sorted(row["v"] for row in levels)[len(levels) // 2]
    rule = f"loudness.mean_volume_db > {middle}"
    wanted = rows(out, f"SELECT clip_id FROM dataset WHERE state = 'keep' AND {rule}")
    tars = {path: path.read_bytes() for path in out.glob("shards/*/*.tar")}
    stricter = configuration(f"gates.louder={rule}")
    summary = run_select(str(out), stricter)
    assert (summary.decoded_units, summary.decoded_clips) == (0, 0)
    kept = rows(out, "SELECT clip_id FROM dataset WHERE state = 'keep'")
    assert sorted(r["clip_id"] for r in kept) == sorted(r["clip_id"] for r in wanted)
    assert 0 < len(kept) < len(levels)
    assert {path: path.read_bytes() for path in out.glob("shards/*/*.tar")} == tars
    back = run_select(str(out), configuration())
    assert back.rows_written == 0
    assert len(rows(out, "SELECT clip_id FROM dataset WHERE state = 'keep'")) == len(levels)


@pytest.mark.soak
@pytest.mark.usefixtures("engine")
def test_another_clip_length_decodes_nothing_for_signals(
    done: tuple[Path, Summary], bucket: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(done[0], out)
    shorter = configuration("clip.frames=61", "stages.sync.enabled=false")
    shorter_gates = shorter.model_copy(
        update={"gates": {k: v for k, v in shorter.gates.items() if not k.startswith("sync_")}}
    )
    summary = run_curation([str(bucket)], str(out), shorter_gates, phases=["measure", "select"])
    assert summary.decoded_units == 0
    windows = rows(out, "SELECT end_s - start_s AS s FROM dataset WHERE \"window\" = 'full'")
    assert windows
    assert all(row["s"] == pytest.approx(61 / 24, abs=0.022) for row in windows)
    measured = "picture IS NOT NULL AND motion IS NOT NULL AND loudness IS NOT NULL"
    assert rows(out, f"SELECT count(*) AS n FROM dataset WHERE NOT ({measured})") == [{"n": 0}]
    fresh = tmp_path / "fresh"
    run_curation([str(bucket)], str(fresh), shorter_gates, phases=["measure", "select"])
    assert comparable(fresh) == comparable(out)


@pytest.mark.usefixtures("engine")
def test_a_changed_file_takes_the_old_ones_place(bucket: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    shutil.copy(bucket / "bars.mp4", raw / "a.mp4")
    run_curation([str(raw)], str(out), configuration(), phases=["measure"])
    shutil.copy(bucket / "silent.mp4", raw / "a.mp4")
    run_curation([str(raw)], str(out), configuration(), phases=["measure"])
    assert rows(out, "SELECT audio_codec FROM sources") == [{"audio_codec": None}]
    assert rows(out, "SELECT count(DISTINCT source_id) AS n FROM dataset") == [{"n": 1}]
    assert rows(out, "SELECT count(*) AS n FROM sources_log") == [{"n": 2}]
