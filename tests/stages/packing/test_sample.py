from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import tarfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydantic
import pytest
import soundfile
import webdataset

from curation.demo_bucket.clips import Shape, flash_beep_clip, scenery_clip
from curation.demo_bucket.render import AudioTrack, render_audio
from manifests.errors import MediaError
from stages.media import encode
from stages.media.blocks import Margins
from stages.media.probe import probe
from stages.packing.sample import PackProfile, SampleTask, sample_id_of, write_sample
from stages.packing.shard import assemble_shard, plan_shards, shard_name

SMALL = PackProfile(area_px=160 * 90)
SAMPLES = 80_667


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "flash.mp4"
    flash_beep_clip(path, shape=Shape(width=192, height=108, fps=25))
    return path


def task_for(path: Path, start_s: float = 0.25, **changes: Any) -> SampleTask:
    task = SampleTask(
        clip_id=f"clip-{path.stem}-{start_s}",
        source_id="source-1",
        uri=str(path),
        source=probe(str(path)),
        start_s=start_s,
        end_s=start_s + 121 / 24,
        margins_px=Margins(),
        caption="A white flash. <S>Häuser</S>",
        measurements={"sync": {"confidence": 3.5, "offset_frames": None}, "blur": math.nan},
        provenance={"licence": "CC0-1.0", "split": "train"},
    )
    return dataclasses.replace(task, **changes)


def members_of(fragment: Path) -> dict[str, bytes]:
    """The members by extension, in order; a fragment has no end of archive of its own."""
    with tarfile.open(fileobj=io.BytesIO(fragment.read_bytes() + bytes(1024))) as archive:
        contents = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            contents[member.name.partition(".")[2]] = file.read()
        return contents


def test_a_sample_holds_what_its_record_says(clip: Path, tmp_path: Path) -> None:
    destination = tmp_path / "fragment.tar"
    fragment = write_sample(task_for(clip), SMALL, destination)
    assert sorted(tmp_path.iterdir()) == [destination]
    assert fragment.size == destination.stat().st_size
    assert fragment.size % 512 == 0
    assert fragment.sha256 == hashlib.sha256(destination.read_bytes()).hexdigest()
    assert (fragment.width, fragment.height, fragment.frames, fragment.fps) == (160, 90, 121, 24.0)
    assert (fragment.audio_rate_hz, fragment.audio_samples) == (16_000, SAMPLES)

    members = members_of(destination)
    assert list(members) == ["mp4", "flac", "json", "txt"]
    with av.open(io.BytesIO(members["mp4"])) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 24
        frames = list(container.decode(stream))
    assert [frame.pts * frame.time_base * 24 for frame in frames] == list(range(121))
    assert {(frame.width, frame.height, frame.format.name) for frame in frames} == {
        (160, 90, "yuv420p")
    }
    tags = (frames[0].colorspace, frames[0].color_range)
    assert tags == (av.video.reformatter.Colorspace.ITU709, av.video.reformatter.ColorRange.MPEG)
    assert (frames[0].color_primaries, frames[0].color_trc) == (1, 1)
    samples, rate_hz = soundfile.read(io.BytesIO(members["flac"]), always_2d=True)
    assert samples.shape == (SAMPLES, 1)
    assert rate_hz == 16_000
    # What was rendered at one instant is still together after encoding.
    luma = np.asarray([frame.to_ndarray(format="gray").mean() for frame in frames])
    flash_s = int(np.argmax(luma > 220)) / 24
    beep_s = int(np.argmax(np.abs(samples[:, 0]) > 0.08)) / rate_hz
    assert abs(flash_s - beep_s) <= 0.5 / 24 + 1e-3


def test_the_index_of_the_mp4_comes_first_and_carries_no_date(clip: Path, tmp_path: Path) -> None:
    write_sample(task_for(clip), SMALL, tmp_path / "fragment.tar")
    mp4 = members_of(tmp_path / "fragment.tar")["mp4"]
    assert mp4.index(b"moov") < mp4.index(b"mdat")
    header = mp4.index(b"mvhd") + 4
    assert mp4[header + 4 : header + 12] == bytes(8)  # creation and modification time
    assert b"Lavf" not in mp4


def test_the_words_of_a_sample(clip: Path, tmp_path: Path) -> None:
    write_sample(task_for(clip, margins_px=Margins(top=4)), SMALL, tmp_path / "fragment.tar")
    members = members_of(tmp_path / "fragment.tar")
    assert members["txt"].decode() == "A white flash. <S>Häuser</S>"
    words = json.loads(members["json"])
    assert words["caption"] == "A white flash. <S>Häuser</S>"
    assert words["has_audio"] is True
    assert words["measurements"] == {
        "sync": {"confidence": 3.5, "offset_frames": None},
        "blur": None,
    }
    provenance = words["provenance"]
    assert provenance["licence"] == "CC0-1.0"
    assert provenance["split"] == "train"
    assert provenance["clip_id"] == "clip-flash-0.25"
    assert provenance["start_s"] == 0.25
    assert provenance["margins_px"] == {"top": 4, "bottom": 0, "left": 0, "right": 0}
    assert provenance["profile"] == SMALL.profile_id


def test_two_writes_give_equal_bytes(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_sample(task_for(clip), SMALL, tmp_path / "first.tar")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    second = write_sample(task_for(clip), SMALL, tmp_path / "second.tar")
    assert first.sha256 == second.sha256
    # The order in which a caller filled its mappings is none of the sample's business.
    task = task_for(clip)
    shuffled = dataclasses.replace(
        task,
        measurements=dict(reversed(list(task.measurements.items()))),
        provenance=dict(reversed(list(task.provenance.items()))),
    )
    assert write_sample(shuffled, SMALL, tmp_path / "third.tar").sha256 == first.sha256


def test_bytes_do_not_depend_on_the_processor_s_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scenery.mp4"
    scenery_clip(path, seed=3, shape=Shape(width=320, height=180))
    fast = write_sample(task_for(path), SMALL, tmp_path / "fast.tar")
    monkeypatch.setattr(encode, "X264_PARAMETERS", f"{encode.X264_PARAMETERS}:asm=0")
    plain = write_sample(task_for(path), SMALL, tmp_path / "plain.tar")
    assert fast.sha256 == plain.sha256


def test_raw_frames_and_wave_samples(clip: Path, tmp_path: Path) -> None:
    profile = SMALL.model_copy(update={"video": "raw", "audio": "wav", "audio_channels": 2})
    write_sample(task_for(clip), profile, tmp_path / "fragment.tar")
    members = members_of(tmp_path / "fragment.tar")
    assert list(members) == ["video.npy", "wav", "json", "txt"]
    frames = np.load(io.BytesIO(members["video.npy"]))
    assert frames.dtype == np.uint8
    assert frames.shape == (121, 90, 160, 3)
    assert frames[int(np.argmax(frames.mean(axis=(1, 2, 3))))].min() > 245
    samples, rate_hz = soundfile.read(io.BytesIO(members["wav"]))
    assert (samples.shape, rate_hz) == ((SAMPLES, 2), 16_000)


def test_a_silent_film_has_no_sound_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    scenery_clip(path, shape=Shape(width=192, height=108), audio=None)
    fragment = write_sample(task_for(path), SMALL, tmp_path / "fragment.tar")
    members = members_of(tmp_path / "fragment.tar")
    assert list(members) == ["mp4", "json", "txt"]
    assert json.loads(members["json"])["has_audio"] is False
    assert fragment.audio_samples is fragment.audio_rate_hz is None


def test_a_clip_that_its_sound_does_not_reach_has_none(clip: Path, tmp_path: Path) -> None:
    """As silence it would pass for a clip with sound in joint training."""
    nothing = {"loudness": {"status": "not_applicable"}}
    task = task_for(clip, measurements=nothing)
    fragment = write_sample(task, SMALL, tmp_path / "fragment.tar")
    members = members_of(tmp_path / "fragment.tar")
    assert list(members) == ["mp4", "json", "txt"]
    assert json.loads(members["json"])["has_audio"] is False
    assert fragment.audio_samples is fragment.audio_rate_hz is None


def test_sound_alone_is_padded_with_silence(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    render_audio(path, AudioTrack(0.5 * np.ones(8 * 16_000, np.float32), 16_000, codec="pcm_s16le"))
    task = task_for(path, start_s=1.0, end_s=3.0, caption=None)
    fragment = write_sample(task, SMALL, tmp_path / "fragment.tar")
    members = members_of(tmp_path / "fragment.tar")
    assert list(members) == ["flac", "json", "txt"]
    assert members["txt"] == b""
    assert (fragment.width, fragment.frames, fragment.audio_samples) == (None, None, SAMPLES)
    samples, _ = soundfile.read(io.BytesIO(members["flac"]))
    assert samples[:32_000] == pytest.approx(0.5, abs=1e-3)
    assert not samples[32_000:].any()


@pytest.mark.parametrize("surplus_s", [-1.0, 1.0])
def test_a_clip_of_another_length_is_refused(clip: Path, tmp_path: Path, surplus_s: float) -> None:
    task = task_for(clip, end_s=0.25 + 121 / 24 + surplus_s)
    with pytest.raises(MediaError) as caught:
        write_sample(task, SMALL, tmp_path / "fragment.tar")
    assert caught.value.code == "length_mismatch"


def test_nothing_is_left_of_a_failed_write(clip: Path, tmp_path: Path) -> None:
    task = task_for(clip, uri=str(clip.with_name("gone.mp4")))
    with pytest.raises(MediaError):
        write_sample(task, SMALL, tmp_path / "fragment.tar")
    assert list(tmp_path.iterdir()) == []


# --- Profiles -------------------------------------------------------------------------------------


def test_a_profile_s_name_says_what_it_is() -> None:
    profile = PackProfile()
    assert re.fullmatch(r"ovi-518400px-24fps-121f-16000hz-[0-9a-f]{8}", profile.profile_id)
    assert "." not in sample_id_of("clip.1", profile)
    assert sample_id_of("a", profile) != sample_id_of("b", profile)


def test_only_what_decides_bytes_decides_the_fingerprint() -> None:
    class Settings(PackProfile):
        shard_mb: int = 256

    assert Settings(shard_mb=3).fingerprint() == PackProfile().fingerprint()
    assert PackProfile(crf=20).fingerprint() != PackProfile().fingerprint()
    raw = PackProfile(video="raw")
    assert raw.model_copy(update={"crf": 20}).fingerprint() == raw.fingerprint()


def test_a_profile_refuses_what_it_does_not_know() -> None:
    with pytest.raises(pydantic.ValidationError):
        PackProfile.model_validate({"resolution": 720})
    with pytest.raises(pydantic.ValidationError):
        PackProfile(name="v1.5")


# --- Shards ---------------------------------------------------------------------------------------


def test_stock_readers_read_a_shard(clip: Path, tmp_path: Path) -> None:
    profile = SMALL.model_copy(update={"preset": "ultrafast"})
    fragments = [
        write_sample(task_for(clip, start_s), profile, tmp_path / f"{index}.fragment")
        for index, start_s in enumerate((0.0, 0.5))
    ]
    shard = tmp_path / shard_name([fragment.sample_id for fragment in fragments])
    parts = [fragments[0].path, fragments[1].path.read_bytes()]
    offsets = assemble_shard(parts, shard)

    data = shard.read_bytes()
    assert len(data) % 10_240 == 0
    assert not data[-1024:].strip(b"\0")
    for fragment, offset in zip(fragments, offsets, strict=True):
        part = data[offset : offset + fragment.size]
        assert hashlib.sha256(part).hexdigest() == fragment.sha256

    with tarfile.open(shard) as archive:
        for member in archive.getmembers():
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert member.isreg()
    dataset = webdataset.WebDataset(os.fspath(shard), shardshuffle=False)
    samples = list(dataset)
    assert [sample["__key__"] for sample in samples] == [part.sample_id for part in fragments]
    for sample in samples:
        assert {"mp4", "flac", "json", "txt"} <= set(sample)
        assert json.loads(sample["json"])["sample_id"] == sample["__key__"]


def test_a_shard_without_samples_is_an_empty_tar(tmp_path: Path) -> None:
    assert assemble_shard([], tmp_path / "empty.tar") == []
    with tarfile.open(tmp_path / "empty.tar") as archive:
        assert archive.getnames() == []


def test_half_a_block_is_no_fragment(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole tar blocks"):
        assemble_shard([b"x" * 100], tmp_path / "broken.tar")
    assert list(tmp_path.iterdir()) == []


def test_the_plan_depends_on_the_set_of_ids_alone() -> None:
    ids = [f"ovi-{index:04x}" for index in range(23)]
    plan = plan_shards(ids, 10, 50)
    assert plan == plan_shards([*reversed(ids), ids[0]], 10, 50)
    assert [name for shard in plan for name in shard] == ids
    assert {len(shard) for shard in plan[:-1]} == {5}
    assert plan[1:] == plan_shards([name for shard in plan[1:] for name in shard], 10, 50)
    assert plan_shards(ids, 100, 50) == [[name] for name in ids]
    assert plan_shards([], 10, 50) == []


def test_a_shard_s_name_is_its_members() -> None:
    assert re.fullmatch(r"shard-[0-9a-f]{16}\.tar", shard_name(["b", "a"]))
    assert shard_name(["b", "a"]) == shard_name(["a", "b"]) != shard_name(["a", "c"])
