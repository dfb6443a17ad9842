"""The presets' gates: one condition each, and a tightened one never brings a clip back."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml

from curation.config import load_configuration, preset_names
from curation.demo_bucket import AudioTrack, scenery_clip
from manifests.errors import UsageError
from manifests.explore.open import inspect_sql
from manifests.policy.decide import decide
from manifests.policy.gates import Gate, rules_of, thresholds
from manifests.store.selection import Selection
from manifests.store.store import Store
from manifests.store.view import connect
from stages.registry import clips_schema
from tests.support.command_line import SMALL, SMALL_SAMPLES, render_small, twinreel
from tests.support.in_process import InProcessEngine, engine
from tests.support.made_up_tables import clip, source

__all__ = ["engine"]

STAGES = {
    "loudness": {"mean_volume_db": (-70.0, -60.0, -40.0, -10.0)},
    "motion": {"static_share": (0.0, 0.5, 0.95), "frozen_share": (0.0, 0.4, 0.6)},
    "picture": {"active_width_px": (100, 1000), "active_height_px": (100, 1000)},
    "aesthetic": {"mean": (2.0, 4.5, 7.0)},
    "sync": {"offset_frames": (-9.0, -3.0, 0.0, 2.0, 4.0), "confidence": (0.5, 1.5, 3.0, 9.0)},
}
BACKENDS = {"motion": ("raft_large", "embedded"), "sync": ("syncnet", "embedded")}
MIXED = {
    "quickstart": {
        "motion.static_share < 0.9 AND motion.frozen_share < 0.5": ("not_static", "not_frozen"),
        "loudness.status <> 'not_applicable' AND loudness.mean_volume_db >= -60": (
            "has_sound", "volume",
        ),
        "sync.confidence >= 3.0 AND abs(sync.offset_frames) <= 3": (
            "sync_offset", "sync_confidence",
        ),
    },
    "ovi": {
        "motion.static_share < 0.9 AND motion.frozen_share < 0.5": ("not_static", "not_frozen"),
        "loudness.status <> 'not_applicable' AND loudness.mean_volume_db >= -60": (
            "has_sound", "volume",
        ),
        "abs(sync.offset_frames) <= 3 AND sync.confidence > 1.5": (
            "sync_offset", "sync_confidence",
        ),
    },
}  # fmt: skip
"""Conditions that were one gate, and the two gates that they are."""
RANKS = {"reject": 0, "pending": 1, "keep": 2}


def structs_of(stage: str) -> Iterator[dict[str, Any] | None]:
    """Every state that a stage's struct can be in, over every combination of values."""
    mark = {"error": None, "fingerprint": f"{stage}-1"}
    yield None
    for backend in BACKENDS.get(stage, ("embedded",)):
        yield {"status": "not_applicable", "backend": backend, **mark}
        for retryable in (False, True):
            error = {"code": "broken", "message": "It broke.", "retryable": retryable}
            yield {"status": "failed", "backend": backend, **mark, "error": error}
        fields = STAGES[stage]
        values = [
            (
                None,
                *known,
                *([math.nan, math.inf, -math.inf] if isinstance(known[0], float) else []),
            )
            for known in fields.values()
        ]
        for combination in itertools.product(*values):
            yield {
                "status": "ok",
                "backend": backend,
                **mark,
                **dict(zip(fields, combination, strict=True)),
            }


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    store = Store(str(tmp_path_factory.mktemp("out")), schemas={"clips": clips_schema()})
    columns = clips_schema().names
    rows = [
        dict.fromkeys(columns) | clip(f"{stage}-{index}") | {stage: struct}
        for stage in STAGES
        for index, struct in enumerate(structs_of(stage))
    ]
    for row in rows:
        for stage in STAGES:
            if row[stage] is not None:
                kind = clips_schema().field(stage).type
                row[stage] = {field.name: None for field in kind} | row[stage]
    store.commit({"clips": rows, "sources": [source("source-1")]})
    selection = Selection(
        segmentation="cut-a", probe="probe", stages={stage: f"{stage}-1" for stage in STAGES}
    )
    with connect(store, selection) as connection:
        yield connection


def decided(connection: duckdb.DuckDBPyConnection, gates: list[Gate]) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in decide(connection, gates).to_pylist()}


def gates_of(preset: str, *assignments: str) -> dict[str, Gate]:
    listed = load_configuration(preset, None, assignments).gate_list()
    return {gate.name: gate for gate in listed}


def tighter(sql: str, operator: str) -> Iterator[str]:
    """The expression with its number moved so that fewer values pass."""
    number = re.search(r"-?\d+(\.\d+)?$", sql)
    assert number is not None, sql
    for step in (0.0, 0.2, 1.0, 3.0, 25.0, 1e6):
        moved = float(number.group()) + (step if operator.startswith(">") else -step)
        yield f"{sql[: number.start()]}{moved:.10g}"


@pytest.mark.parametrize("preset", preset_names())
def test_a_tightened_gate_never_brings_a_clip_back(
    preset: str, made_up: duckdb.DuckDBPyConnection
) -> None:
    gates = gates_of(preset)
    marks = {mark.gate: mark for mark in thresholds(made_up, list(gates.values()))}
    assert {"volume"} <= marks.keys()
    assert preset.startswith("ovi-audio") or {"sync_offset", "sync_confidence"} <= marks.keys()
    changes = 0
    for name, mark in marks.items():
        before = decided(made_up, [gates[name]])
        operator = "<" if gates[name].sql.startswith("abs(") else mark.operator
        last: dict[str, dict[str, Any]] = before
        for sql in tighter(gates[name].sql, operator):
            given = [sql, f"{{sql: {sql!r}}}", f"{sql} AND loudness.mean_volume_db > -1000"]
            for text in given:
                after = decided(made_up, [gates_of(preset, f"gates.{name}={text}")[name]])
                for clip_id, row in after.items():
                    assert RANKS[row["state"]] <= RANKS[before[clip_id]["state"]], (text, clip_id)
                    assert text != sql or RANKS[row["state"]] <= RANKS[last[clip_id]["state"]]
                if text == sql:
                    changes += sum(after[clip_id] != last[clip_id] for clip_id in after)
                    last = after
    assert changes >= len(marks)


@pytest.mark.parametrize("preset", ["ovi", "quickstart"])
def test_split_gates_decide_as_the_mixed_ones_did(
    preset: str, made_up: duckdb.DuckDBPyConnection
) -> None:
    gates = gates_of(preset)
    for sql, names in MIXED[preset].items():
        parts = [gates[name] for name in names]
        assert parts[0].backends == parts[1].backends
        mixed = decided(made_up, [Gate("mixed", sql, parts[0].backends)])
        found = decided(made_up, parts)
        assert {clip_id: row["state"] for clip_id, row in found.items()} == {
            clip_id: row["state"] for clip_id, row in mixed.items()
        }
        # What every measurement is there for is decided by the expression alone.
        stage = sql.removeprefix("abs(").split(".")[0]
        backends = [*(parts[0].backends or {}).get(stage, BACKENDS.get(stage, ("embedded",)))]
        verdicts = made_up.execute(
            f"SELECT clip_id, ({sql}) FROM dataset WHERE {stage}.status = 'ok'"
            f" AND ({sql}) IS NOT NULL AND list_contains(?, {stage}.backend)",
            [backends],
        ).fetchall()
        assert len(verdicts) > 5
        for clip_id, verdict in verdicts:
            assert found[clip_id]["state"] == ("keep" if verdict else "reject")


def test_a_gate_is_one_condition_and_has_one_name(made_up: duckdb.DuckDBPyConnection) -> None:
    columns_of: dict[str, set[str]] = {}
    for preset in preset_names():
        for name, gate in gates_of(preset).items():
            (rule,) = rules_of(made_up, [gate])
            assert len(rule.conditions) == 1, (preset, name)
            columns = ",".join(sorted(set(re.findall(r"[a-z_]+\.[a-z_]+", gate.sql)))) or gate.sql
            columns_of.setdefault(name, set()).add(columns)
    assert all(len(columns) == 1 for columns in columns_of.values()), columns_of
    assert len({columns.pop() for columns in columns_of.values()}) == len(columns_of)


def test_an_expression_alone_keeps_the_backends_that_a_gate_speaks_of() -> None:
    def gate(assignment: str) -> Gate:
        return gates_of("ovi", f"gates.sync_confidence={assignment}")["sync_confidence"]

    assert gate("sync.confidence > 4").backends == {"sync": ["syncnet"]}
    assert gate("{sql: sync.confidence > 4}").backends == {"sync": ["syncnet"]}
    assert gate("{sql: sync.confidence > 4, backends: {sync: [embedded]}}").backends == {
        "sync": ["embedded"]
    }
    assert gate("{sql: sync.confidence > 4, backends: null}").backends is None
    # What it no longer reads needs no backend.
    assert gate("faces.kind = 'none'").backends is None


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("gates.sound=", ["'gates.has_sound' and 'gates.volume'"]),
        ("gates.sync=", ["'gates.sync_offset' and 'gates.sync_confidence'"]),
        ("gates.volum=", ["'gates.volume'", "has_sound"]),
    ],
)
def test_removing_a_gate_that_is_not_there_is_told(assignment: str, named: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_configuration("quickstart", None, [assignment])
    assert caught.value.code == "unknown_gate"
    assert caught.value.subject == assignment.rstrip("=")
    assert all(name in (caught.value.remedy or "") for name in named)


# --- through the command line


def test_select_removes_only_gates_that_are_or_were_there(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    (raw / "empty.mp4").write_bytes(b"")
    assert twinreel("curate", raw, "--out", out, "--phase", "select").code == 0
    before = (out / "job.yaml").read_text()
    refused = twinreel("select", out, "--set", "gates.volum=")
    assert refused.code == 2
    assert "unknown_gate" in refused.message and "'gates.volume'" in refused.message
    assert (out / "job.yaml").read_text() == before

    assert twinreel("select", out, "--set", "gates.own=width > 0").code == 0
    for name in ("volume", "own"):
        for _ in range(2):
            removed = twinreel("select", out, "--set", f"gates.{name}=")
            assert removed.code == 0, removed.err
    gates = yaml.safe_load((out / "job.yaml").read_text())["configuration"]["gates"]
    assert not {"volume", "own"} & gates.keys()
    # A run with the preset's own gates in between forgets nothing.
    assert twinreel("curate", raw, "--out", out, "--phase", "select").code == 0
    assert twinreel("select", out, "--set", "gates.own=").code == 0
    assert twinreel("select", out, "--set", "gates.onw=").code == 2


def example_of_the_readme() -> str:
    """The assignment of README's `select`."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (line,) = re.findall(r"^twinreel select out (.*)$", readme, re.MULTILINE)
    words = shlex.split(line, comments=True)
    assert words[0] == "--set"
    return words[1]


def test_what_the_readme_selects_packs_no_clip_without_sound(
    tmp_path: Path, engine: InProcessEngine
) -> None:
    raw, out, example = tmp_path / "raw", tmp_path / "out", example_of_the_readme()
    render_small(raw / "faint.mp4")
    render_small(raw / "mute.mp4", seed=1, sound=False)
    noise = np.random.default_rng(0).normal(0.0, 0.1, (round(SMALL.duration_s * 48_000), 1))
    scenery_clip(raw / "loud.mp4", seed=2, shape=SMALL, audio=AudioTrack(noise.astype(np.float32)))
    arguments = ("curate", raw, "--out", out, *SMALL_SAMPLES)
    first = twinreel(*arguments)
    assert first.code == 0, first.err
    assert "has_sound" in first.out
    again = twinreel("select", out, "--set", example)
    assert again.code == 0, again.err
    engine.subjects.clear()
    last = twinreel(*arguments, "--set", example)
    assert last.code == 0, last.err
    # What the last command could pack is packed already.
    assert engine.subjects == []
    found = inspect_sql(
        str(out),
        "SELECT regexp_extract(uri, '[^/]*$') AS file, state, rejected_by, sample.status AS sample"
        " FROM dataset WHERE \"window\" = 'full' ORDER BY file",
    ).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("faint.mp4", "reject", ["volume"], "ok"),
        ("loud.mp4", "keep", [], "ok"),
        ("mute.mp4", "reject", ["has_sound"], None),
    ]


def test_a_gate_that_speaks_of_another_backend_than_the_jobs_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    finished = twinreel(
        "curate", tmp_path / "empty.mp4", "--out", tmp_path / "out", "--phase", "select", "--set",
        "stages.sync.backend=embedded", "--set",
        "gates.sync_offset={sql: abs(sync.offset_frames) <= 1, backends: {sync: [syncnet]}}",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "The gate 'sync_offset' speaks of sync by syncnet" in finished.out
    assert "measures it by embedded" in finished.out
    assert "'sync_confidence'" not in finished.out


def test_a_job_of_an_earlier_version_has_its_gates_split(tmp_path: Path) -> None:
    """Old name or new, a tightened threshold lets no clip without sound through."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "empty.mp4").parent.mkdir()
    (raw / "empty.mp4").write_bytes(b"")
    arguments = ("curate", raw, "--out", out, "--phase", "select")
    assert twinreel(*arguments).code == 0
    job = yaml.safe_load((out / "job.yaml").read_text())
    new = job["configuration"]["gates"]
    old = {name: gate for name, gate in new.items() if name in ("modality", "length", "intact")}
    for sql, names in MIXED["quickstart"].items():
        name = {"has_sound": "sound", "sync_offset": "sync"}.get(names[0], names[0])
        old[name] = {**new[names[0]], "sql": sql}
    job["configuration"]["gates"] = old
    (out / "job.yaml").write_text(yaml.safe_dump(job))
    (out / "manifests/selection.json").unlink()

    finished = twinreel("select", out, "--set", "gates.sound=loudness.mean_volume_db >= -35")
    assert finished.code == 0, finished.err
    assert "has_sound and volume" in finished.out
    gates = yaml.safe_load((out / "job.yaml").read_text())["configuration"]["gates"]
    assert gates.pop("sound")["sql"] == "loudness.mean_volume_db >= -35"
    assert gates == new
