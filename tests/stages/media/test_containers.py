"""The sound of every container, codec and rate is the file's own, whole and in its place."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from stages.media.audio import audio_length, conformed_audio
from stages.media.blocks import AudioBlock, Margins
from stages.media.conform import conformed_frames
from stages.media.decode import decode_unit, read_audio
from stages.media.probe import probe
from tests.support.media_files import (
    Film,
    Track,
    beep,
    decibels_apart,
    decode_in_one_piece,
    sweep,
    write_media,
)

FILMS = {
    "mp4": "libx264",
    "mov": "libx264",
    "matroska": "libx264",
    "webm": "libvpx",
    "flv": "flv",
    "avi": "mpeg4",
    "mpegts": "mpeg2video",
    "mpeg": "mpeg2video",
    "asf": "wmv2",
    "nut": "mpeg4",
}
QUICK = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}
ALL = (22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
MP3 = ALL[:-1]
AC3 = (32_000, 44_100, 48_000)
OPUS = (24_000, 48_000)
TABLE = {
    ("mp4", "aac"): ALL,
    ("mp4", "libmp3lame"): (44_100,),
    ("mp4", "ac3"): (44_100,),
    ("mp4", "libopus"): OPUS,
    ("mov", "aac"): (44_100,),
    ("mov", "pcm_s16le"): (44_100, 96_000),
    ("matroska", "aac"): ALL,
    ("matroska", "libmp3lame"): MP3,
    ("matroska", "vorbis"): ALL,
    ("matroska", "libopus"): OPUS,
    ("matroska", "ac3"): AC3,
    ("matroska", "pcm_s16le"): ALL,
    ("matroska", "flac"): (22_050, 44_100, 96_000),
    ("webm", "vorbis"): ALL,
    ("webm", "libopus"): OPUS,
    ("flv", "aac"): ALL,
    ("flv", "libmp3lame"): (22_050, 44_100, 48_000),
    ("flv", "pcm_s16le"): (22_050, 44_100),
    ("avi", "libmp3lame"): MP3,
    ("avi", "aac"): (44_100,),
    ("avi", "ac3"): AC3,
    ("avi", "pcm_s16le"): ALL,
    ("mpegts", "aac"): ALL,
    ("mpegts", "libmp3lame"): (44_100,),
    ("mpegts", "ac3"): AC3,
    ("mpegts", "libopus"): (48_000,),
    ("mpeg", "mp2"): (24_000, 44_100, 48_000),
    ("mpeg", "ac3"): AC3,
    ("asf", "libmp3lame"): (22_050, 44_100, 48_000),
    ("nut", "aac"): (44_100,),
    ("ogg", "vorbis"): ALL,
    ("ogg", "libopus"): OPUS,
    ("ogg", "flac"): (44_100,),
    ("wav", "pcm_s16le"): ALL,
    ("wav", "pcm_f32le"): (44_100,),
    ("mp3", "libmp3lame"): MP3,
    ("adts", "aac"): (22_050, 44_100, 96_000),
    ("flac", "flac"): (44_100,),
    ("wav", "adpcm_ms"): (44_100,),
    ("ac3", "ac3"): (44_100,),
}
# Of every container and codec one rate, all rates in turn; the rest is the soak.
CASES = [
    pytest.param(*place, rate_hz, marks=() if number == row % len(rates_hz) else pytest.mark.soak)
    for row, (place, rates_hz) in enumerate(TABLE.items())
    for number, rate_hz in enumerate(rates_hz)
]
DURATION_S = 7.0
LEAST_DB = 60.0
"""Codecs that fill in noise (AC-3, AAC) draw other noise after a seek: very little in a sweep."""


def film_for(container: str, **changes: object) -> Film | None:
    codec = FILMS.get(container)
    if codec is None:
        return None
    settings = {"duration_s": DURATION_S, "options": QUICK.get(codec, {}), **changes}
    return Film(codec, **settings)  # type: ignore[arg-type]


def channels_of(codec: str) -> int:
    return 2 if codec == "vorbis" else 1  # FFmpeg's own encoder does stereo alone


@pytest.mark.parametrize(("container", "codec", "rate_hz"), CASES)
def test_sound_is_that_of_one_piece(
    tmp_path: Path, container: str, codec: str, rate_hz: int
) -> None:
    track = Track(codec, sweep(rate_hz, DURATION_S, channels_of(codec)), rate_hz)
    path = write_media(tmp_path / "clip", container, film=film_for(container), track=track)
    source = probe(str(path))
    truth = decode_in_one_piece(path)
    assert source.audio_rate_hz == truth.rate_hz
    # From the start, and from where a seek leads to.
    for start_s, end_s in ((0.0, DURATION_S), (1.731, 3.2), (4.87, 6.61)):
        heard = read_audio(str(path), source, start_s, end_s)
        assert heard.start_s == pytest.approx(start_s, abs=0.5 / truth.rate_hz)
        reference = truth.span(start_s, end_s)
        assert heard.samples.shape == reference.shape
        assert np.abs(reference).max() > 0.2
        assert decibels_apart(heard.samples, reference) > LEAST_DB
    # What the one decode of the source hears, unit by unit.
    blocks: list[AudioBlock] = []
    for start_s, end_s in itertools.pairwise((-math.inf, 2.9, 5.33, math.inf)):
        decode_unit(
            str(path), source, start_s, end_s, on_frame=lambda _: None, on_audio=blocks.append
        )
    joined = np.concatenate([block.samples for block in blocks])
    ends = [block.start_s + len(block.samples) / block.rate_hz for block in blocks]
    starts = [block.start_s for block in blocks]
    assert starts[1:] == pytest.approx(ends[:-1], abs=1e-7)
    assert joined.shape == truth.samples.shape
    assert starts[0] == pytest.approx(truth.start_s, abs=0.5 / truth.rate_hz)
    assert decibels_apart(joined, truth.samples) > LEAST_DB


GAPPED = [
    ("mp4", "aac", 44_100),
    ("mov", "aac", 48_000),
    ("matroska", "aac", 44_100),
    ("matroska", "libmp3lame", 48_000),
    ("matroska", "pcm_s16le", 44_100),
    ("webm", "vorbis", 44_100),
    ("webm", "libopus", 48_000),
    ("flv", "aac", 44_100),
    ("mpegts", "aac", 44_100),
    ("mpegts", "ac3", 48_000),
    ("mpeg", "mp2", 44_100),
    ("nut", "aac", 48_000),
]


# Of every container one gap, all gaps in turn; the rest is the soak.
GAPPED_CASES = [
    pytest.param(*place, gap_s, marks=() if number == row % 3 else pytest.mark.soak)
    for row, place in enumerate(GAPPED)
    for number, gap_s in enumerate((0.0, 0.25, 0.0371))
]


@pytest.mark.parametrize(("container", "codec", "rate_hz", "gap_s"), GAPPED_CASES)
def test_late_starts_and_gaps_stay_where_they_are(
    tmp_path: Path, container: str, codec: str, rate_hz: int, gap_s: float
) -> None:
    channels = channels_of(codec)
    track = Track(
        codec,
        sweep(rate_hz, 6.0, channels),
        rate_hz,
        start_s=0.73,
        gap_at_s=3.0 if gap_s else math.inf,
        gap_s=gap_s,
    )
    path = write_media(tmp_path / "clip", container, film=film_for(container), track=track)
    source = probe(str(path))
    truth = decode_in_one_piece(path)
    rate_hz = truth.rate_hz
    heard = read_audio(str(path), source, 0.0, DURATION_S).samples
    before = truth.span(0.0, 3.6)
    assert decibels_apart(heard[: len(before)], before) > LEAST_DB
    # Behind the gap the same samples follow, later by the gap: as far as the container can tell,
    # which rounds the start as well as what follows (Matroska and FLV to a millisecond).
    ticks = round(0.0006 * rate_hz)
    first, end = round(4.3 * rate_hz), round(6.0 * rate_hz)
    shifted = [
        decibels_apart(heard[first + shift : end + shift], truth.span(4.3, 6.0))
        for shift in range(round(gap_s * rate_hz) - ticks, round(gap_s * rate_hz) + ticks + 1)
    ]
    assert max(shifted) > LEAST_DB
    # A clip that lies behind the gap is heard as in the whole.
    part = read_audio(str(path), source, 4.6, 6.2).samples
    first = round(4.6 * rate_hz)
    near = [
        decibels_apart(part[4:-4], heard[first + 4 + shift : first + len(part) - 4 + shift])
        for shift in range(-4, 5)
    ]
    assert max(near) > LEAST_DB
    assert abs(int(np.argmax(near)) - 4) <= 3


FLASHES = [
    *((container, codec, 44_100) for container, codec in (("mp4", "aac"), ("mov", "aac"))),
    ("mov", "pcm_s16le", 48_000),
    ("matroska", "aac", 44_100),
    ("matroska", "libmp3lame", 44_100),
    ("matroska", "ac3", 48_000),
    ("webm", "libopus", 48_000),
    ("webm", "vorbis", 44_100),
    ("flv", "aac", 44_100),
    ("flv", "libmp3lame", 44_100),
    ("avi", "libmp3lame", 44_100),
    ("avi", "pcm_s16le", 22_050),
    ("mpegts", "aac", 48_000),
    ("mpegts", "ac3", 44_100),
    ("mpeg", "mp2", 48_000),
    ("asf", "libmp3lame", 44_100),
    ("nut", "aac", 44_100),
]


@pytest.mark.parametrize(("container", "codec", "rate_hz"), FLASHES)
def test_a_flash_and_a_beep_stay_together(
    tmp_path: Path, container: str, codec: str, rate_hz: int
) -> None:
    sound = beep(rate_hz, DURATION_S, 4.4)
    sound = np.repeat(sound, channels_of(codec), axis=1)
    film = film_for(container, flash_s=(4.4, 4.7))
    track = Track(codec, sound, rate_hz)
    path = write_media(tmp_path / "clip", container, film=film, track=track)
    source = probe(str(path))
    fps, frames, start_s = 24, 60, 3.1
    lumas = [
        frame.to_ndarray(format="gray").mean()
        for frame in conformed_frames(
            str(path),
            source,
            start_s,
            margins_px=Margins(),
            area_px=128 * 96,
            frames=frames,
            fps=fps,
            pixel_format="yuv420p",
        )
    ]
    heard = conformed_audio(
        str(path),
        source,
        start_s,
        start_s + frames / fps,
        samples=audio_length(frames, fps, 16_000),
        rate_hz=16_000,
        channels=1,
    )
    flash_s = int(np.argmax(np.array(lumas) > 180)) / fps
    beep_s = int(np.argmax(np.abs(heard[:, 0]) > 0.25)) / 16_000
    assert flash_s > 0.5
    assert abs(flash_s - beep_s) <= 0.5 / fps + 1e-3
