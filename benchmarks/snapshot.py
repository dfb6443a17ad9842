"""How long millions of samples take to begin with: the snapshot, an epoch's order, a place in it.

`python -m benchmarks.snapshot --samples 12000000` makes a table `dataset` of made-up rows (ids and
captions as long as real ones) and measures, each in a process of its own: taking the snapshot, as
the first rank does; and mapping it, ordering an epoch and giving out batches, as every rank does.
Beside it stands what a list of rows in memory takes, on a twelfth of the samples. Reading the
manifests of a real job of this size (the joins behind `dataset`) is not part of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from training.data.order import Epoch, SampleShapes, Shape
from training.data.samples import KeptSample
from training.data.snapshot import open_snapshot, take_snapshot

_TASKS = {"t2av": 0.7, "i2av": 0.3}
_CAPTION_LETTERS = 300
_PLACES = 100


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--part", choices=["take", "rank", "rows"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.part is not None:
        part = {"take": _take, "rank": _rank, "rows": _rows}[options.part]
        print(json.dumps(part(options.folder, options.samples)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder), options.samples)
        print(f"{options.samples:,} samples\n\n| what | seconds | memory of its own then, MB |")
        print("|---|---|---|")
        for part in ("take", "rank", "rows"):
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.snapshot", "--part", part),
                    *("--folder", folder, "--samples", str(options.samples)),
                ],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            for what, seconds, memory_mb in json.loads(done.stdout.splitlines()[-1]):
                print(f"| {what} | {seconds:.3g} | {memory_mb:.0f} |", flush=True)


def _make(folder: Path, samples: int) -> None:
    with duckdb.connect(str(folder / "tables.duckdb")) as connection:
        connection.execute(
            f"""CREATE TABLE dataset AS SELECT md5(i::VARCHAR) AS clip_id,
                CASE WHEN i % 50 = 0 THEN 'held_out' ELSE 'train' END AS split, 'keep' AS state,
                {{text: repeat(md5((i * 7)::VARCHAR), {_CAPTION_LETTERS // 32})}} AS caption,
                {{sample_id: 'ovi-' || left(md5((i * 13)::VARCHAR), 16),
                  shard: 'shards/ovi/' || (i // 300) || '.tar', offset_bytes: (i % 300) * 1000000,
                  bytes: 1000000, sha256: sha256(i::VARCHAR), frames: 121, fps: 24.0,
                  width: CASE i % 3 WHEN 0 THEN 1280 WHEN 1 THEN 720 ELSE 960 END,
                  height: CASE i % 3 WHEN 0 THEN 720 WHEN 1 THEN 1280 ELSE 960 END,
                  audio_rate_hz: 16000, audio_samples: 80667, status: 'ok'}} AS sample
            FROM range({samples}) AS rows(i)"""
        )


def _take(folder: Path, samples: int) -> list[tuple[str, float, float]]:
    del samples
    with duckdb.connect(str(folder / "tables.duckdb"), read_only=True) as connection:
        connection.execute(f"SET temp_directory = '{folder / 'spilled'}'")
        start = time.perf_counter()
        take_snapshot(connection, "/out", file=folder / "dataset.arrow")
        return [("take the snapshot (the first rank)", time.perf_counter() - start, _own_mb())]


def _rank(folder: Path, samples: int) -> list[tuple[str, float, float]]:
    del samples
    found = []
    start = time.perf_counter()
    snapshot = open_snapshot(folder / "dataset.arrow")
    shapes = SampleShapes.of(snapshot.train, _shape_of)
    found.append(("map it, find its shapes (every rank)", time.perf_counter() - start, _own_mb()))
    for number in range(2):
        start = time.perf_counter()
        epoch = Epoch(snapshot.train, shapes, tasks=_TASKS, batch=64, seed=0, number=number)
        epoch[0]
        found.append((f"order epoch {number}", time.perf_counter() - start, _own_mb()))
    start = time.perf_counter()
    for place in range(_PLACES):
        epoch[place * (len(epoch) - 1) // _PLACES]
    seconds = (time.perf_counter() - start) / _PLACES
    found.append(("a batch of 64 anywhere in it", seconds, _own_mb()))
    return found


def _rows(folder: Path, samples: int) -> list[tuple[str, float, float]]:
    part = max(1, samples // 12)
    start = time.perf_counter()
    table = open_snapshot(folder / "dataset.arrow").train.table.slice(0, part)
    rows = [KeptSample(**row) for row in table.drop_columns(["order_key"]).to_pylist()]
    rows.sort(key=lambda row: hash((0, row.sample_id)))
    name = f"for comparison: {len(rows):,} of them as rows in memory, sorted"
    return [(name, time.perf_counter() - start, _own_mb())]


def _shape_of(sample: KeptSample) -> Shape:
    whole = Shape(121, 720, 720, 80_640)
    return dataclasses.replace(
        whole, height=sample.height // 16 * 16, width=sample.width // 16 * 16
    )


def _own_mb() -> float:
    """Memory that is the process's alone now, in MB: not mapped from a file."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines())
    return int(values["RssAnon"].split()[0]) / 1024


if __name__ == "__main__":
    main()
