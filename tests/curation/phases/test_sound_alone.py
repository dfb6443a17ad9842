"""The sound-only presets: audio files and the sound of videos, cut at silences or in windows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from curation.config import JobConfiguration, load_configuration
from curation.curate import Summary, run_curation
from curation.demo_bucket import Shape, VideoFormat, scenery_clip
from curation.demo_bucket.render import AudioTrack
from manifests.explore.open import inspect_sql, open_view
from tests.support.in_process import InProcessEngine, jobs_by
from training.data.verify import verify_samples

EMBEDDED = (
    "stages.transcript.enabled=false",
    "stages.audio_class.enabled=false",
    "stages.audio_quality.enabled=false",
    "caption.backend=attributes",
)
RATE_HZ = 48_000
PAUSES_S = tuple((start_s, start_s + 0.5) for start_s in (4.0, 9.5, 13.0, 18.2, 24.0, 31.0, 36.5))
LENGTH_S = 40.0


def rows(out: Path, sql: str) -> list[dict[str, Any]]:
    return inspect_sql(str(out), sql).to_pylist()


def configuration(preset: str) -> JobConfiguration:
    return load_configuration(preset, None, EMBEDDED)


def noise_with_pauses(channels: int = 1, rate_hz: int = RATE_HZ) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    sound = 0.1 * rng.standard_normal((round(LENGTH_S * rate_hz), channels))
    for start_s, end_s in PAUSES_S:
        sound[round(start_s * rate_hz) : round(end_s * rate_hz)] = 0.0
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    soundfile.write(folder / "long.flac", noise_with_pauses(), RATE_HZ)
    soundfile.write(folder / "wide.wav", noise_with_pauses(8, 192_000)[: 192_000 * 6], 192_000)
    soundfile.write(folder / "blip.wav", noise_with_pauses()[: round(0.2 * RATE_HZ)], RATE_HZ)
    soundfile.write(folder / "silent.wav", np.zeros(RATE_HZ * 3, np.float32), RATE_HZ)
    shape = Shape(320, 180, 24, 7.0, video=VideoFormat(options={"preset": "ultrafast"}))
    heard = AudioTrack(noise_with_pauses(2)[: round(7.0 * RATE_HZ)].astype(np.float64))
    scenery_clip(folder / "heard.mp4", seed=1, shape=shape, audio=heard)
    scenery_clip(folder / "mute.mp4", seed=2, shape=shape, audio=None)
    return folder


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    with jobs_by(InProcessEngine()):
        yield


@pytest.fixture(scope="module")
def pretraining(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("out") / "pretraining"
    return out, run_curation([str(bucket)], str(out), configuration("ovi-audio"))


def test_every_second_of_sound_is_in_exactly_one_clip(pretraining: tuple[Path, Summary]) -> None:
    found = rows(
        pretraining[0],
        """SELECT regexp_extract(uri, '[^/]*$') AS file, list(start_s ORDER BY start_s) AS starts_s,
        list(end_s ORDER BY start_s) AS ends_s FROM dataset GROUP BY uri""",
    )
    lengths_s = {"long.flac": 40.0, "wide.wav": 6.0, "blip.wav": 0.2, "silent.wav": 3.0}
    covered = {row["file"]: (row["starts_s"], row["ends_s"]) for row in found}
    assert set(covered) == {*lengths_s, "heard.mp4"}
    for file, (starts_s, ends_s) in covered.items():
        assert starts_s[1:] == ends_s[:-1], file
        assert ends_s[-1] - starts_s[0] == pytest.approx(lengths_s.get(file, 7.0), abs=0.03)
        assert max(end_s - start_s for start_s, end_s in zip(starts_s, ends_s, strict=True)) <= 12.0


def test_cuts_lie_in_silences(pretraining: tuple[Path, Summary]) -> None:
    found = rows(pretraining[0], "SELECT start_s FROM dataset WHERE uri LIKE '%long.flac'")
    cuts_s = sorted(row["start_s"] for row in found)[1:]
    assert len(cuts_s) >= 3
    for cut_s in cuts_s:
        assert any(start_s <= cut_s <= end_s for start_s, end_s in PAUSES_S), cut_s


def test_what_has_no_sound_is_recorded_not_lost(pretraining: tuple[Path, Summary]) -> None:
    failed = rows(pretraining[0], "SELECT uri, error FROM sources WHERE status = 'failed'")
    assert [(row["uri"].rsplit("/", 1)[-1], row["error"]["code"]) for row in failed] == [
        ("mute.mp4", "no_audio")
    ]
    silent = rows(pretraining[0], "SELECT rejected_by FROM dataset WHERE uri LIKE '%silent.wav'")
    assert [row["rejected_by"] for row in silent] == [["volume"]]
    blip = rows(pretraining[0], "SELECT state, \"window\" FROM dataset WHERE uri LIKE '%blip.wav'")
    assert blip == [{"state": "reject", "window": "remainder"}]


def test_pretraining_samples_have_their_clips_own_length(
    pretraining: tuple[Path, Summary],
) -> None:
    out, summary = pretraining
    found = rows(
        out,
        """SELECT end_s - start_s AS length_s, sample.audio_samples AS samples,
        sample.width AS width, sample.profile AS profile FROM dataset WHERE state = 'keep'""",
    )
    assert len(found) == summary.funnel.kept.count >= 6
    for row in found:
        assert row["samples"] == round(row["length_s"] * 16_000)
        assert row["width"] is None
        assert row["profile"].startswith("ovi-audio-")
    with open_view(str(out)) as connection:
        assert verify_samples(str(out), connection).bad == []
    assert summary.funnel.samples.shards == 1
    packed_s = sum(row["samples"] for row in found) / 16_000
    assert summary.funnel.samples.seconds == pytest.approx(packed_s, abs=1e-3)


def test_fine_tuning_samples_are_121_frames_long_and_padded(bucket: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_curation([str(bucket)], str(out), configuration("ovi-audio-5s"))
    found = rows(
        out,
        """SELECT end_s - start_s AS length_s, sample FROM dataset
        WHERE state = 'keep' ORDER BY uri, start_s""",
    )
    assert {row["sample"]["audio_samples"] for row in found} == {80_667}
    shorter = [row for row in found if row["length_s"] < 5.0]
    assert shorter
    member = _sound(out, shorter[0]["sample"])
    end = round(shorter[0]["length_s"] * 16_000)
    assert np.abs(member[: end - 200]).max() > 0.05
    assert np.abs(member[end + 200 :]).max() < 1e-3


def _sound(out: Path, sample: dict[str, Any]) -> np.ndarray[Any, Any]:
    import tarfile

    with tarfile.open(out / sample["shard"]) as tar:
        data = tar.extractfile(f"{sample['sample_id']}.flac")
        assert data is not None
        samples, rate_hz = soundfile.read(io.BytesIO(data.read()))
    assert rate_hz == 16_000
    return np.asarray(samples)
