"""Cuts and person kinds of a measured bucket against labels, every miss named.

    twinreel curate CLIPS --out OUT --phase measure
    python -m benchmarks.accuracy OUT LABELS.csv

LABELS.csv has the columns `file`, `cut_times_s` (`;` between times, `none` for a single shot, empty
where it does not apply) and `n_people`. A cut counts as found within half a frame; fades are not
cuts. A file's label counts all people in it, so its person kind is that of the file taken as one
clip, by the stage's own rule.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import duckdb

from manifests.explore.open import open_view
from stages.video.faces.stage import FacesParameters, person_kind


def kind_of(people: str) -> str:
    """The person kind that a number of people stands for."""
    count = int(people)
    return "none" if count == 0 else "single" if count == 1 else "multi"


def score_cuts(connection: duckdb.DuckDBPyConnection, labels: list[dict[str, str]]) -> None:
    """Print precision, recall and F1 of hard cuts, and each that was missed or made up."""
    found = hits = wanted = 0
    notes = []
    for label in labels:
        if not label["cut_times_s"]:
            continue
        rows = connection.execute(
            """SELECT shots.start_s, sources.fps FROM shots JOIN sources USING (source_id)
            WHERE sources.uri LIKE '%/' || $1 AND kind = 'cut' ORDER BY 1""",
            [label["file"]],
        ).fetchall()
        truth = (
            [float(t) for t in label["cut_times_s"].split(";")]
            if (label["cut_times_s"] != "none")
            else []
        )
        half_frame_s = 0.5 / (rows[0][1] if rows and rows[0][1] else 25.0) + 0.001
        left = [row[0] for row in rows]
        found, wanted = found + len(left), wanted + len(truth)
        for time_s in truth:
            near = [cut for cut in left if abs(cut - time_s) <= half_frame_s]
            if near:
                hits += 1
                left.remove(near[0])
            else:
                notes.append(f"- missed: {label['file']} at {time_s:g} s")
        notes += [f"- false: {label['file']} at {cut:.3f} s" for cut in left]
    precision, recall = hits / max(found, 1), hits / max(wanted, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    print(f"Cuts: {hits} of {wanted} found, {found - hits} false: F1 {f1:.3f}\n")
    print("\n".join(notes))


def score_kinds(connection: duckdb.DuckDBPyConnection, labels: list[dict[str, str]]) -> None:
    """Print how many files have the right person kind, and each that has not."""
    right, notes = 0, []
    rows = connection.execute(
        """SELECT uri, sum(list_sum(faces_with_none)), sum(list_sum(faces_with_one)),
            sum(list_sum(faces_with_several)), any_value(signals.backend)
        FROM signals JOIN sources USING (source_id) WHERE stage = 'faces' AND signals.status = 'ok'
        GROUP BY uri"""
    ).fetchall()
    by_name = {Path(uri).name: _kind(none, one, several) for uri, none, one, several, _ in rows}
    labelled = [row for row in labels if row["n_people"] and row["file"] in by_name]
    for label in labelled:
        kind, truth = by_name[label["file"]], kind_of(label["n_people"])
        right += kind == truth
        if kind != truth:
            notes.append(f"- {label['file']}: {kind}, labelled {truth} ({label['n_people']})")
    print(f"\nPerson kind with `{rows[0][4]}`: {right} of {len(labelled)} files right\n")
    print("\n".join(notes))


def _kind(none: float, one: float, several: float) -> str:
    """The kind of a whole file, by the stage's own rule for clips."""
    total = max(none + one + several, 1.0)
    share = FacesParameters().kind_share
    return person_kind(none / total, one / total, several / total, share)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("labels", type=Path)
    arguments = parser.parse_args()
    with arguments.labels.open() as file:
        labels = list(csv.DictReader(file))
    with open_view(arguments.out) as connection:
        score_cuts(connection, labels)
        score_kinds(connection, labels)


if __name__ == "__main__":
    main()
