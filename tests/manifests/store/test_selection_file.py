from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from manifests.errors import UsageError
from manifests.explore.open import inspect_sql, open_view, saved_selection
from manifests.store.schema_text import schema_from_json, schema_to_json
from manifests.store.selection_file import (
    SELECTION_FILE,
    SavedSelection,
    StageOrigin,
    read_selection,
    write_selection,
)
from manifests.store.storage import Storage, open_storage
from tests.support.made_up_tables import SCHEMAS, SELECTION, clip, motion, open_out

SAVED = SavedSelection(
    SELECTION,
    SCHEMAS,
    {"still": {"sql": "motion.static_share < 0.9", "backends": None, "unmeasured": "pending"}},
    {"motion": StageOrigin(3, {"rate_hz": 4.0}, "raft", "0" * 64, {"shots": "shots-1"})},
    finished=True,
)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = open_storage(str(tmp_path))
    write_selection(storage, SAVED)
    return storage


def test_what_a_job_resolved_to_is_read_back_whole(storage: Storage) -> None:
    assert read_selection(storage) == SAVED
    bare = dataclasses.replace(
        SELECTION,
        caption=None,
        mix="mix-1",
        decided_under="under-1",
        packed_windows=("full", "short"),
        side_tables={},
    )
    changed = SavedSelection(bare, {}, {}, {}, finished=False)
    write_selection(storage, changed)
    assert read_selection(storage) == changed


def test_a_file_that_does_not_say_what_was_decided_under_is_read(
    storage: Storage, tmp_path: Path
) -> None:
    content = json.loads((tmp_path / SELECTION_FILE).read_text())
    del content["decided_under"]
    (tmp_path / SELECTION_FILE).write_text(json.dumps(content))
    assert read_selection(storage) == SAVED


def test_nothing_is_written_where_nothing_has_changed(storage: Storage, tmp_path: Path) -> None:
    before = (tmp_path / SELECTION_FILE).stat()
    write_selection(storage, SAVED)
    after = (tmp_path / SELECTION_FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_view_opens_by_the_file_alone(storage: Storage, tmp_path: Path) -> None:
    open_out(tmp_path).commit({"clips": [clip("a", motion=motion(0.5))]})
    rows = inspect_sql(str(tmp_path), "SELECT clip_id, motion.static_share AS s FROM clips")
    assert rows.to_pylist() == [{"clip_id": "a", "s": 0.5}]
    with open_view(str(tmp_path)) as connection:
        assert connection.execute("SELECT count(*) FROM words").fetchall() == [(0,)]


def test_without_the_file_an_output_is_none_or_asks_who_knows(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        saved_selection(str(tmp_path))
    assert caught.value.code == "not_an_output"
    assert saved_selection(str(tmp_path), lambda out: SAVED) is SAVED


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "selection_unreadable"),
        ("[]", "selection_unreadable"),
        (json.dumps({"format": 1, "stages": {}}), "selection_unreadable"),
        (json.dumps({"format": 2}), "newer_selection"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    storage: Storage, tmp_path: Path, content: str, code: str
) -> None:
    (tmp_path / SELECTION_FILE).write_text(content)
    with pytest.raises(UsageError) as caught:
        open_view(str(tmp_path))
    assert caught.value.code == code
    assert caught.value.subject == str(tmp_path / SELECTION_FILE)


def test_schemas_are_words_that_a_person_can_read() -> None:
    span = pa.struct([("s", pa.float64())])
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("bins", pa.list_(pa.float32())),
            ("carried", pa.map_(pa.string(), pa.string())),
            ("mark", pa.struct([("ok", pa.bool_()), ("spans", pa.list_(span))])),
        ]
    )
    assert schema_to_json(schema) == {
        "id": "string",
        "bins": {"list": "float"},
        "carried": {"map": ["string", "string"]},
        "mark": {"struct": {"ok": "bool", "spans": {"list": {"struct": {"s": "double"}}}}},
    }
    for known in (schema, *SCHEMAS.values()):
        assert schema_from_json(json.loads(json.dumps(schema_to_json(known)))) == known
    with pytest.raises(TypeError, match="decimal"):
        schema_to_json(pa.schema([("price", pa.decimal128(5))]))
    with pytest.raises(ValueError, match="quaternion"):
        schema_from_json({"turn": "quaternion"})
