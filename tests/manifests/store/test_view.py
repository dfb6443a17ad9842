from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.store.records import (
    CaptionRow,
    DecisionRow,
    MixRow,
    SampleMember,
    SampleRow,
    UnitRow,
)
from manifests.store.store import Store
from manifests.store.view import LiveViews, connect
from tests.support.made_up_tables import (
    SCHEMAS,
    SELECTION,
    ShotRow,
    WordRow,
    clip,
    look,
    motion,
    open_out,
    rows,
    source,
    sync,
)

VIEWS = (
    "sources", "units", "shots", "signals", "clips", "words", "mix", "decisions", "captions",
    "samples", "dataset",
)  # fmt: skip
BOTH = "SELECT clip_id, motion.static_share, sync.confidence FROM dataset ORDER BY clip_id"


@pytest.fixture(autouse=True, params=["copied", "lazy"])
def dataset_is(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small datasets are copied; every answer must be that of the lazy view of large ones."""
    if request.param == "lazy":
        monkeypatch.setattr("manifests.store.dataset_views._MOST_COPIED_CLIPS", -1)


def caption_row(clip_id: str, text: str, fingerprint: str) -> CaptionRow:
    return CaptionRow(
        clip_id, "ovi", text, None, None, "m", None, None, None, None, None, "ok", None, fingerprint
    )


def sample_row(clip_id: str, beside: str = "other") -> SampleRow:
    return SampleRow(
        "x", "profile", [SampleMember("target", clip_id), SampleMember("reference", beside)],
        "0.tar", 0, 9, "", 8, 8, 121, 24.0, 16000, 80000, 0.0, "ok", None, "pack",
    )  # fmt: skip


def shots(count: int, fingerprint: str = "shots-1") -> list[ShotRow]:
    return [
        ShotRow("s", 0, index, float(index), index + 1.0, "cut", fingerprint)
        for index in range(count)
    ]


def signal(stage: str, fingerprint: str, value: float) -> dict[str, object]:
    return {
        "source_id": "s", "unit_index": 0, "stage": stage, "fingerprint": fingerprint,
        "motion_energy": [value],
    }  # fmt: skip


def test_empty_tables_give_views_with_their_columns(tmp_path: Path) -> None:
    with look(open_out(tmp_path / "nothing")) as connection:
        assert all(rows(connection, f"SELECT count(*) FROM {view}") == [(0,)] for view in VIEWS)
        rows(connection, "SELECT motion.static_share, uri, caption.text, sample.shard FROM dataset")
    assert not (tmp_path / "nothing").exists()


def test_a_clip_takes_each_stage_from_the_latest_row_that_holds_it(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip("a", motion=motion(0.1)), clip("b", motion=motion(0.2))]})
    store.commit({"clips": [clip("a", sync=sync(1.0))]})
    store.commit({"clips": [clip("a", sync=sync(2.0)), clip("b", motion=motion(0.3))]})
    with look(store) as connection:
        assert rows(connection, BOTH) == [("a", 0.1, 2.0), ("b", 0.3, None)]
        assert rows(connection, "SELECT count(*) FROM clips_log") == [(5,)]
        assert rows(connection, "SELECT clip_id FROM clips WHERE sync IS NULL") == [("b",)]


def test_another_fingerprint_shows_its_own_results_and_going_back_the_old(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip("a", motion=motion(0.1), sync=sync(1.0))]})
    store.commit({"clips": [clip("a", motion=motion(0.9, fingerprint="motion-2"))]})
    with look(store, stages={"motion": "motion-2", "sync": "sync-1"}) as connection:
        assert rows(connection, BOTH) == [("a", 0.9, 1.0)]
    with look(store) as connection:
        assert rows(connection, BOTH) == [("a", 0.1, 1.0)]
    with look(store, stages={"motion": "motion-3"}) as connection:
        assert rows(connection, "SELECT motion FROM dataset") == [(None,)]
        assert "sync" not in connection.sql("SELECT * FROM dataset").columns


def test_structs_are_found_whatever_segmentation_they_were_measured_under(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip("a", motion=motion(0.1), sync=sync(1.0)), clip("b")]})
    store.commit({"clips": [clip("a", cut="cut-b"), clip("c", cut="cut-b")]})
    with look(store, segmentation="cut-b") as connection:
        assert rows(connection, BOTH) == [("a", 0.1, 1.0), ("c", None, None)]
    with look(store) as connection:
        assert rows(connection, BOTH) == [("a", 0.1, 1.0), ("b", None, None)]


def test_a_decision_holds_for_the_measurements_it_was_made_of(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip("a")]})
    # By a version that did not say what it decided under: it holds for everybody.
    store.commit({"decisions": [DecisionRow("a", "policy-a", "keep", [], [])]})
    store.commit({"decisions": [DecisionRow("a", "policy-a", "reject", ["g"], [], "new")]})
    for under, state in (("old", "keep"), ("new", "reject"), (None, "reject")):
        with look(store, decided_under=under) as connection:
            assert rows(connection, "SELECT state FROM dataset") == [(state,)], under


def test_dataset_joins_source_decision_caption_and_sample(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit(
        {
            "sources": [source("source-1"), source("source-2")],
            "clips": [clip("a"), clip("b")],
            "decisions": [
                DecisionRow("a", "policy-a", "reject", ["g"], []),
                DecisionRow("b", "policy-b", "keep", [], []),
            ],
            "captions": [
                caption_row("a", "Hello.", "caption-1"),
                caption_row("b", "Old.", "caption-0"),
            ],
            "samples": [sample_row("a", beside="b")],
        }
    )
    store.commit(
        {
            "sources": [source("source-1", uri="/raw/moved.mp4")],
            "decisions": [DecisionRow("a", "policy-a", "keep", [], [])],
        }
    )
    question = """SELECT clip_id, uri, width, source_bytes, carried['owner'], state, caption.text,
        sample.shard FROM dataset ORDER BY clip_id"""
    with look(store) as connection:
        assert rows(connection, question) == [
            ("a", "/raw/moved.mp4", 1280, 10, "me", "keep", "Hello.", "0.tar"),
            ("b", "/raw/moved.mp4", 1280, 10, "me", None, None, None),
        ]
        assert rows(connection, "SELECT count(*) FROM sources") == [(2,)]
    with look(store, policy="policy-b", profile="other") as connection:
        assert rows(connection, "SELECT clip_id, state, sample FROM dataset ORDER BY ALL") == [
            ("a", None, None),
            ("b", "keep", None),
        ]


def test_a_group_that_is_measured_again_replaces_the_old_one_whole(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    for part in (shots(3), shots(2), shots(5, "shots-2")):
        store.commit({"shots": part})
    counts = []
    for fingerprint in ("shots-1", "shots-2"):
        with look(store, stages={"shots": fingerprint}) as connection:
            counts.append(rows(connection, "SELECT count(*) FROM shots")[0][0])
    assert counts == [2, 5]


def test_signals_are_the_latest_of_each_stage(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"signals": [signal("motion", "motion-1", 1.0), signal("sync", "old", 2.0)]})
    store.commit({"signals": [signal("motion", "motion-1", 3.0)]})
    with look(store) as connection:
        assert rows(connection, "SELECT stage, motion_energy FROM signals") == [("motion", [3.0])]


def test_refreshed_views_show_what_fresh_ones_do(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    unit = UnitRow("s", 0, 0.0, 5.0, 0.0, 5.0, 120, [], "ok", None, "unit")
    of_another = clip("c") | {"source_id": "source-2"}
    commits: list[dict[str, list[Any]]] = [
        {"sources": [source("source-1"), source("source-2", "/raw/b.mp4")]},
        {"units": [unit], "signals": [signal("motion", "motion-1", 1.0)], "shots": shots(1)},
        {"clips": [clip("a", motion=motion(0.1)), clip("b"), of_another]},
        {"clips": [clip("a", sync=sync(1.0))], "words": [WordRow("a", "one", "transcript-1")]},
        {"decisions": [DecisionRow("a", "policy-a", "keep", [], [])]},
        {"captions": [caption_row("a", "A.", "caption-1")], "shots": shots(2)},
        {"samples": [sample_row("a")], "mix": [MixRow("a", "g", True, "mix-1")]},
        {"decisions": [DecisionRow("a", "policy-a", "reject", ["gate"], [])]},
        # Another file has taken the place of the one that `c` was cut from.
        {"sources": [source("source-3", "/raw/b.mp4")]},
    ]
    stages = {**SELECTION.stages, "shots": "shots-1", "transcript": "transcript-1"}
    selection = dataclasses.replace(SELECTION, mix="mix-1", stages=stages)
    with contextlib.closing(LiveViews(store, selection)) as live:
        open_since_the_start = live.connection.cursor()
        for commit in commits:
            store.commit(commit)
            live.refresh()
            with connect(store, selection) as fresh:
                for view in (*VIEWS, "keyed.view_files"):
                    asked = f"FROM {view} ORDER BY ALL"
                    assert rows(open_since_the_start, asked) == rows(fresh, asked), view
        assert rows(open_since_the_start, "SELECT clip_id, state FROM dataset ORDER BY ALL") == [
            ("a", "reject"),
            ("b", None),
        ]


def test_a_field_that_another_version_added_to_a_struct_is_not_shown(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip("a", motion=motion(0.1))], "samples": [sample_row("a")]})
    fields = [*SCHEMAS["clips"].field("motion").type, pa.field("blur", pa.float64())]
    newer = {**SCHEMAS, "clips": pa.schema(
        [
            *(field for field in SCHEMAS["clips"] if field.name != "motion"),
            pa.field("motion", pa.struct(fields)),
        ]
    )}  # fmt: skip
    Store(str(tmp_path), schemas=newer).commit(
        {"clips": [clip("b", motion=motion(0.2) | {"blur": 3.0})]}
    )
    with look(open_out(tmp_path)) as connection:
        assert rows(connection, BOTH) == [("a", 0.1, None), ("b", 0.2, None)]
        for view in ("dataset", "clips", "clips_log"):
            shown = connection.sql(f"SELECT motion FROM {view}").to_arrow_table()
            assert "blur" not in [field.name for field in shown.schema.field("motion").type], view
    with connect(Store(str(tmp_path), schemas=newer), SELECTION) as connection:
        asked = "SELECT clip_id, motion.blur FROM dataset ORDER BY clip_id"
        assert rows(connection, asked) == [("a", None), ("b", 3.0)]


def test_odd_folder_names_are_no_patterns(tmp_path: Path) -> None:
    store = open_out(tmp_path / "a[1]*b?=2" / "it's")
    store.commit({"clips": [clip("a", motion=motion(0.1))]})
    with look(store) as connection:
        assert rows(connection, BOTH) == [("a", 0.1, None)]


def test_two_hundred_thousand_clips(tmp_path: Path) -> None:
    count = 200_000
    ids = pa.array([f"{index:016x}" for index in range(count)])
    plain = pa.Table.from_pylist([clip("x", motion=motion(0.5))], schema=SCHEMAS["clips"])
    columns = {
        name: pa.repeat(plain[name][0], count) if name != "clip_id" else ids
        for name in plain.column_names
    }
    store = open_out(tmp_path)
    store.commit({"clips": pa.table(columns, schema=SCHEMAS["clips"])})
    store.commit({"clips": [clip(f"{index:016x}", sync=sync(1.0)) for index in range(500)]})
    start = time.monotonic()
    with look(store) as connection:
        found = rows(
            connection,
            "SELECT count(*), count(*) FILTER (motion.static_share < 1),"
            " count(*) FILTER (sync.confidence = 1) FROM dataset",
        )
    print(f"view over {count} clips: {time.monotonic() - start:.2f} s")
    assert found == [(count, count, 500)]
