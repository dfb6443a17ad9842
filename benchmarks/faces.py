"""Faces at a few pictures a second beside the same detector on every picture: cost and agreement.

    TWINREEL_WEIGHTS=FOLDER python -m benchmarks.faces CLIPS > benchmarks/results/faces.md

CLIPS is a folder of videos. Both settings run in turn on the same decoded proxies of every file, on
one thread; what is timed is the stage's own work alone. On every picture the linking follows the
SyncNet reference: a track may miss 25 pictures, and has to be seen in a second's worth of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from manifests.errors import MediaError
from stages.base.signals import Observation, Observer
from stages.media.blocks import Frame
from stages.media.decode import decode_unit
from stages.media.probe import probe
from stages.video.faces.stage import FacesParameters, FacesRecord, FacesStage

FEW = FacesParameters(backend="yunet")
EVERY = FacesParameters(backend="yunet", samples_hz=120, max_missed=25, min_track_samples=25)


@dataclasses.dataclass
class Watch:
    """One setting at work on one file."""

    stage: FacesStage
    observer: Observer
    cpu_s: float = 0.0

    def frame(self, frame: Frame) -> None:
        """Show the next picture, and count the time."""
        started = time.process_time()
        self.observer.frame(frame)
        self.cpu_s += time.process_time() - started


@dataclasses.dataclass(frozen=True)
class Compared:
    """A file by both settings: CPU milliseconds a second, kinds, share of time of equal counts."""

    file: str
    few_ms: float
    every_ms: float
    few_kind: str
    every_kind: str
    equal_counts: float


def compare(path: Path) -> Compared | None:
    """Watch a file with both settings at once; None where there is nothing to see."""
    source = probe(str(path))
    if source.modality != "video" or source.video_index is None:
        return None
    watches = []
    for parameters in (FEW, EVERY):
        stage = FacesStage(parameters)
        watches.append(Watch(stage, stage.observer(source)))

    def show(picture: Frame) -> None:
        # Made once for both, so that neither pays for the other.
        _ = picture.bgr
        for watch in watches:
            watch.frame(picture)

    span = decode_unit(
        str(path), source, -math.inf, math.inf, on_frame=show,
        on_audio=lambda block: None,
    )  # fmt: skip
    assert span.start_s is not None and span.end_s is not None
    seconds = span.end_s - span.start_s
    found = [watch.observer.finish(span.start_s, span.end_s) for watch in watches]
    kinds = []
    for watch, observation in zip(watches, found, strict=True):
        record = watch.stage.summarise(observation.signals, span.start_s, span.end_s, {})
        kinds.append(record.kind if isinstance(record, FacesRecord) else "-")
    grid_s = np.arange(span.start_s + 0.1, span.end_s, 0.2)
    few, every = (_counts(observation, grid_s) for observation in found)
    return Compared(
        path.name,
        1000 * watches[0].cpu_s / seconds,
        1000 * watches[1].cpu_s / seconds,
        *kinds,
        equal_counts=float((few == every).mean()) if len(grid_s) else 1.0,
    )


def _counts(observation: Observation, grid_s: np.ndarray) -> np.ndarray:
    """How many tracks cover every point in time; sampled ones reach half a sample further."""
    counts = np.zeros(len(grid_s), int)
    for row in observation.side_rows["face_tracks"]:
        times_s = row["times_s"]
        reach_s = 0.5 * float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.1
        counts += (grid_s >= times_s[0] - reach_s) & (grid_s <= times_s[-1] + reach_s)
    return counts


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    cv2.setNumThreads(1)
    compared = []
    for path in sorted(parser.parse_args().clips.iterdir()):
        try:
            one = compare(path)
        except MediaError:
            continue
        if one is not None:
            compared.append(one)
    few = statistics.median(one.few_ms for one in compared)
    every = statistics.median(one.every_ms for one in compared)
    equal = sum(one.few_kind == one.every_kind for one in compared)
    counts = statistics.mean(one.equal_counts for one in compared)
    print(
        "# Faces: two pictures a second beside every picture\n\n```\n"
        "TWINREEL_WEIGHTS=FOLDER python -m benchmarks.faces CLIPS\n```\n\n"
        f"{len(compared)} real files with pictures, YuNet on the proxy (short side 288 px), one"
        " thread; CPU time of the stage alone, decoding and conversion to BGR not counted.\n\n"
        "| | two a second | every picture |\n|---|---|---|\n"
        f"| CPU ms a second of video, median | {few:.1f} | {every:.1f} |\n"
        f"| times the cost | 1 | {every / few:.1f} |\n\n"
        f"Equal person kind: {equal} of {len(compared)} files ({equal / len(compared):.0%}). Equal"
        f" number of faces: {counts:.0%} of the time.\n\nWhere they differ:\n"
    )
    for one in compared:
        if one.few_kind != one.every_kind:
            print(f"- {one.file}: {one.few_kind}, on every picture {one.every_kind}")


if __name__ == "__main__":
    main()
