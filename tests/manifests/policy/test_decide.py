from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pyarrow as pa
import pytest

from manifests.errors import UsageError
from manifests.policy import gates as gates_module
from manifests.policy.decide import changed, decide
from manifests.policy.gates import Gate, Threshold, policy_fingerprint, thresholds, validate
from manifests.store.records import CaptionRow, MixRow, VerifiedRecord, arrow_schema
from tests.support.made_up_tables import SCHEMAS, clip, look, motion, open_out, source, sync

STILL = Gate("still", "motion.static_share < 0.9")
SYNC = Gate("sync", "sync.confidence >= 3")


def verdict(folder: Path, gates: list[Gate], **structs: Any) -> tuple[str, list[str], list[str]]:
    store = open_out(folder)
    store.commit({"clips": [clip("a", **structs)], "sources": [source("source-1")]})
    with look(store) as connection:
        row = decide(connection, gates).to_pylist()[0]
    return row["state"], row["rejected_by"], row["pending_on"]


def test_true_passes_and_false_rejects(tmp_path: Path) -> None:
    both = {"motion": motion(0.5), "sync": sync(2.0)}
    assert verdict(tmp_path, [STILL, SYNC], **both) == ("reject", ["sync"], [])
    assert verdict(tmp_path, [STILL], **both) == ("keep", [], [])
    assert verdict(tmp_path, [], **both) == ("keep", [], [])


def test_unmeasured_is_pending_on_the_stage_or_passes(tmp_path: Path) -> None:
    assert verdict(tmp_path, [SYNC], motion=motion(0.5)) == ("pending", [], ["sync"])
    lenient = Gate("sync", SYNC.sql, unmeasured="pass")
    assert verdict(tmp_path, [lenient], motion=motion(0.5)) == ("keep", [], [])


def test_a_failed_measurement_rejects_under_a_name_of_its_own(tmp_path: Path) -> None:
    broken = sync(None, status="failed")
    assert verdict(tmp_path, [SYNC], sync=broken) == ("reject", ["sync:failed"], [])


def test_what_does_not_apply_passes_unless_the_gate_says_otherwise(tmp_path: Path) -> None:
    silent = sync(None, status="not_applicable")
    assert verdict(tmp_path, [SYNC], sync=silent) == ("keep", [], [])
    strict = Gate("sync", "sync.status = 'ok' AND sync.confidence >= 3")
    assert verdict(tmp_path, [strict], sync=silent) == ("reject", ["sync"], [])


def test_what_was_measured_and_has_no_value_rejects_under_a_name_of_its_own(tmp_path: Path) -> None:
    no_value = ("reject", ["sync:no_value"], [])
    assert verdict(tmp_path, [SYNC], sync=sync(None)) == no_value
    lenient = Gate("sync", SYNC.sql, unmeasured="pass")
    assert verdict(tmp_path, [lenient], sync=sync(None)) == no_value
    for sql in ("coalesce(sync.confidence, 9) >= 3", "sync.confidence IS NULL"):
        assert verdict(tmp_path, [Gate("sync", sql)], sync=sync(None)) == ("keep", [], [])
    either = Gate("either", "sync.confidence >= 3 OR motion.static_share < 0.9")
    assert verdict(tmp_path, [either], sync=sync(None)) == ("pending", [], ["motion"])


def test_a_plain_column_without_a_value_rejects_as_no_measurement_will_give_it(
    tmp_path: Path,
) -> None:
    for sql in ("licence = 'cc-by'", "carried['age'] > '3'", "sample.bytes > 3", "mix.chosen"):
        found = verdict(tmp_path, [Gate("g", sql)])
        assert found == ("reject", ["g:no_value"], []), sql
    assert verdict(tmp_path, [Gate("g", "licence IS NULL")]) == ("keep", [], [])


AWAY = sync(None, "failed") | {"error": {"code": "a", "message": "b", "retryable": True}}


@pytest.mark.parametrize(
    "sql",
    [
        SYNC.sql,
        "sync.status = 'ok'",
        "sync.status = 'ok' AND sync.confidence >= 3",
        "dataset.sync.error.code <> 'a'",
        "coalesce(sync.confidence, 0) >= 3",
        "sync.confidence IS NOT NULL",
        "sync IS NULL",
    ],
)
def test_a_failure_for_now_is_as_good_as_missing(tmp_path: Path, sql: str) -> None:
    gate = Gate("g", sql)
    found = verdict(tmp_path / "away", [gate], sync=AWAY)
    assert found == verdict(tmp_path / "missing", [gate])
    decides_itself = {
        "coalesce(sync.confidence, 0) >= 3": ("reject", ["g"], []),
        "sync.confidence IS NOT NULL": ("reject", ["g"], []),
        "sync IS NULL": ("keep", [], []),
    }
    assert found == decides_itself.get(sql, ("pending", [], ["sync"]))


@pytest.mark.parametrize(
    ("sync_struct", "outcome"),
    [
        (sync(5.0), ("keep", [], [])),
        (sync(None), ("reject", ["g:no_value"], [])),
        (sync(None, "not_applicable"), ("keep", [], [])),
        (sync(None, "failed"), ("reject", ["g:failed"], [])),
        (None, ("pending", [], ["sync"])),
    ],
)
def test_what_and_joins_is_decided_part_by_part(
    tmp_path: Path, sync_struct: dict[str, Any] | None, outcome: tuple[str, list[str], list[str]]
) -> None:
    def found(sql: str) -> tuple[str, list[str], list[str]]:
        return verdict(tmp_path, [Gate("g", sql)], motion=motion(0.5), sync=sync_struct)

    lips = "sync.confidence >= 3"
    assert found(f"motion.static_share < 0.9 AND {lips}") == outcome
    assert found(f"({lips} AND list_filter([1.0], lambda x: x > start_s)[1] > 0)") == outcome
    # A second condition brings nothing back: neither one that does not apply nor one that waits.
    assert found(f"motion.static_share < 0.1 AND {lips}") == ("reject", ["g"], [])
    rights = found(f"licence = 'cc-by' AND {lips}")
    assert rights[0] == "reject"
    assert rights[1] in (["g:no_value"], ["g:failed"])


def caption(
    status: str = "ok", *, rate: float | None = None, retryable: bool = False
) -> dict[str, Any]:
    error = {"code": "a", "message": "b", "retryable": retryable} if status == "failed" else None
    row = dict.fromkeys(field.name for field in arrow_schema(CaptionRow))
    nothing = dict.fromkeys(field.name for field in arrow_schema(VerifiedRecord))
    return row | {
        "clip_id": "a", "style": "ovi", "fingerprint": "caption-1", "status": status,
        "error": error, "text": "A dog." if status == "ok" else None, "model": "m",
        "verified": nothing | {"word_error_rate": rate} if status == "ok" else None,
    }  # fmt: skip


def captioned(
    folder: Path, gate: Gate, row: dict[str, Any] | None, **structs: Any
) -> tuple[str, list[str], list[str]]:
    store = open_out(folder)
    store.commit({"clips": [clip("a", **structs)], "captions": [row] if row else []})
    # The made-up stage takes the place of the one that hears words.
    with (
        look(store) as connection,
        mock.patch.dict(gates_module._VERIFIED_AGAINST, {"word_error_rate": "sync"}),
    ):
        found = decide(connection, [gate]).to_pylist()[0]
    return found["state"], found["rejected_by"], found["pending_on"]


def test_a_gate_on_captions_waits_for_them_and_no_longer(tmp_path: Path) -> None:
    dog = Gate("dog", "caption.text LIKE '%dog%'")
    assert captioned(tmp_path, dog, None) == ("pending", [], ["caption"])
    later = caption("failed", retryable=True)
    assert captioned(tmp_path, dog, later) == ("pending", [], ["caption"])
    assert captioned(tmp_path, dog, caption("failed")) == ("reject", ["dog:failed"], [])
    assert captioned(tmp_path, dog, caption()) == ("keep", [], [])
    speech = Gate("speech", "caption.speech <> ''")
    assert captioned(tmp_path, speech, caption()) == ("reject", ["speech:no_value"], [])


def test_what_is_verified_waits_for_what_it_is_verified_against(tmp_path: Path) -> None:
    quotes = Gate("quotes", "caption.verified.word_error_rate <= 0.4")
    assert captioned(tmp_path, quotes, None) == ("pending", [], ["caption", "sync"])
    assert captioned(tmp_path, quotes, caption()) == ("pending", [], ["sync"])
    assert captioned(tmp_path, quotes, caption(rate=0.1)) == ("keep", [], [])
    assert captioned(tmp_path, quotes, caption(rate=0.9)) == ("reject", ["quotes"], [])
    failed = captioned(tmp_path, quotes, caption(), sync=sync(None, "failed"))
    assert failed == ("reject", ["quotes:failed"], [])
    heard = captioned(tmp_path, quotes, caption(), sync=sync(1.0))
    assert heard == ("reject", ["quotes:no_value"], [])


def test_a_place_in_the_mix_is_waited_for_where_there_is_a_mix(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip(name) for name in "abc"]})
    store.commit({"mix": [MixRow("a", "x", True, "mix-1"), MixRow("b", None, False, "mix-1")]})
    with look(store, mix="mix-1") as connection:
        rows = decide(connection, [Gate("mix", "mix.chosen")]).to_pylist()
    assert [(row["state"], row["rejected_by"], row["pending_on"]) for row in rows] == [
        ("keep", [], []),
        ("reject", ["mix"], []),
        ("pending", [], ["mix"]),
    ]


def test_another_backends_value_is_as_good_as_none(tmp_path: Path) -> None:
    gate = Gate("lips", SYNC.sql, {"sync": ["syncnet"]})
    assert verdict(tmp_path, [gate], sync=sync(9.0)) == ("pending", [], ["sync"])
    assert verdict(tmp_path, [gate], sync=sync(1.0)) == ("pending", [], ["sync"])
    assert verdict(tmp_path, [gate], sync=sync(9.0, backend="syncnet")) == ("keep", [], [])
    lenient = Gate("lips", SYNC.sql, {"sync": ["syncnet"]}, unmeasured="pass")
    assert verdict(tmp_path, [lenient], sync=sync(1.0)) == ("keep", [], [])


def test_what_another_backend_measured_leaves_the_other_conditions_alone(tmp_path: Path) -> None:
    """Only a condition that reads it is null."""
    backends = {"sync": ["syncnet"]}

    def found(sql: str, **structs: Any) -> tuple[str, list[str], list[str]]:
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        return verdict(folder, [Gate("g", sql, backends)], **structs)

    still, foreign = "motion.static_share < 0.9", sync(5.0)
    both = f"{still} AND sync.confidence >= 3"
    assert found(both, motion=motion(0.95), sync=foreign) == ("reject", ["g"], [])
    assert found(both, motion=motion(None), sync=foreign) == ("reject", ["g:no_value"], [])
    assert found(both, motion=motion(0.5), sync=foreign) == ("pending", [], ["sync"])
    assert found(both, sync=foreign) == ("pending", [], ["motion", "sync"])
    assert found(f"{both} AND width > 4000", sync=foreign) == ("reject", ["g"], [])
    # Whatever the condition itself says.
    either = f"({still} OR sync.confidence >= 3)"
    assert found(either, motion=motion(0.5), sync=foreign) == ("pending", [], ["sync"])
    assert found("coalesce(sync.confidence, 0) >= 9", sync=foreign) == ("pending", [], ["sync"])
    # A condition that does not read it does not wait for it.
    assert found(still, motion=motion(0.5), sync=foreign) == ("keep", [], [])


RANKS = {"reject": 0, "pending": 1, "keep": 2}
CONDITIONS = [
    "motion.static_share < 0.9",
    "motion.status = 'ok'",
    "sync.confidence >= 3",
    "abs(sync.offset_frames) <= 3",
    "(coalesce(sync.confidence, 9) >= 3 OR motion.static_share < 0.9)",
    "NOT (sync.confidence < 3 AND motion.static_share < 0.9)",
    "licence = 'cc-by'",
]


@pytest.mark.parametrize("unmeasured", ["pending", "pass"])
def test_a_further_condition_never_brings_a_clip_back(
    tmp_path: Path, unmeasured: Literal["pending", "pass"]
) -> None:
    """Over clips with every state of one struct beside every state of another."""
    motions = [None, motion(0.5), motion(0.95), motion(None)]
    motions += [motion(None, status) for status in ("not_applicable", "failed")]
    retryable = {"code": "a", "message": "b", "retryable": True}
    motions.append(motion(None, "failed") | {"error": retryable})
    syncs = [None, AWAY, *(sync(value, backend=name) for value in (None, 1.0, 9.0)
             for name in ("embedded", "syncnet"))]  # fmt: skip
    syncs += [sync(None, status) for status in ("not_applicable", "failed")]
    store = open_out(tmp_path)
    pairs = itertools.product(motions, syncs)
    store.commit({
        "clips": [clip(f"{index:03}", motion=m, sync=s) for index, (m, s) in enumerate(pairs)],
        "sources": [source("source-1")],
    })  # fmt: skip
    with look(store) as connection:

        def states(sql: str) -> dict[str, str]:
            backends = {"sync": ["syncnet"]} if "sync." in sql else None
            gate = Gate("g", sql, backends, unmeasured)
            return {row["clip_id"]: row["state"] for row in decide(connection, [gate]).to_pylist()}

        alone = {sql: states(sql) for sql in CONDITIONS}
        for first, second in itertools.combinations(CONDITIONS, 2):
            joined = states(f"{first} AND {second}")
            worse = {
                clip_id: min(alone[first][clip_id], alone[second][clip_id], key=RANKS.__getitem__)
                for clip_id in joined
            }
            assert joined == worse, (first, second)


def test_a_rejected_clip_lists_what_it_waits_for_too_and_lists_are_sorted(tmp_path: Path) -> None:
    gates = [SYNC, STILL, Gate("a_wide", "width > 4000"), Gate("lips", "sync.confidence > 1")]
    assert verdict(tmp_path, gates, motion=motion(1.0)) == (
        "reject",
        ["a_wide", "still"],
        ["sync"],
    )


def test_a_stage_without_a_column(tmp_path: Path) -> None:
    gate = Gate("pretty", "aesthetic.mean >= 4.5", unmeasured="pass")
    assert verdict(tmp_path, [gate]) == ("keep", [], [])
    with pytest.raises(UsageError) as error:
        verdict(tmp_path, [Gate("pretty", "aesthetic.mean >= 4.5")])
    assert error.value.code == "gate_unknown_column"


def test_a_second_decision_writes_nothing_and_a_changed_one_only_itself(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    store.commit({"clips": [clip("a", motion=motion(0.1)), clip("b", motion=motion(0.95))]})
    policy = policy_fingerprint([STILL])
    with look(store, policy=policy) as connection:
        first = changed(connection, decide(connection, [STILL]))
    assert [row["state"] for row in first.to_pylist()] == ["keep", "reject"]
    store.commit({"decisions": first})
    with look(store, policy=policy) as connection:
        assert changed(connection, decide(connection, [STILL])).num_rows == 0
    store.commit({"clips": [clip("a", motion=motion(0.99))]})
    with look(store, policy=policy) as connection:
        again = changed(connection, decide(connection, [STILL]))
    assert again["clip_id"].to_pylist() == ["a"]


def test_the_policy_is_the_gates_whatever_their_order() -> None:
    assert policy_fingerprint([STILL, SYNC]) == policy_fingerprint([SYNC, STILL])
    assert policy_fingerprint([STILL]) != policy_fingerprint([SYNC])
    lenient = Gate(STILL.name, STILL.sql, unmeasured="pass")
    assert policy_fingerprint([STILL]) != policy_fingerprint([lenient])


GOOD = [
    "true",
    "-- a comment\nmotion.static_share < 1 -- another",
    "uri = 'é' AND window <> 'remainder' /* ü */",
    "MOTION.static_share BETWEEN 0 AND 1",
    "carried['owner'] = 'me'",
    "list_filter([1.0], lambda x: x > start_s)[1] > 0",
    "dataset.sync.confidence > 1",
    "CASE WHEN sync IS NULL THEN true ELSE sync.confidence > 1 END",
]
BAD = {
    "motion.static_share <": "gate_syntax",
    "1; DROP VIEW dataset": "gate_syntax",
    "no_such_function(start_s) > 1": "gate_syntax",
    "motion.static_shar < 1": "gate_unknown_column",
    "widht > 1": "gate_unknown_column",
    "": "gate_not_scalar",
    "motion.static_share": "gate_not_scalar",
    "(SELECT true)": "gate_not_scalar",
    "EXISTS (FROM dataset)": "gate_not_scalar",
    "start_s IN (SELECT 1)": "gate_not_scalar",
    "sum(start_s) > 1": "gate_not_scalar",
    "row_number() OVER () > 1": "gate_not_scalar",
    "unnest([true])": "gate_not_scalar",
    "random() > 0.5": "gate_not_scalar",
    "now() > '2020-01-01'::TIMESTAMP": "gate_not_scalar",
    "start_s > ?": "gate_not_scalar",
    "COLUMNS(*) > 1": "gate_not_scalar",
    "true) , (true": "gate_not_scalar",
    "true)::BOOLEAN AND (true": "gate_not_scalar",
    "read_text('/etc/passwd') IS NULL": "gate_not_scalar",
    "state = 'keep'": "gate_not_scalar",
}


def test_what_a_gate_may_be(tmp_path: Path) -> None:
    with look(open_out(tmp_path)) as connection:
        validate([Gate("good", sql) for sql in GOOD], connection)
        for sql, code in BAD.items():
            with pytest.raises(UsageError) as error:
                validate([Gate("bad one", sql)], connection)
            assert error.value.code == code, sql
            assert error.value.subject == "gate 'bad one'"


def test_a_misspelt_column_is_told_the_nearest(tmp_path: Path) -> None:
    with look(open_out(tmp_path)) as connection, pytest.raises(UsageError) as error:
        validate([Gate("g", "moton.static_share < 1")], connection)
    assert "motion.static_share" in (error.value.remedy or "")


def test_a_gate_that_fails_on_a_value_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        verdict(tmp_path, [Gate("g", "clip_id::INT > 1")])
    assert error.value.code == "gate_failed"


def test_thresholds_are_read_off_plain_comparisons(tmp_path: Path) -> None:
    gates = [
        Gate("g", "motion.static_share < 0.9 AND -2 <= sync.offset_frames"),
        Gate("h", "abs(sync.offset_frames) <= 3"),
        Gate("either", "sync.confidence > 3 OR motion.static_share > 0.5"),
    ]
    with look(open_out(tmp_path)) as connection:
        assert thresholds(connection, gates) == [
            Threshold("g", "motion.static_share", "<", 0.9),
            Threshold("g", "sync.offset_frames", ">=", -2.0),
            Threshold("h", "sync.offset_frames", "<=", 3.0),
            Threshold("h", "sync.offset_frames", ">=", -3.0),
        ]


def test_two_hundred_thousand_decisions(tmp_path: Path) -> None:
    count = 200_000
    row = pa.Table.from_pylist([clip("x", motion=motion(0.5))], schema=SCHEMAS["clips"])
    columns = {name: pa.repeat(row[name][0], count) for name in row.column_names}
    columns["clip_id"] = pa.array([f"{index:016x}" for index in range(count)])
    store = open_out(tmp_path)
    store.commit({"clips": pa.table(columns, schema=SCHEMAS["clips"])})
    start = time.monotonic()
    with look(store) as connection:
        decisions = changed(connection, decide(connection, [STILL, SYNC]))
    print(f"{count} decisions: {time.monotonic() - start:.2f} s")
    assert decisions.num_rows == count
    assert set(decisions["state"].to_pylist()) == {"pending"}
