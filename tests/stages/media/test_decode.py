"""Decoding: real presentation times, units that partition a source, damage that is found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from manifests.errors import MediaError
from stages.media.blocks import AudioBlock, DecodedSpan, Frame, SourceFormat
from stages.media.decode import decode_frames, decode_unit, read_audio
from stages.media.probe import probe
from stages.media.proxy import proxy_size


def decode(
    uri: str, source: SourceFormat, start_s: float = -math.inf, end_s: float = math.inf
) -> tuple[DecodedSpan, list[Frame], list[AudioBlock]]:
    seen: list[Frame] = []
    heard: list[AudioBlock] = []
    span = decode_unit(
        uri,
        source,
        start_s,
        end_s,
        on_frame=seen.append,
        on_audio=heard.append,
    )
    return span, seen, heard


@pytest.mark.parametrize(
    ("name", "frames_there", "end_s"),
    [
        ("multishot_stage_audience_watermark.mp4", 275, 10.020),
        ("handheld_whip_pan_rot180_vfr.mp4", 25, 2.380),
        ("multishot_dissolve_multistream_nasa.mp4", 325, 13.0),
        ("nature_herd_2fps.mp4", 7, 3.5),
        ("talking_head_en_grid_f1.mpg", 75, 3.0),
        ("odd_hevc_10bit_testsrc.mp4", 30, 1.0),
        ("broken_ogg_named_mkv.mkv", 150, 5.0),
    ],
)
def test_every_picture_is_seen_once_with_its_time(
    given_clips: Path, name: str, frames_there: int, end_s: float
) -> None:
    uri = str(given_clips / name)
    source = probe(uri)
    span, seen, _ = decode(uri, source)
    assert len(seen) == span.frames == frames_there
    assert span.end_s == pytest.approx(end_s, abs=0.002)
    times = [picture.time_s for picture in seen]
    assert times == sorted(set(times))
    width, height = proxy_size(source)
    assert all(picture.luma.shape == (height, width) for picture in seen)
    assert seen[0].bgr.shape == (height, width, 3)


def test_sound_and_picture_keep_their_own_starts(given_clips: Path) -> None:
    source = probe(str(given_clips / "multishot_stage_audience_watermark.mp4"))
    assert source.audio_start_s == pytest.approx(0.0, abs=1e-3)
    assert source.video_start_s == pytest.approx(0.844, abs=1e-3)


def test_units_partition_a_source(given_clips: Path) -> None:
    uri = str(given_clips / "multishot_bbb_480p_30s.mp4")
    source = probe(uri)
    _, whole, sound = decode(uri, source)
    edges = [-math.inf, 7.3, 15.0, math.inf]
    parts = [decode(uri, source, a, b) for a, b in itertools.pairwise(edges)]
    assert [p.time_s for part in parts for p in part[1]] == [p.time_s for p in whole]
    assert all(
        np.array_equal(first.luma, second.luma)
        for first, second in zip(whole, (p for part in parts for p in part[1]), strict=True)
    )
    assert [(part[0].start_s, part[0].end_s) for part in parts] == [
        (0.0, 7.3),
        (7.3, 15.0),
        (15.0, pytest.approx(30.0, abs=1e-6)),
    ]
    samples = sum(len(block.samples) for block in sound)
    assert abs(samples - sum(len(b.samples) for part in parts for b in part[2])) <= 2


def test_damage_is_found_and_located(given_clips: Path) -> None:
    uri = str(given_clips / "broken_bitstream_corrupted.mp4")
    span, seen, _ = decode(uri, probe(uri))
    assert len(span.damaged) == 1
    assert span.damaged[0].start_s == pytest.approx(2.8, abs=0.11)
    assert [picture.damaged for picture in seen] == [p.time_s >= 2.75 for p in seen]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("broken_zero_bytes.webm", "empty_file"),
        ("broken_truncated_no_moov.mp4", "unreadable_container"),
        ("broken_header_only_no_mdat.mp4", "no_decodable_frames"),
        ("no_such_file.mp4", "missing_file"),
    ],
)
def test_broken_files_have_stable_codes(given_clips: Path, name: str, code: str) -> None:
    with pytest.raises(MediaError) as caught:
        probe(str(given_clips / name))
    assert caught.value.code == code


def test_cover_art_is_not_video(given_clips: Path) -> None:
    source = probe(str(given_clips / "audio_silence_cover_art.mp3"))
    assert (source.modality, source.video_index) == ("audio", None)


@pytest.mark.parametrize("start_s", [0.0, 3.3, 12.0])
def test_pictures_begin_with_the_one_on_show(given_clips: Path, start_s: float) -> None:
    uri = str(given_clips / "multishot_bbb_480p_30s.mp4")
    times = [t for t, _ in decode_frames(uri, probe(uri), start_s, start_s + 1.0)]
    assert start_s - 1 / 24 < times[0] <= start_s + 1e-6
    assert times[-1] < start_s + 1.0
    assert len(times) in (24, 25)


def test_audio_of_a_span_is_the_span_of_the_audio(given_clips: Path) -> None:
    uri = str(given_clips / "talking_head_retalk_02.mp4")
    source = probe(uri)
    assert source.audio_rate_hz
    whole = read_audio(uri, source, 0.0, 5.0)
    part = read_audio(uri, source, 2.345, 3.456)
    first = round(2.345 * source.audio_rate_hz)
    assert part.start_s == pytest.approx(2.345, abs=0.5 / source.audio_rate_hz)
    assert np.array_equal(part.samples, whole.samples[first : first + len(part.samples)])
    before = read_audio(uri, source, -0.5, 0.5)
    assert not before.samples[: round(0.49 * source.audio_rate_hz)].any()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="raw")
    yield "s3://raw"
    server.stop()


def test_a_file_in_a_bucket_decodes_as_one_on_disk(given_clips: Path, bucket: str) -> None:
    file = given_clips / "multishot_dissolve_multistream_nasa.mp4"
    boto3.client("s3").upload_file(str(file), "raw", "a/clip.mp4")
    uri = f"{bucket}/a/clip.mp4"
    assert probe(uri) == probe(str(file))
    remote = [picture.luma for picture in decode(uri, probe(uri), 8.0, 9.0)[1]]
    local = [picture.luma for picture in decode(str(file), probe(str(file)), 8.0, 9.0)[1]]
    assert all(np.array_equal(a, b) for a, b in zip(remote, local, strict=True))
    with pytest.raises(MediaError) as caught:
        probe(f"{bucket}/a/other.mp4")
    assert caught.value.code == "missing_file"
