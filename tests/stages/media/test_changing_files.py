"""Files that change on the way: streams that begin late, formats, damage, times that start over."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from curation.demo_bucket.render import mp4_boxes
from manifests.errors import MediaError
from stages.media.blocks import AudioBlock, DecodedSpan
from stages.media.decode import decode_unit, read_audio
from stages.media.probe import probe
from stages.run.unit import UnitTask, measure_unit
from tests.support.media_files import Film, Track, beep, decode_in_one_piece, sweep, write_media

LATE_S = 84.0


def decode(
    path: Path, start_s: float = -math.inf, end_s: float = math.inf
) -> tuple[DecodedSpan, list[float], list[AudioBlock]]:
    times_s: list[float] = []
    heard: list[AudioBlock] = []
    span = decode_unit(
        str(path),
        probe(str(path)),
        start_s,
        end_s,
        on_frame=lambda picture: times_s.append(picture.time_s),
        on_audio=heard.append,
    )
    return span, times_s, heard


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_sound_that_begins_late_is_found(tmp_path: Path, container: str) -> None:
    film = Film("mpeg4", duration_s=LATE_S + 2, width=32, height=32)
    track = Track("aac", sweep(44_100, 2.0), 44_100, start_s=LATE_S)
    path = write_media(tmp_path / "late", container, film=film, track=track)
    source = probe(str(path))
    assert (source.modality, source.audio_codec) == ("video", "aac")
    assert source.audio_start_s == pytest.approx(LATE_S, abs=0.05)
    heard = read_audio(str(path), source, LATE_S + 0.5, LATE_S + 1.5).samples
    truth = decode_in_one_piece(path)
    assert np.array_equal(heard, truth.span(LATE_S + 0.5, LATE_S + 1.5))


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_pictures_that_begin_late_are_found(tmp_path: Path, container: str) -> None:
    times_s = tuple(LATE_S + index / 25 for index in range(25))
    options = {"preset": "ultrafast"}
    film = Film("libx264", times_s=times_s, duration_s=1.0, options=options)
    track = Track("libmp3lame", sweep(48_000, LATE_S + 1), 48_000)
    path = write_media(tmp_path / "late", container, film=film, track=track)
    source = probe(str(path))
    assert (source.modality, source.audio_codec is not None) == ("video", True)
    assert source.video_start_s == pytest.approx(LATE_S, abs=0.1)


def test_sound_may_change_its_format(tmp_path: Path) -> None:
    parts = []
    for name, rate_hz, channels in (("a", 48_000, 2), ("b", 44_100, 1), ("c", 48_000, 1)):
        track = Track("ac3", sweep(rate_hz, 2.0, channels), rate_hz)
        parts.append(write_media(tmp_path / name, "ac3", track=track))
    path = tmp_path / "joined.ac3"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = probe(str(path))
    assert (source.audio_rate_hz, source.audio_channels) == (48_000, 2)
    _, _, heard = decode(path)
    joined = np.concatenate([block.samples for block in heard])
    assert joined.shape[1] == 2
    # A block of 1536 samples at most is begun by each encoder at its end.
    assert len(joined) == pytest.approx(6.0 * 48_000, abs=3 * 1536 + 64)
    for start_s in (0.5, 2.6, 4.7):
        part = joined[round(start_s * 48_000) :][:24_000]
        assert np.sqrt(np.mean(np.square(part))) > 0.1


def test_damage_of_sound_is_told_where_it_is(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "broken.mp4", "mp4", track=Track("aac", sweep(48_000, 12.0), 48_000)
    )
    data = bytearray(path.read_bytes())
    begin, length = mp4_boxes(bytes(data))["mdat"][0], mp4_boxes(bytes(data))["mdat"][1]
    first, end = (round(begin + share * (length - begin)) for share in (0.45, 0.65))
    data[first:end] = b"\xff" * (end - first)
    path.write_bytes(data)
    edges_s = (-math.inf, 3.0, 7.0, 9.0, math.inf)
    spans = [decode(path, *edge)[0] for edge in itertools.pairwise(edges_s)]
    for span, (start_s, end_s) in zip(spans, itertools.pairwise(edges_s), strict=True):
        for part in span.damaged:
            assert max(start_s, 5.0) <= part.start_s < part.end_s <= min(end_s, 8.5)
    assert spans[0].damaged == spans[3].damaged == []
    assert spans[1].damaged or spans[2].damaged


def test_recordings_behind_each_other_are_refused_in_words(tmp_path: Path) -> None:
    parts = [
        write_media(
            tmp_path / f"{index}.ts",
            "mpegts",
            film=Film("mpeg2video", duration_s=4.0, flash_s=(1.0 + index, 1.2 + index)),
            track=Track("mp2", beep(48_000, 4.0, 1.0 + index), 48_000),
        )
        for index in range(2)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    span, times_s, _ = decode(path)
    assert times_s == sorted(set(times_s))
    # Some at the joint are taken for a little late, and the last for the end of the first.
    assert span.started_over > 60
    source = probe(str(path))
    task = UnitTask("id", str(path), source, 0, 0.0, 4.0, True, True, {}, "unit", 1, 0.1)
    with pytest.raises(MediaError) as caught:
        measure_unit(task)
    assert caught.value.code == "times_start_over"
