from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.store.records import DecisionRow
from manifests.store.store import Store
from tests.support.made_up_tables import clip, look, motion, open_out, source, sync


def test_rows_of_several_tables_appear_together_and_files_without_a_commit_do_not_exist(
    tmp_path: Path,
) -> None:
    store = open_out(tmp_path)
    decision = DecisionRow("a", "policy-a", "keep", [], [])
    number = store.commit({"clips": [clip("a", motion=motion(0.5))], "decisions": [decision]})
    assert number == 1
    # A writer that was killed between its files and its commit record.
    committed = next((tmp_path / "manifests" / "clips").glob("*.parquet"))
    orphan = committed.with_name("0000000002-orphan.parquet")
    pq.write_table(pq.read_table(committed), orphan)

    reader = open_out(tmp_path)
    assert reader.read("clips").num_rows == reader.read("decisions").num_rows == 1
    with look(reader) as connection:
        assert connection.execute("SELECT count(*) FROM clips_log").fetchall() == [(1,)]
    reader.commit({"clips": [clip("b")]})
    reader.compact()
    assert not orphan.exists()
    assert reader.read("clips")["clip_id"].to_pylist() == ["a", "b"]


def test_an_empty_commit_writes_nothing(tmp_path: Path) -> None:
    assert not open_out(tmp_path).commit({"clips": []})
    assert list(tmp_path.iterdir()) == []


def test_a_record_a_dict_and_a_table_are_rows(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    row = {
        "clip_id": "b", "policy": "p", "state": "keep", "rejected_by": [], "pending_on": ["sync"],
    }  # fmt: skip
    store.commit({"decisions": [DecisionRow("a", "p", "keep", [], []), row]})
    store.commit({"decisions": store.read("decisions", ["clip_id", "policy"])})
    found = store.read("decisions")
    assert found["clip_id"].to_pylist() == ["a", "b", "a", "b"]
    assert found["commit"].to_pylist() == [1, 1, 2, 2]
    assert found["pending_on"].to_pylist() == [[], ["sync"], None, None]
    store.commit({"sources": [source("s")]})
    assert store.read("sources")["carried"].to_pylist() == [[("owner", "me")]]


def test_a_struct_may_gain_fields_and_a_table_columns(tmp_path: Path) -> None:
    old = pa.schema([("clip_id", pa.string()), ("motion", pa.struct([("x", pa.int64())]))])
    new = pa.schema(
        [
            ("clip_id", pa.string()),
            ("motion", pa.struct([("x", pa.int64()), ("y", pa.string())])),
            ("extra", pa.float64()),
        ]
    )
    Store(str(tmp_path), {"t": old}).commit({"t": [{"clip_id": "a", "motion": {"x": 1}}]})
    store = Store(str(tmp_path), {"t": new})
    store.commit({"t": [{"clip_id": "b", "motion": None, "extra": 1.0}]})
    found = store.read("t").select(["clip_id", "motion", "extra"]).to_pylist()
    assert found == [
        {"clip_id": "a", "motion": {"x": 1, "y": None}, "extra": None},
        {"clip_id": "b", "motion": None, "extra": 1.0},
    ]


def test_compaction_keeps_the_view_and_the_history(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    for turn in range(5):
        store.commit(
            {
                "clips": [clip(f"c{index}", motion=motion(turn / 10)) for index in range(4)],
                "sources": [source("source-1", width=turn)],
            }
        )
    store.commit({"clips": [clip("c1", sync=sync(3.0))]})
    question = "SELECT * FROM dataset ORDER BY clip_id"
    with look(store) as connection:
        before = connection.sql(question).to_arrow_table()
    store.compact()
    assert {table: len(store.live_files(table)) for table in ("clips", "signals")} == {
        "clips": 1,
        "signals": 0,
    }
    assert len(list((tmp_path / "manifests" / "clips").glob("*.parquet"))) == 1
    assert store.read("clips").num_rows == 21
    for reader in (store, open_out(tmp_path)):
        with look(reader) as connection:
            assert connection.sql(question).to_arrow_table().equals(before)
    store.commit({"clips": [clip("c9")]})
    assert open_out(tmp_path).read("clips").num_rows == 22


def test_compaction_keeps_what_stages_own_that_the_reader_does_not_know(tmp_path: Path) -> None:
    key = pa.field("clip_id", pa.string())
    small, large = pa.struct([("x", pa.int64())]), pa.struct([("x", pa.int64()), ("y", pa.int64())])
    schemas = {"t": pa.schema([key, ("a", large), ("b", small)]), "own": pa.schema([key])}
    writer = Store(str(tmp_path), schemas)
    for turn in range(2):
        row = {"clip_id": str(turn), "a": {"x": turn, "y": turn}, "b": {"x": turn}}
        writer.commit({"t": [row], "own": [{"clip_id": str(turn)}]})
    before = {table: writer.read(table) for table in schemas}
    Store(str(tmp_path), {"t": pa.schema([key, ("a", small)])}).compact()
    after = Store(str(tmp_path), schemas)
    assert {table: len(after.live_files(table)) for table in schemas} == {"t": 1, "own": 1}
    assert {table: after.read(table) for table in schemas} == before


def test_compaction_folds_apart_what_two_versions_gave_types_with_none_in_common(
    tmp_path: Path,
) -> None:
    key = pa.field("clip_id", pa.string())
    number = {"t": pa.schema([key, ("a", pa.struct([("x", pa.int64())]))])}
    text = {"t": pa.schema([key, ("a", pa.struct([("x", pa.string())]))])}
    for turn in range(2):
        Store(str(tmp_path), number).commit({"t": [{"clip_id": str(turn), "a": {"x": turn}}]})
    for turn in range(2):
        Store(str(tmp_path), text).commit({"t": [{"clip_id": "t", "a": {"x": f"{turn} px"}}]})
    # Whichever version folds them, and again with nothing left to fold.
    for schemas in (number, text, {}):
        store = Store(str(tmp_path), schemas)
        store.compact()
        found = [pq.read_table(tmp_path / file) for file in store.live_files("t")]
        assert [table["commit"].to_pylist() for table in found] == [[1, 2], [3, 4]]
        assert [table["a"].to_pylist() for table in found] == [
            [{"x": 0}, {"x": 1}],
            [{"x": "0 px"}, {"x": "1 px"}],
        ]
    assert len(list((tmp_path / "manifests/t").iterdir())) == 2


def test_an_unknown_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError)):
        open_out(tmp_path).commit({"nope": [{"a": 1}]})
