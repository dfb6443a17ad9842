"""Offsets and confidences of the stage `sync`, on rendered faces with known truth and on real ones.

    python -m benchmarks.sync CLIPS_FOLDER [--rendered 30] [--out benchmarks/results/sync.md]

Faces come from the stage `faces`, by each of its backends that can be had here (`yunet` needs its
weights in a folder named by TWINREEL_WEIGHTS).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from curation.demo_bucket.clips import Shape, SyncKind, talking_face_clip
from manifests.errors import MediaError, UsageError
from stages.base.clip import ClipTask, NotApplicable
from stages.joint.sync.stage import SyncParameters, SyncRecord, SyncStage
from stages.media.decode import decode_unit
from stages.media.probe import probe
from stages.video.faces.stage import FacesParameters, FacesStage

GATE = 3.0
"""Confidence from which a clip counts as in sync."""

# What is known of the real clips: their offset in frames of 25 fps, None where mouth and sound do
# not belong together. A ridge regression from mouth pixels to sound says so, not a person.
REAL_OFFSETS: dict[str, float | None] = {
    "talking_head_en_grid_f1.mpg": -1,
    "talking_head_en_grid_f2.mpg": -1,
    "talking_head_en_grid_m1.mpg": 0,
    "talking_head_en_grid_m2.mpg": -1,
    "talking_head_retalk_02.mp4": 0,
    "talking_head_vfr_retalk_01.mp4": -2,
    "talking_head_portrait_hevc_01.mp4": 0,
    "talking_head_portrait_hevc_02.mp4": 0,
    "derived_async_audio_late_400ms.mp4": -10,
    "derived_swapped_audio.mp4": None,
    "face_not_talking_music.mp4": None,
    "screen_webcam_60fps_speech.mp4": None,
}
_FPS: tuple[float | None, ...] = (25, 24, 30, None)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One clip measured with the boxes of one face detector; `expected` is None for no sync."""

    clip: str
    faces: str
    expected: float | None
    record: SyncRecord | NotApplicable
    cpu_ms_per_s: float

    def verdict(self, tolerance_frames: float) -> str:
        """`right`, or what went wrong."""
        found = self.record
        if isinstance(found, NotApplicable):
            return "right" if self.expected is None else f"not measured: {found.reason}"
        if self.expected is None:
            return "right" if found.confidence < GATE else "passes the gate"
        if abs(found.offset_frames - self.expected) > tolerance_frames:
            return "wrong offset"
        return "right" if found.confidence >= GATE else "right offset, below the gate"


def face_backends() -> list[FacesStage]:
    """The stage `faces` with every backend that can be had here."""
    stages = []
    for backend in ("haar", "yunet"):
        try:
            stages.append(FacesStage(FacesParameters.model_validate({"backend": backend})))
        except UsageError as error:
            print(f"without {backend}: {error}")
    return stages


def trials(path: Path, expected: float | None, faces: list[FacesStage]) -> Iterator[Trial]:
    """A clip measured with each detector's boxes."""
    uri = str(path)
    source = probe(uri)
    stage = SyncStage(SyncParameters(backend="embedded"))
    for faces_stage in faces:
        observer = faces_stage.observer(source)
        span = decode_unit(
            uri,
            source,
            -math.inf,
            math.inf,
            on_frame=observer.frame,
            on_audio=lambda _: None,
        )
        assert span.start_s is not None and span.end_s is not None
        rows = observer.finish(span.start_s, span.end_s).side_rows
        started_s = time.process_time()
        task = ClipTask(path.stem, uri, source, span.start_s, span.end_s, rows)
        record = stage.measure(task)
        assert isinstance(record, SyncRecord | NotApplicable)
        cpu_ms = (time.process_time() - started_s) * 1e3 / (span.end_s - span.start_s)
        yield Trial(path.name, faces_stage.backend.name, expected, record, cpu_ms)


def rendered(count: int, folder: Path, faces: list[FacesStage]) -> list[Trial]:
    """Drawn faces: two thirds in sync at offsets of -10 to 10, the rest swapped or still."""
    found: list[Trial] = []
    for index in range(count):
        kind: SyncKind = ("synced", "synced", "swapped" if index % 2 else "still")[index % 3]
        # 8 and 21 have no common factor: every offset comes up.
        offset = (index * 8) % 21 - 10 if kind == "synced" else 0
        path = folder / f"{index:02d}_{kind}_{offset:+d}.mp4"
        shape = Shape(width=640, height=360, fps=_FPS[index % len(_FPS)], duration_s=5.6)
        talking_face_clip(path, offset, kind, seed=1000 + index, shape=shape)
        found += trials(path, offset if kind == "synced" else None, faces)
    return found


def real(folder: Path, faces: list[FacesStage]) -> list[Trial]:
    """The real clips that are in the folder."""
    found: list[Trial] = []
    for name, expected in REAL_OFFSETS.items():
        try:
            found += trials(folder / name, expected, faces)
        except MediaError as error:
            print(error)
    return found


def report(name: str, found: list[Trial], tolerance_frames: float) -> str:
    """A table of all trials, then counts by detector."""
    lines = [f"## {name}", ""]
    lines += ["| clip | faces | true offset | offset | confidence | verdict | CPU ms/s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for trial in found:
        record = trial.record
        offset = confidence = "-"
        if isinstance(record, SyncRecord):
            offset, confidence = f"{record.offset_frames:+.1f}", f"{record.confidence:.2f}"
        expected = "none" if trial.expected is None else f"{trial.expected:+g}"
        lines.append(
            f"| {trial.clip} | {trial.faces} | {expected} | {offset} | {confidence} "
            f"| {trial.verdict(tolerance_frames)} | {trial.cpu_ms_per_s:.0f} |"
        )
    lines.append("")
    for faces in sorted({trial.faces for trial in found}):
        ours = [trial for trial in found if trial.faces == faces]
        positive = [trial for trial in ours if trial.expected is not None]
        negative = [trial for trial in ours if trial.expected is None]
        offsets = sum("right" in trial.verdict(tolerance_frames)[:12] for trial in positive)
        passing = sum(trial.verdict(tolerance_frames) == "right" for trial in positive)
        rejected = sum(trial.verdict(tolerance_frames) == "right" for trial in negative)
        lines.append(
            f"- `{faces}`: offset within {tolerance_frames:g} frames {offsets}/{len(positive)}, "
            f"of these at or above the gate {passing}; "
            f"without sync below the gate {rejected}/{len(negative)}"
        )
        lines += [
            f"  - {trial.clip}: {trial.verdict(tolerance_frames)}"
            for trial in ours
            if trial.verdict(tolerance_frames) != "right"
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="folder of the real clips")
    parser.add_argument("--rendered", type=int, default=30, help="how many drawn clips")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sync.md"))
    arguments = parser.parse_args()
    faces = face_backends()
    with tempfile.TemporaryDirectory() as folder:
        drawn = rendered(arguments.rendered, Path(folder), faces)
    text = "\n".join(
        [
            "# Sync without weights",
            "",
            "`python -m benchmarks.sync CLIPS_FOLDER`, on "
            f"{platform.machine()}, Python {platform.python_version()}, one thread. Backend "
            f"`embedded`, gate: confidence >= {GATE:g}. Offsets count frames of 25 fps; positive: "
            "the sound is early. Real clips' true offsets come from a ridge regression of mouth "
            "pixels on the sound, good to about a frame.",
            "",
            report("Rendered", drawn, 1.0),
            report("Real", real(arguments.clips, faces), 2.0),
        ]
    )
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
