"""What placing sound by counting samples changes, against placing every block by its own time.

    python -m benchmarks.sound FILE_OR_FOLDER... [--out benchmarks/results/sound.md]

Per file with sound: joints (blocks whose rounded time does not continue the one before), how far
the sound placed by these times lies from FFmpeg's decode in one piece, and how far what Twinreel
reads does, in dB (infinite: equal). A file counts as changed where the two differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from manifests.errors import MediaError
from stages.media.blocks import SourceFormat
from stages.media.decode import read_audio
from stages.media.probe import probe

Samples = npt.NDArray[np.float32]
_HEADING = """# Sound, placed by counting samples and by every block's own time

`python -m benchmarks.sound CLIPS_FOLDER MEDIA_FOLDER --out benchmarks/results/sound.md`

On real clips, 2026-11-21.
Distances are to FFmpeg's decode in one piece; only files whose sound differs are listed.

"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One file: its joints, and the distance of both placements from one piece, in dB."""

    file: str
    container: str
    codec: str
    joints: int
    blocks: int
    by_times_db: float
    by_count_db: float
    changed: bool


def blocks_of(path: Path, source: SourceFormat) -> Iterator[tuple[float | None, Samples]]:
    """Every block of FFmpeg's decode with its own time, from the container's start on."""
    with av.open(str(path)) as container:
        resampler: av.AudioResampler | None = None
        stream = container.streams[source.audio_index or 0]
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if resampler is None:
                    resampler = av.AudioResampler("fltp", frame.layout.name, frame.sample_rate)
                time_s = None
                if frame.pts is not None and frame.time_base is not None:
                    time_s = float(frame.pts * frame.time_base) - source.container_start_s
                for part in resampler.resample(frame):
                    yield time_s, part.to_ndarray().T


def compare(path: Path) -> Row | None:
    """A file's row; None where it has no sound or cannot be read."""
    try:
        source = probe(str(path))
    except MediaError:
        return None
    if source.audio_index is None or not source.audio_rate_hz:
        return None
    rate_hz = source.audio_rate_hz
    blocks = list(blocks_of(path, source))
    first = round((blocks[0][0] or 0.0) * rate_hz)
    length = first + sum(len(samples) for _, samples in blocks) + rate_hz
    one_piece, by_times = (np.zeros((length, blocks[0][1].shape[1]), np.float32) for _ in range(2))
    position, joints, following = first, 0, first
    for time_s, samples in blocks:
        one_piece[max(0, position) : position + len(samples)] = samples[max(0, -position) :]
        position += len(samples)
        place = following if time_s is None else round(time_s * rate_hz)
        joints += place != following
        kept = samples[max(0, -place) : max(0, length - place)]
        by_times[max(0, place) : max(0, place) + len(kept)] = kept
        following = place + len(samples)
    ours = read_audio(str(path), source, 0.0, length / rate_hz).samples
    return Row(
        path.name,
        source.container,
        source.audio_codec or "",
        joints,
        len(blocks),
        _decibels(by_times, one_piece),
        _decibels(ours, one_piece),
        not np.array_equal(ours, by_times),
    )


def _decibels(samples: Samples, reference: Samples) -> float:
    error = float(np.square(samples - reference, dtype=np.float64).sum())
    power = float(np.square(reference, dtype=np.float64).sum())
    return math.inf if error == 0 else 10 * math.log10(max(power, 1e-20) / error)


def table(rows: list[Row]) -> str:
    """The rows whose sound changed, and how many did."""
    changed = [row for row in rows if row.changed]
    lines = [
        f"{len(rows)} files have sound; that of {len(changed)} changed.",
        "",
        "| file | container | codec | joints / blocks | by times, dB | by count, dB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.file} | {row.container} | {row.codec} | {row.joints} / {row.blocks}"
        f" | {row.by_times_db:.0f} | {row.by_count_db:.0f} |"
        for row in changed
    ]
    return "\n".join(lines)


def main() -> None:
    """Compare every file and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    files = [
        file
        for path in arguments.paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    found = table([row for file in files if (row := compare(file)) is not None])
    print(found)
    if arguments.out:
        arguments.out.write_text(_HEADING + found + "\n")


if __name__ == "__main__":
    main()
