"""A header's duration is a claim: what becomes of one that the file cannot hold."""

from __future__ import annotations

import itertools
import math
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from curation.phases.decode import plan_units
from stages.media import probe as probe_module
from stages.media.blocks import SourceFormat
from stages.media.probe import probe

SECONDS = 6
_CODECS = {
    "mkv": ("mpeg4", "pcm_s16le"),
    "mp4": ("mpeg4", "aac"),
    "avi": ("mpeg4", "pcm_s16le"),
    "flv": ("flv", "pcm_s16le"),
    "ogg": (None, "flac"),
}


def render(path: Path) -> Path:
    """Six seconds: a picture that changes, and noise."""
    video_codec, audio_codec = _CODECS[path.suffix[1:]]
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, 10) if video_codec else None
        audio = container.add_stream(audio_codec, 44100, layout="stereo")
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for _ in range(SECONDS * 10):
                image = random.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(video.encode())
        kind = "fltp" if audio_codec == "aac" else "s16"
        noise = random.uniform(-0.1, 0.1, (SECONDS * 44100, 2)).astype(np.float32)
        block = noise.T if kind == "fltp" else (noise * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), kind, "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        resampler = av.AudioResampler(kind, "stereo", 44100, frame_size=audio.frame_size or 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(audio.encode(part))
        container.mux(audio.encode())
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def damage(path: Path, value: float) -> None:
    """Write another duration into the header."""
    content = path.read_bytes()
    whole = int(min(value, 2**31 - 1)) if math.isfinite(value) else 0
    if path.suffix == ".mkv":
        at = content.index(b"\x44\x89\x88") + 3
        patch(path, at, struct.pack(">d", value * 1000))
    elif path.suffix == ".flv":
        patch(path, content.index(b"\x00\x08duration\x00") + 11, struct.pack(">d", value))
    elif path.suffix == ".avi":
        patch(path, content.index(b"avih") + 8 + 16, struct.pack("<I", whole))
        patch(path, content.index(b"strh") + 8 + 32, struct.pack("<I", whole))
    elif path.suffix == ".mp4":
        patch(path, content.index(b"mvhd") + 20, struct.pack(">I", whole))
        patch(path, content.index(b"mdhd") + 20, struct.pack(">I", whole))
    else:
        # The last page's granule; FFmpeg does not look at the checksum.
        at = content.rindex(b"OggS") + 6
        patch(path, at, struct.pack("<q", int(value * 44100)))


def planned(found: SourceFormat, unit_s: float = 120.0) -> int:
    source = {"source_id": "s", "duration_s": found.duration_s, "spans": []}
    return len(plan_units(source, unit_s))


@pytest.mark.parametrize("suffix", _CODECS)
@pytest.mark.parametrize("value", [1e12, 1e7])
def test_a_duration_that_the_file_cannot_hold_is_measured(
    tmp_path: Path, suffix: str, value: float
) -> None:
    path = render(tmp_path / f"a.{suffix}")
    honest = probe(str(path)).duration_s
    damage(path, value)
    found = probe(str(path))
    assert found.duration_s == pytest.approx(honest, abs=1.5)
    assert planned(found) == 1


@pytest.mark.parametrize("value", [-5.0, 0.0, math.nan, math.inf, -math.inf, 1e300, 5e-324, 0.5])
@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_a_duration_that_is_no_duration(tmp_path: Path, suffix: str, value: float) -> None:
    path = render(tmp_path / f"a.{suffix}")
    damage(path, value)
    found = probe(str(path))
    assert 0.0 <= found.duration_s < 2 * SECONDS
    assert found.modality == "video"
    assert planned(found) == 1


@pytest.mark.parametrize("suffix", _CODECS)
def test_an_honest_file_is_not_read_for_its_duration(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = render(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(probe_module, "_last_packet_s", None)
    assert probe(str(path)).duration_s == pytest.approx(SECONDS, abs=0.2)


def test_a_picture_that_stays_keeps_the_headers_word(tmp_path: Path) -> None:
    path = tmp_path / "slide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", 1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for second in (0, 40):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = second
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    damage(path, 80.0)
    assert probe(str(path)).duration_s == 80.0


# --- the plan


def units(duration_s: float, *spans: tuple[float, float]) -> list[tuple[float, float, float]]:
    """Where each unit starts and ends, and how far it may reach."""
    source = {
        "source_id": "s",
        "duration_s": duration_s,
        "spans": [{"start_s": start_s, "end_s": end_s} for start_s, end_s in spans],
    }
    return [
        (unit.start_s, unit.end_s, unit.span_end_s if unit.open_end else unit.end_s)
        for unit in plan_units(source, 120.0)
    ]


def test_a_plan_does_not_grow_with_a_wild_claim() -> None:
    for duration_s in (1e15, 1e300):
        plan = units(duration_s)
        assert len(plan) == 10_000
        assert all(after[0] == before[2] for before, after in itertools.pairwise(plan))
        assert plan[-1][2] == math.inf
        assert units(duration_s, (10.0, 1e14))[-1][2] == 1e14
    for duration_s in (math.inf, math.nan, -1e9):
        assert units(duration_s) == [(0.0, 0.0, math.inf)]


def test_spans_beyond_the_claim_end_where_they_were_said_to() -> None:
    assert units(1.0, (0.0, 100.0), (150.0, 200.0), (300.0, math.inf)) == [
        (0.0, 1.0, 100.0),
        (150.0, 150.0, 200.0),
        (300.0, 300.0, math.inf),
    ]
    assert units(250.0, (200.0, 1e15)) == [(200.0, 250.0, 1e15)]
