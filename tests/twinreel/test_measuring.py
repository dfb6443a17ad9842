"""`measure`: one file, without Ray, with the results of a job."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import twinreel
from stages.audio.audio_quality import AudioQualityStage


def test_a_files_clips_are_measured_as_a_job_measures_them(curated: Path) -> None:
    file = curated.parent / "raw" / "0.mp4"
    found = twinreel.measure(file, settings={"clip.frames": 25})
    with twinreel.open_dataset(curated) as dataset:
        rows = dataset.clips("uri LIKE '%/0.mp4'").to_pylist()
    assert [(clip["start_s"], clip["end_s"]) for clip in found.clips] == [
        (row["start_s"], row["end_s"]) for row in rows
    ]
    for stage in ("picture", "motion", "faces", "loudness", "speech", "sync"):
        for clip, row in zip(found.clips, rows, strict=True):
            # A job leaves out what it need not know of a clip that is rejected already.
            if row[stage] is not None:
                assert clip[stage] == row[stage], stage


def test_only_what_is_asked_for_and_what_it_reads_is_measured(curated: Path) -> None:
    found = twinreel.measure(curated.parent / "raw" / "1.mp4", "loudness")
    assert set(found.whole) == {"loudness", "shots"}
    assert found.source.duration_s == pytest.approx(1.2, abs=0.1)
    signals = found.signals["loudness"]
    squares = np.nansum(signals.series["square_sum"]) / np.nansum(signals.series["samples"])
    assert found["loudness"]["mean_volume_db"] == pytest.approx(10 * np.log10(squares), abs=0.1)
    assert [row["shot_index"] for row in found.side_rows["shots"]] == [0]


def test_settings_are_those_of_a_job(curated: Path) -> None:
    file = curated.parent / "raw" / "1.mp4"
    found = twinreel.measure(file, "loudness", settings={"clip": {"frames": 13}})
    assert found.clips[0]["end_s"] == pytest.approx(13 / 24)


def test_what_is_wrong_is_named(curated: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    for arguments, code in (
        ((tmp_path / "absent.mp4",), "missing_file"),
        ((tmp_path,), "not_a_file"),
        ((tmp_path / "broken.mp4",), "unreadable_container"),
        ((curated.parent / "raw" / "0.mp4", "face"), "unknown_stage"),
    ):
        with pytest.raises(twinreel.TwinreelError) as caught:
            twinreel.measure(*arguments)
        assert caught.value.code == code
    assert "'faces'" in str(caught.value)


def test_a_preset_whose_captions_need_a_model_asks_for_none(curated: Path) -> None:
    file = curated.parent / "raw" / "1.mp4"
    found = twinreel.measure(file, "loudness", preset="ovi", settings={"clip.frames": 13})
    assert found["loudness"]["status"] == "ok"


def test_a_precondition_may_speak_of_the_source(
    curated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_source = "height > 180 AND uri LIKE '%.mp4' AND source_status = 'ok' AND licence IS NULL"
    monkeypatch.setattr(AudioQualityStage, "precondition", of_the_source)
    found = twinreel.measure(curated.parent / "raw" / "1.mp4", "audio_quality")
    assert found.source.height == 180
    assert found.clips[0]["audio_quality"]["status"] == "not_applicable"


def test_no_cluster_is_started(curated: Path) -> None:
    before = "ray" in sys.modules
    twinreel.measure(curated.parent / "raw" / "1.mp4", "loudness")
    assert ("ray" in sys.modules) == before
