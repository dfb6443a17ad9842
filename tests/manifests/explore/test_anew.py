from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from manifests.explore.anew import DoneAnew, done_anew
from manifests.store.records import DecisionRow
from manifests.store.selection_file import SavedSelection, StageOrigin
from manifests.store.store import Store
from tests.support.made_up_tables import (
    SCHEMAS,
    SELECTION,
    clip,
    look,
    motion,
    open_out,
    source,
    sync,
)

BEFORE = SavedSelection(
    SELECTION,
    SCHEMAS,
    {"still": {"sql": "motion.static_share < 0.9"}},
    {
        "motion": StageOrigin(3, {"rate_hz": 4.0}, "raft", "a", {}),
        "sync": StageOrigin(1, {}, "syncnet", "b", {"motion": "motion-1"}),
    },
    finished=True,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two units, and three clips of which two are measured."""
    store = open_out(tmp_path)
    units = [
        {"source_id": "source-1", "unit_index": index, "stage": "motion", "fingerprint": "motion-1"}
        for index in range(2)
    ]
    clips = [clip("a", motion=motion(0.1), sync=sync(3.0)), clip("b", sync=sync(2.0)), clip("c")]
    decisions = [DecisionRow(name, "policy-a", "keep", [], []) for name in "abc"]
    store.commit(
        {
            "signals": units,
            "clips": clips,
            "decisions": decisions,
            "sources": [source("source-1")],
            "captions": [caption("a")],
        }
    )
    return store


def caption(clip_id: str, fingerprint: str = "caption-1") -> dict[str, Any]:
    return {"clip_id": clip_id, "style": "ovi", "status": "ok", "fingerprint": fingerprint}


def after(**changes: Any) -> SavedSelection:
    """The next job's, with another fingerprint of every stage whose origin is given."""
    origins = {**BEFORE.origins, **changes.pop("origins", {})}
    changed = {name for name in origins if origins[name] != BEFORE.origins[name]}
    stages = {name: f"{name}-{2 if name in changed else 1}" for name in origins}
    selection = dataclasses.replace(SELECTION, stages=stages, **changes.pop("selection", {}))
    return dataclasses.replace(BEFORE, selection=selection, origins=origins, **changes)


def found(store: Store, now: SavedSelection) -> list[str]:
    with look(store) as connection:
        return [str(part) for part in done_anew(connection, BEFORE, now)]


def test_nothing_is_done_anew_by_the_same_job(store: Store) -> None:
    assert found(store, after()) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 4}, "version 3 -> 4"),
        ({"parameters": {"rate_hz": 8.0}}, "rate_hz 4.0 -> 8.0"),
        ({"backend": "flow", "weights_sha256": None}, "backend raft -> flow"),
        ({"weights_sha256": "c"}, "other weights of raft"),
    ],
)
def test_it_is_told_what_of_a_stage_has_changed(
    store: Store, changed: dict[str, Any], reason: str
) -> None:
    origin = dataclasses.replace(BEFORE.origins["motion"], **changed)
    assert found(store, after(origins={"motion": origin})) == [f"motion: {reason}: 2 units"]


def test_what_reads_it_is_measured_anew_too_and_what_is_there_already_is_not_counted(
    store: Store,
) -> None:
    origins = {
        "motion": dataclasses.replace(BEFORE.origins["motion"], version=4),
        "sync": dataclasses.replace(BEFORE.origins["sync"], reads={"motion": "motion-2"}),
    }
    sync_too = "sync: motion, which it reads, is measured anew"
    assert found(store, after(origins=origins)) == [
        "motion: version 3 -> 4: 2 units", f"{sync_too}: 2 clips",
    ]  # fmt: skip
    unit = {"source_id": "source-1", "stage": "motion", "fingerprint": "motion-2"}
    store.commit(
        {
            "signals": [{**unit, "unit_index": index} for index in range(2)],
            "clips": [clip("b", sync=sync(2.0, fingerprint="sync-2"))],
        }
    )
    assert found(store, after(origins=origins)) == [f"{sync_too}: 1 clip"]


def test_probe_cuts_captions_and_gates_are_told_of(store: Store) -> None:
    now = after(
        selection={
            "probe": "probe-2",
            "segmentation": "cut-b",
            "caption": ("ovi", "caption-2"),
            "policy": "policy-b",
        },
        gates={"still": {"sql": "motion.static_share < 0.5"}, "own": {"sql": "true"}},
    )
    with look(store) as connection:
        parts = done_anew(connection, BEFORE, now)
    assert [(part.what, part.count, part.rows) for part in parts] == [
        ("sources", 1, "files"), ("clips", 3, "clips"), ("captions", 1, "captions"),
        ("gates", 3, "decisions"),
    ]  # fmt: skip
    assert parts[-1] == DoneAnew("gates", ["own has changed", "still has changed"], 3, "decisions")
