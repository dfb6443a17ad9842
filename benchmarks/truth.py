"""What a job measures of the demo bucket beside what is true of it: the bucket is rendered.

    twinreel demo-bucket RAW
    twinreel curate RAW --out OUT --phase measure --set clip.min_frames=2
    python -m benchmarks.truth RAW OUT

Values of clips are put together for their file, weighted by their length; margins, faces and sync
are those of the longest clip.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from manifests.explore.open import open_view

Row = dict[str, Any]
_SPEED_SHORT_SIDE_PX = 256
"""Speeds are given for pictures of this short side."""
_CUT_TOLERANCE_S = 0.5 / 24 + 0.001


@dataclasses.dataclass(frozen=True)
class Measure:
    """One thing that is both known and measured: how to read either, and how far is too far."""

    name: str
    true: Callable[[Row], Any]
    """From a line of the truth; None where it says nothing."""
    found: Callable[[Row], Any]
    """From a file's measurements."""
    tolerance: float
    unit: str


def _rotation(truth: Row) -> int:
    """Clockwise, as `sources.rotation_deg` has it; the truth counts the other way."""
    return int(-truth["rotation_deg"] % 360)


def _frame_rate(truth: Row) -> float | None:
    """None where frames do not come at a rate of their own."""
    uneven = truth["variable_frame_rate"] or truth["dropped_share"] > 0
    return None if uneven else truth["fps"]


def _frozen(truth: Row) -> float | None:
    return truth["frozen_share"] if truth["modality"] == "video" else None


def _dropped(truth: Row) -> float | None:
    """None of uneven rates: their long intervals lack pictures as far as anybody can tell."""
    even = truth["modality"] == "video" and not truth["variable_frame_rate"]
    return truth["dropped_share"] if even else None


def _margins(value: Row) -> list[int]:
    return [value[side] for side in ("top", "bottom", "left", "right")]


def _speed(truth: Row) -> float | None:
    if truth["pan_px_s"] is None or not truth["has_audio"]:
        return None
    short_side_px = min(truth["width"], truth["height"])
    return float(abs(truth["pan_px_s"]) * _SPEED_SHORT_SIDE_PX / short_side_px)


def _offset(truth: Row) -> float | None:
    return truth["offset_frames"] if truth["sync"] == "synced" else None


def _volume(truth: Row) -> float | None:
    return None if truth["silent"] or not truth["has_audio"] else truth["mean_volume_db"]


MEASURES = (
    Measure("duration", lambda t: t["duration_s"], lambda m: m["duration_s"], 0.05, "s"),
    Measure("frame rate", _frame_rate, lambda m: m["fps"], 0.01, "fps"),
    Measure("rotation", _rotation, lambda m: m["rotation_deg"], 0, "degrees"),
    Measure("mean volume", _volume, lambda m: m["mean_volume_db"], 0.2, "dB"),
    Measure("camera speed of pans", _speed, lambda m: m["camera_px_s"], 3.0, "px/s"),
    Measure("frozen share", _frozen, lambda m: m["frozen_share"], 0.02, ""),
    Measure("dropped share", _dropped, lambda m: m["dropped_share"], 0.02, ""),
    Measure("sync offset", _offset, lambda m: m["offset_frames"], 1.0, "frames"),
)


def read_measured(connection: duckdb.DuckDBPyConnection) -> dict[str, Row]:
    """Per file (its last folder and name) what was measured."""
    rows = connection.sql(
        """SELECT uri, any_value(duration_s) AS duration_s, any_value(fps) AS fps,
            any_value(rotation_deg) AS rotation_deg,
            10 * log10(sum((end_s - start_s) * pow(10, loudness.mean_volume_db / 10))
                / sum(end_s - start_s)) AS mean_volume_db,
            sum((end_s - start_s) * motion.camera_px_s) / sum(end_s - start_s) AS camera_px_s,
            sum((end_s - start_s) * motion.frozen_share) / sum(end_s - start_s) AS frozen_share,
            sum((end_s - start_s) * motion.dropped_share) / sum(end_s - start_s) AS dropped_share,
            arg_max(picture.margins_px, end_s - start_s) AS margins_px,
            arg_max(faces.kind, end_s - start_s) AS face_kind,
            arg_max(sync.offset_frames, end_s - start_s) AS offset_frames,
            arg_max(sync.confidence, end_s - start_s) AS confidence
        FROM dataset GROUP BY uri"""
    ).to_arrow_table()
    return {"/".join(Path(row["uri"]).parts[-2:]): row for row in rows.to_pylist()}


def compare(measure: Measure, truths: Iterable[Row], measured: dict[str, Row]) -> list[str]:
    """One line of the table, then one for every file that is too far off."""
    errors, off = [], []
    for truth in truths:
        true, row = measure.true(truth), measured.get(truth["file"])
        if true is None or row is None:
            continue
        found = measure.found(row)
        error = float("inf") if found is None else abs(found - true)
        errors.append(error)
        if error > measure.tolerance:
            off.append(f"- {measure.name} of {truth['file']}: {found}, true {true}")
    largest = max(errors, default=0.0)
    print(
        f"| {measure.name} | {len(errors)} | {len(errors) - len(off)} within"
        f" {measure.tolerance:g} {measure.unit} | {largest:.3g} {measure.unit} |".replace("  ", " ")
    )
    return off


def compare_equal(
    name: str, pairs: Sequence[tuple[str, Any, Any]], *, tolerance: int = 0
) -> list[str]:
    """As `compare`, for what is right or wrong; lists of numbers may differ by the tolerance."""
    off = []
    for file, true, found in pairs:
        near = (
            all(abs(one - other) <= tolerance for one, other in zip(true, found, strict=True))
            if isinstance(true, list) and isinstance(found, list)
            else true == found
        )
        if not near:
            off.append(f"- {name} of {file}: {found}, true {true}")
    right = f"within {tolerance} px" if tolerance else "right"
    print(f"| {name} | {len(pairs)} | {len(pairs) - len(off)} {right} | |")
    return off


def compare_cuts(connection: duckdb.DuckDBPyConnection, truths: Iterable[Row]) -> list[str]:
    """Cuts of all files that decode, matched within half a frame."""
    rows = connection.sql(
        "SELECT uri, shots.start_s FROM shots JOIN sources USING (source_id) WHERE kind = 'cut'"
    ).fetchall()
    found = {("/".join(Path(uri).parts[-2:]), time_s) for uri, time_s in rows}
    wanted = [(truth["file"], time_s) for truth in truths for time_s in truth["cut_times_s"]]
    off, hits = [], 0
    for file, time_s in wanted:
        near = {one for one in found if one[0] == file and abs(one[1] - time_s) <= _CUT_TOLERANCE_S}
        hits += bool(near)
        found -= near
        if not near:
            off.append(f"- cut of {file} at {time_s:g} s was missed")
    off += [f"- cut of {file} at {time_s:.3f} s is none" for file, time_s in sorted(found)]
    print(f"| hard cuts | {len(wanted)} | {hits} found, {len(found)} false | |")
    return off


def compare_speech(
    connection: duckdb.DuckDBPyConnection, truths: Iterable[Row]
) -> tuple[float, float]:
    """Seconds of true speech that were found, and found ones that are true, as shares."""
    rows = connection.sql(
        """SELECT uri, speech_segments.start_s, speech_segments.end_s
        FROM speech_segments JOIN sources USING (source_id)"""
    ).fetchall()
    both = true_s = found_s = 0.0
    for truth in truths:
        segments = [
            (start_s, end_s)
            for uri, start_s, end_s in rows
            if "/".join(Path(uri).parts[-2:]) == truth["file"]
        ]
        found_s += sum(end_s - start_s for start_s, end_s in segments)
        true_s += sum(end_s - start_s for start_s, end_s in truth["speech_segments_s"])
        both += sum(
            max(0.0, min(end_s, true_end_s) - max(start_s, true_start_s))
            for start_s, end_s in segments
            for true_start_s, true_end_s in truth["speech_segments_s"]
        )
    return both / true_s, both / found_s


def main() -> None:
    """Print the table, then every file that is off."""
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("out")
    arguments = parser.parse_args()
    truths = [
        truth
        for truth in json.loads((arguments.raw / "truth.json").read_text())["clips"]
        if truth["expected"] == "ok"
    ]
    with open_view(arguments.out) as connection:
        measured = read_measured(connection)
        print("| what | files | right | largest error |\n|---|---|---|---|")
        off = [line for measure in MEASURES for line in compare(measure, truths, measured)]
        seen = [truth for truth in truths if truth["modality"] == "video"]
        off += compare_equal(
            "margins",
            [
                (
                    truth["file"],
                    _margins(truth["margins_px"]),
                    _margins(measured[truth["file"]]["margins_px"]),
                )
                for truth in seen
            ],
            tolerance=2,
        )
        off += compare_equal(
            "person kind",
            [
                (truth["file"], truth["face_kind"], measured[truth["file"]]["face_kind"])
                for truth in seen
            ],
        )
        off += compare_cuts(connection, truths)
        recall, precision = compare_speech(connection, truths)
        print(f"| seconds of speech | | {recall:.1%} found, {precision:.1%} of it true | |")
    print("\n" + "\n".join(off))


if __name__ == "__main__":
    main()
