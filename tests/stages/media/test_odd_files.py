"""Odd but sound files, as old cameras, recorders and programs write them, are decoded whole."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stages.media.blocks import AudioBlock, Frame
from stages.media.decode import decode_frames, decode_unit
from stages.media.probe import probe
from tests.support.media_files import (
    Film,
    Track,
    decibels_apart,
    decode_in_one_piece,
    sweep,
    write_media,
)

DURATION_S = 6.0
B_FRAMES = {"b_frames": 2}
X264 = {"options": {"preset": "ultrafast", "bf": "2", "b-adapt": "0", "g": "75"}}
UNEVEN_S = tuple(
    float(time_s) for time_s in np.cumsum(np.random.default_rng(5).choice([0.02, 0.04, 0.1], 110))
)

# name: container, film's codec and settings, sound's codec and rate, options of the container
FILES: dict[str, tuple[str, Film, tuple[str, int] | None, dict[str, str]]] = {
    "avi, MPEG-4 part 2 with B-frames": (
        "avi", Film("mpeg4", duration_s=DURATION_S, **B_FRAMES), ("libmp3lame", 44_100), {}),
    "avi, H.264 with B-frames": (
        "avi", Film("libx264", duration_s=DURATION_S, **X264), ("pcm_s16le", 44_100), {}),
    "avi, H.264 with B-frames, no sound": (
        "avi", Film("libx264", duration_s=DURATION_S, **X264), None, {}),
    "avi, DivX 3": ("avi", Film("msmpeg4", duration_s=DURATION_S), ("adpcm_ms", 22_050), {}),
    "avi, MS-MPEG-4 version 2": (
        "avi", Film("msmpeg4v2", duration_s=DURATION_S), ("pcm_s16le", 22_050), {}),
    "avi, Motion JPEG, 8-bit sound": (
        "avi", Film("mjpeg", duration_s=DURATION_S, pixel_format="yuvj420p"), ("pcm_u8", 22_050),
        {}),
    "avi, HuffYUV": (
        "avi", Film("huffyuv", duration_s=DURATION_S, pixel_format="yuv422p"),
        ("pcm_s16le", 48_000), {}),
    "avi, DV": (
        "avi", Film("dvvideo", duration_s=2.4, width=720, height=576), ("pcm_s16le", 48_000), {}),
    "mpeg-ps, MPEG-1": ("mpeg", Film("mpeg1video", duration_s=DURATION_S), ("mp2", 44_100), {}),
    "mpeg-ps, MPEG-2 with B-frames": (
        "mpeg", Film("mpeg2video", duration_s=DURATION_S, **B_FRAMES), ("mp2", 48_000), {}),
    "vob": ("vob", Film("mpeg2video", duration_s=DURATION_S, **B_FRAMES), ("ac3", 48_000), {}),
    "mpeg-ts, MPEG-2 with B-frames": (
        "mpegts", Film("mpeg2video", duration_s=DURATION_S, **B_FRAMES), ("mp2", 48_000), {}),
    "mpeg-ts, H.264 with few key frames": (
        "mpegts", Film("libx264", duration_s=DURATION_S, **X264), ("aac", 44_100), {}),
    "mpeg-ts, no sound": (
        "mpegts", Film("mpeg2video", duration_s=DURATION_S, **B_FRAMES), None, {}),
    "m2ts": (
        "mpegts", Film("libx264", duration_s=DURATION_S, **X264), ("ac3", 48_000),
        {"mpegts_m2ts_mode": "1"}),
    "3gp, H.263": (
        "3gp", Film("h263", duration_s=DURATION_S, width=176, height=144), ("aac", 22_050), {}),
    "3gp, MPEG-4, narrow-band speech": (
        "3gp", Film("mpeg4", duration_s=DURATION_S), ("libopencore_amrnb", 8_000), {}),
    "wmv 7": ("asf", Film("wmv1", duration_s=DURATION_S), ("wmav1", 44_100), {}),
    "wmv 8": ("asf", Film("wmv2", duration_s=DURATION_S), ("wmav2", 44_100), {}),
    "flv, Sorenson": ("flv", Film("flv", duration_s=DURATION_S), ("libmp3lame", 22_050), {}),
    "flv, H.264 with B-frames": (
        "flv", Film("libx264", duration_s=DURATION_S, **X264), ("aac", 44_100), {}),
    "mov, Motion JPEG": (
        "mov", Film("mjpeg", duration_s=DURATION_S, pixel_format="yuvj422p"),
        ("pcm_s16be", 44_100), {}),
    "mov, animation": (
        "mov", Film("qtrle", duration_s=DURATION_S, pixel_format="rgb24"), ("pcm_s24le", 48_000),
        {}),
    "mov, ProRes": (
        "mov", Film("prores", duration_s=DURATION_S, pixel_format="yuv422p10le"),
        ("pcm_s16le", 48_000), {}),
    "mp4, uneven times": (
        "mp4", Film("libx264", times_s=UNEVEN_S, duration_s=UNEVEN_S[-1], **X264),
        ("aac", 48_000), {}),
    "mkv, uneven times": (
        "matroska", Film("libx264", times_s=UNEVEN_S, duration_s=UNEVEN_S[-1], **X264),
        ("libopus", 48_000), {}),
    "mp4, in fragments": (
        "mp4", Film("libx264", duration_s=DURATION_S, **X264), ("aac", 44_100),
        {"movflags": "frag_keyframe+empty_moov"}),
    "mp4, late pictures (edit list)": (
        "mp4",
        Film("libx264", times_s=tuple(1.3 + n / 25 for n in range(120)), duration_s=6.1, **X264),
        ("aac", 44_100), {}),
    "mkv, Video for Windows": (
        "matroska", Film("msmpeg4", duration_s=DURATION_S), ("libmp3lame", 44_100), {}),
    "mkv, MPEG-4 part 2 with B-frames": (
        "matroska", Film("mpeg4", duration_s=DURATION_S, **B_FRAMES), ("ac3", 44_100), {}),
    "mkv, telecine": (
        "matroska", Film("mpeg2video", duration_s=DURATION_S, fps=30, pixel_format="yuv420p",
                         options={"flags": "+ildct+ilme", "top": "1"}), ("mp2", 48_000), {}),
    "mxf": (
        "mxf", Film("mpeg2video", duration_s=DURATION_S, **B_FRAMES), ("pcm_s16le", 48_000), {}),
    "nut": ("nut", Film("mpeg4", duration_s=DURATION_S, **B_FRAMES), ("libmp3lame", 44_100), {}),
    "RealMedia": ("rm", Film("rv20", duration_s=DURATION_S), ("ac3", 44_100), {}),
    "ivf": ("ivf", Film("libvpx", duration_s=DURATION_S,
                        options={"deadline": "realtime", "cpu-used": "8"}), None, {}),
    "bare H.264": ("h264", Film("libx264", duration_s=DURATION_S, **X264), None, {}),
    "bare MPEG-4": ("m4v", Film("mpeg4", duration_s=DURATION_S, **B_FRAMES), None, {}),
    "bare MPEG-2": ("mpeg2video", Film("mpeg2video", duration_s=DURATION_S, **B_FRAMES), None, {}),
    "bare DV": ("dv", Film("dvvideo", duration_s=2.4, width=720, height=576),
                ("pcm_s16le", 48_000), {}),
}  # fmt: skip


def written(path: Path, name: str) -> Path:
    container, film, sound, options = FILES[name]
    channels = 2 if container in ("dv",) else 1
    track = None
    if sound is not None:
        codec, rate_hz = sound
        track = Track(codec, sweep(rate_hz, film.duration_s, channels), rate_hz)
    return write_media(path, container, film=film, track=track, options=options)


def shown_by_ffmpeg(path: Path) -> list[str]:
    """What a plain decode of all packets gives, one hash a picture."""
    with av.open(str(path)) as container:
        return [hash_of(frame) for frame in container.decode(video=0)]


def hash_of(frame: av.VideoFrame) -> str:
    return hashlib.sha256(frame.to_ndarray(format="gray").tobytes()).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_odd_but_sound_files_are_decoded_whole(tmp_path: Path, name: str) -> None:
    _, film, sound, _ = FILES[name]
    path = written(tmp_path / "clip", name)
    source = probe(str(path))
    assert source.modality == "video"
    seen: list[Frame] = []
    heard: list[AudioBlock] = []
    span = decode_unit(
        str(path), source, -math.inf, math.inf, on_frame=seen.append, on_audio=heard.append
    )
    reference = shown_by_ffmpeg(path)
    assert span.damaged == []
    assert len(seen) == len(reference) == len(list(film.frames()))
    check_times([picture.time_s for picture in seen], film)

    # Every picture of a clip is the one that the whole has at that time.
    whole = [
        (time_s, hash_of(frame)) for time_s, frame in decode_frames(str(path), source, 0.0, 99.0)
    ]
    assert [found for _, found in whole] == reference
    start_s, end_s = 0.55 * film.duration_s + 0.21, 0.9 * film.duration_s
    clip = [(time_s, hash_of(f)) for time_s, f in decode_frames(str(path), source, start_s, end_s)]
    before = [entry for entry in whole if entry[0] <= start_s]
    expected = before[-1:] + [entry for entry in whole if start_s < entry[0] < end_s]
    assert [found for _, found in clip] == [found for _, found in expected]
    assert [time_s for time_s, _ in clip] == pytest.approx([t for t, _ in expected], abs=1e-6)

    # Units partition it.
    edges_s = (-math.inf, 0.41 * film.duration_s, 0.77 * film.duration_s, math.inf)
    parts: list[Frame] = []
    for first_s, last_s in itertools.pairwise(edges_s):
        part = decode_unit(
            str(path), source, first_s, last_s, on_frame=parts.append, on_audio=lambda _: None
        )
        assert part.damaged == []
    assert [p.time_s for p in parts] == pytest.approx([p.time_s for p in seen], abs=1e-6)
    assert all(np.array_equal(a.luma, b.luma) for a, b in zip(parts, seen, strict=True))

    if sound is not None:
        truth = decode_in_one_piece(path)
        joined = np.concatenate([block.samples for block in heard])
        assert joined.shape == truth.samples.shape
        assert decibels_apart(joined, truth.samples) > 60
        assert heard[0].start_s == pytest.approx(truth.start_s, abs=1 / truth.rate_hz)


def check_times(times_s: Sequence[float], film: Film) -> None:
    """Pictures lie as far apart as they were rendered, to a tick of a coarse container."""
    rendered_s = np.array([time_s for time_s, _ in film.frames()])
    apart_s = np.array(times_s) - times_s[0] - (rendered_s - rendered_s[0])
    assert np.abs(apart_s).max() <= 0.002


def test_pictures_without_times_of_their_own_come_in_order(tmp_path: Path) -> None:
    # An MP4 whose writer left out the composition offsets: presentation times are decoding times.
    coded = write_media(
        tmp_path / "coded.mp4", "mp4", film=Film("libx264", duration_s=DURATION_S, **X264)
    )
    path = tmp_path / "plain.mp4"
    with av.open(str(coded)) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.dts is None:
                continue
            packet.pts = packet.dts = index
            packet.time_base = Fraction(1, 25)
            packet.stream = stream
            copy.mux(packet)
    found = probe(str(path))
    seen: list[Frame] = []
    span = decode_unit(
        str(path), found, -math.inf, math.inf, on_frame=seen.append, on_audio=lambda _: None
    )
    assert span.damaged == []
    # Until the first time that runs backwards nothing tells that they are wrong.
    assert len(seen) >= 148
    times_s = [picture.time_s for picture in seen]
    assert np.diff(times_s[4:]) == pytest.approx(0.04, abs=1e-6)
