"""What a second look could not measure for now is measured by the next run, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.curation.command_line import Finished, twinreel, twinreel_process

TAGGER = """
import os, numpy as np
from manifests.errors import MediaError

class Tagger:
    rate_hz = 16_000
    labels = ["Speech", "Music"]

    def tag(self, sounds):
        if os.path.exists(os.environ["TWINREEL_TEST_OUTAGE"]) and min(map(len, sounds)) < 40_000:
            raise MediaError("tagger_away", "The tagger is away.", retryable=True)
        lost = os.environ["TWINREEL_TEST_OUTAGE"] + "-device"
        if os.path.exists(lost):
            os.remove(lost)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if max(map(len, sounds)) > 60_000:
            raise MediaError("tagger_beaten", "The tagger cannot do this.")
        return np.tile(np.array([0.9, 0.1], np.float32), (len(sounds), 1))
"""


def rows(out: Path) -> dict[str, dict[str, Any]]:
    finished = twinreel(
        "inspect", out, "--json", "--sql",
        "SELECT split_part(regexp_extract(uri, '[^/]*$'), '.', 1) AS name, state, rejected_by,"
        " pending_on, audio_class.status AS status, audio_class.error.code AS code FROM dataset",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    return {row["name"]: row for row in finished.json()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 5)
    for name, seconds in (("away", 2), ("well", 3), ("beaten", 5)):
        soundfile.write(tmp_path / "raw" / f"{name}.wav", noise[: 16_000 * seconds], 16_000)
    (tmp_path / "made_up_tagger.py").write_text(TAGGER)
    return tmp_path / "raw"


def curate(raw: Path) -> Finished:
    settings = (
        "clip.min_frames=2", "stages.audio_class.enabled=true",
        "stages.audio_class.backend=made_up_tagger:Tagger",
        "gates.modality=", "gates.length=", "gates.sync_offset=", "gates.sync_confidence=",
        "gates.class=audio_class.kind = 'speech'",
    )  # fmt: skip
    folder = raw.parent
    finished = twinreel_process(
        "curate", raw, "--out", folder / "out", *(f"--set={one}" for one in settings),
        environment={
            "PYTHONPATH": str(folder), "TWINREEL_TEST_OUTAGE": str(folder / "outage"),
        },
    )  # fmt: skip
    assert finished.code == 0, finished.err
    return finished


def test_a_failure_for_now_is_pending_and_measured_by_the_next_run(raw: Path) -> None:
    outage, out = raw.parent / "outage", raw.parent / "out"
    outage.touch()
    curate(raw)
    found = rows(out)
    assert (found["away"]["status"], found["away"]["code"]) == ("failed", "tagger_away")
    assert (found["away"]["state"], found["away"]["pending_on"]) == ("pending", ["audio_class"])
    assert found["beaten"]["rejected_by"] == ["class:failed"]
    assert found["well"]["state"] == "keep"

    outage.unlink()
    curate(raw)
    again = rows(out)
    assert (again["away"]["status"], again["away"]["state"]) == ("ok", "keep")
    assert {name: again[name] for name in ("beaten", "well")} == {
        name: found[name] for name in ("beaten", "well")
    }
    assert "nothing decoded" in curate(raw).out


def test_a_model_that_loses_its_device_is_started_again_and_no_clip_pays(raw: Path) -> None:
    lost = raw.parent / "outage-device"
    lost.touch()
    curate(raw)
    assert not lost.exists()
    found = rows(raw.parent / "out")
    assert {name: row["status"] for name, row in found.items()} == {
        "away": "ok",
        "well": "ok",
        "beaten": "failed",
    }
