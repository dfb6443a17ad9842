from __future__ import annotations

import json
import re
from pathlib import Path

from manifests.explore.funnel import Amount, Cause, CodeCount, GateCount, funnel
from manifests.explore.report import Player, write_report
from manifests.policy.decide import changed, decide
from manifests.policy.gates import Gate, policy_fingerprint
from manifests.store.records import SampleMember, SampleRow, UnitRow
from manifests.store.store import Store
from tests.support.made_up_tables import clip, look, motion, open_out, source, sync

GATES = [Gate("still", "motion.static_share < 0.9"), Gate("sync", "sync.confidence >= 3")]
POLICY = policy_fingerprint(GATES)
BROKEN = {"code": "empty_file", "message": "No bytes. Upload it again.", "retryable": True}


def made_up_out(folder: Path) -> Store:
    store = open_out(folder)
    sample = SampleRow(
        "x", "profile", [SampleMember("target", "kept")], "0.tar", 0, 900, "", 8, 8, 120, 24.0,
        16000, 80000, 0.0, "ok", None, "pack",
    )  # fmt: skip
    store.commit(
        {
            "sources": [
                source("source-1"),
                source("s2", "/raw/<b>.mp4", status="failed", error=BROKEN, duration_s=None),
            ],
            "units": [UnitRow("source-1", 0, 0.0, 100.0, 0.0, 99.5, 2400, [], "ok", None, "unit")],
            "clips": [
                clip("kept", motion=motion(0.1), sync=sync(5.0)),
                clip("still", motion=motion(0.95), sync=sync(5.0)),
                clip("both", motion=motion(0.99), sync=sync(1.0)),
                clip("waits", motion=motion(0.2)),
                clip("broken", motion=motion(0.3), sync=sync(None, "failed")),
                clip("blank", motion=motion(None), sync=sync(5.0)),
            ],
            "samples": [sample],
        }
    )
    with look(store, policy=POLICY) as connection:
        store.commit({"decisions": changed(connection, decide(connection, GATES))})
    return store


def test_the_funnel_counts_everything_once(tmp_path: Path) -> None:
    with look(made_up_out(tmp_path), policy=POLICY) as connection:
        state = funnel(connection)
    assert state.sources.ok == Amount(1, 100.0)
    assert state.sources.failed_by_code == [CodeCount("empty_file", 1)]
    assert [file.uri for file in state.failed_files] == ["/raw/<b>.mp4"]
    assert state.units.ok == Amount(1, 99.5)
    assert (state.clips, state.kept) == (Amount(6, 30.0), Amount(1, 5.0))
    assert (state.rejected, state.pending) == (Amount(4, 20.0), Amount(1, 5.0))
    assert state.undecided == Amount(0, 0.0)
    assert state.rejected_by == [
        GateCount("still", Amount(2, 10.0), Amount(1, 5.0)),
        GateCount("still:no_value", Amount(1, 5.0), Amount(1, 5.0)),
        GateCount("sync", Amount(1, 5.0), Amount(0, 0.0)),
        GateCount("sync:failed", Amount(1, 5.0), Amount(1, 5.0)),
    ]
    assert state.pending_on == [Cause("sync", Amount(1, 5.0))]
    measured = {stage.stage: stage for stage in state.stages}["sync"]
    assert (measured.ok, measured.failed, measured.unmeasured) == (4, 1, 1)
    assert measured.failed_by_code == [CodeCount("broken", 1)]
    assert (state.samples.samples, state.samples.shards, state.samples.bytes) == (1, 1, 900)
    assert state.samples.seconds == 5.0
    shares = next(d for d in state.distributions if d.column == "motion.static_share")
    assert (shares.count, shares.minimum, shares.median, shares.maximum) == (5, 0.1, 0.3, 0.99)
    assert sum(shares.counts) == 5
    json.dumps(state.as_json())


def test_an_empty_out_has_an_empty_funnel_and_a_report(tmp_path: Path) -> None:
    store = open_out(tmp_path)
    with look(store) as connection:
        assert funnel(connection).clips == Amount(0, 0.0)
        write_report(store, connection, GATES)
    assert "no clips yet" in (tmp_path / "report.html").read_text()


def test_the_report_holds_everything_and_needs_no_network(tmp_path: Path) -> None:
    store = made_up_out(tmp_path)
    players = [
        Player("kept", "a.mp4 0–5 s", "keep", [], "A <man> speaks.", b"mp4"),
        Player("both", "a.mp4 0–5 s", "reject", ["still", "sync"], None, b"mp4"),
    ]
    with look(store, policy=POLICY) as connection:
        write_report(store, connection, GATES, players=players)
    html = (tmp_path / "report.html").read_text()
    assert "/raw/&lt;b&gt;.mp4" in html
    assert "Upload it again." in html
    assert "A &lt;man&gt; speaks." in html
    assert html.count("data:video/mp4;base64,bXA0") == 2
    assert html.count('class="mark"') == 2
    assert "still: &lt; 0.9" in html
    assert "sync: what it reads could not be measured" in html
    assert "still: what it reads has no value" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "http" not in html
