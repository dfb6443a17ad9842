"""Bringing sound and picture together when packing: a rendered clip with a known offset."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from curation.config import JobConfiguration, load_configuration
from curation.curate import run_curation
from curation.demo_bucket import Shape, VideoFormat, talking_face_clip
from manifests.explore.open import inspect_sql
from tests.support.in_process import InProcessEngine, jobs_by

FACE = Shape(512, 288, 25, 6.0, video=VideoFormat(options={"preset": "ultrafast"}))
OFFSETS = (8, -6)


def configuration(*assignments: str) -> JobConfiguration:
    return load_configuration(
        "quickstart",
        None,
        [
            "pack.area_px=147456",
            "pack.preset=ultrafast",
            "stages.sync.backend=embedded",
            "gates.sync_offset=abs(sync.offset_frames) <= 15",
            *assignments,
        ],
    )


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    with jobs_by(InProcessEngine()):
        yield


def rows(out: Path, sql: str) -> list[dict[str, Any]]:
    return inspect_sql(str(out), sql).to_pylist()


def packed_clips(out: Path, into: Path) -> Path:
    """The packed samples as files with picture and sound, to be measured like any source."""
    into.mkdir()
    for row in rows(out, "SELECT uri, sample FROM dataset WHERE sample.status = 'ok'"):
        sample = row["sample"]
        with tarfile.open(out / sample["shard"]) as tar:
            mp4, flac = (
                io.BytesIO(tar.extractfile(f"{sample['sample_id']}.{extension}").read())  # type: ignore[union-attr]
                for extension in ("mp4", "flac")
            )
        samples, rate_hz = soundfile.read(flac)
        join(into / f"{Path(row['uri']).stem}.mkv", mp4, samples, rate_hz)
    return into


def join(path: Path, mp4: io.BytesIO, samples: np.ndarray[Any, Any], rate_hz: int) -> None:
    """Write a file with the pictures of one and the samples of another, both from 0 on."""
    with av.open(mp4) as pictures, av.open(str(path), "w") as joined:
        shown = pictures.streams.video[0]
        video = joined.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = shown.width, shown.height, "yuv420p"
        audio = joined.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        for index, frame in enumerate(pictures.decode(shown)):
            plain = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))
            plain.pts, plain.time_base = index, Fraction(1, 24)
            joined.mux(video.encode(plain))
        joined.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(
            np.int16(32767 * samples)[None], format="s16", layout="mono"
        )
        block.sample_rate, block.pts, block.time_base = rate_hz, 0, Fraction(1, rate_hz)
        joined.mux(audio.encode(block))
        joined.mux(audio.encode(None))


def test_a_clip_with_a_known_offset_comes_out_of_pack_in_sync(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for offset in OFFSETS:
        talking_face_clip(raw / f"face{offset}.mp4", offset, seed=20 + offset, shape=FACE)
    out, again = tmp_path / "out", tmp_path / "again"
    run_curation([str(raw)], str(out), configuration("sync.repair=true"))
    found = rows(out, "SELECT uri, sync, sample.audio_shift_s AS shift_s FROM dataset")
    full = {Path(row["uri"]).stem: row for row in found if row["shift_s"] is not None}
    assert set(full) == {f"face{offset}" for offset in OFFSETS}
    for offset in OFFSETS:
        row = full[f"face{offset}"]
        assert row["sync"]["offset_frames"] == pytest.approx(offset, abs=1.0)
        # Early sound is put later.
        assert row["shift_s"] == pytest.approx(row["sync"]["offset_frames"] / 25.0)
    run_curation([str(packed_clips(out, tmp_path / "packed"))], str(again), configuration())
    repaired = rows(again, "SELECT sync FROM dataset WHERE sync.status = 'ok'")
    assert len(repaired) == len(OFFSETS)
    assert all(abs(row["sync"]["offset_frames"]) <= 1.0 for row in repaired)


@pytest.mark.soak
def test_without_repair_sound_stays_where_it_was_and_the_sample_is_another(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    talking_face_clip(raw / "face.mp4", 8, seed=28, shape=FACE)
    run_curation([str(raw)], str(out), configuration())
    plain = rows(out, "SELECT sample FROM dataset WHERE sample IS NOT NULL")
    assert [row["sample"]["audio_shift_s"] for row in plain] == [0.0]
    run_curation([str(raw)], str(out), configuration("sync.repair=true"))
    shifted = rows(out, "SELECT sample FROM dataset WHERE sample IS NOT NULL")
    assert shifted[0]["sample"]["audio_shift_s"] > 0.2
    assert shifted[0]["sample"]["sample_id"] != plain[0]["sample"]["sample_id"]
