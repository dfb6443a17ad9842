"""Cutting a source into clips, and summing up its signals over each: nothing is decoded here.

Under one segmentation the clips of a source partition its decodable time: full windows, and
remainders that the gate `length` rejects.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic

from manifests.fingerprint import fingerprint
from manifests.store.records import ClipRow, StageMark, to_mapping
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.signals import Signals
from stages.run.silences import cut_at_silences
from stages.run.unit import signals_from_row

SEGMENT_VERSION = 2
_MICROSECONDS = 6


class ClipSettings(pydantic.BaseModel):
    """How clips are cut. The default window is Ovi's: 121 frames at 24 fps, 5.0417 s."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    frames: int = pydantic.Field(121, ge=2, description="length of a window in output frames")
    fps: float = pydantic.Field(24.0, gt=0, description="output frames per second")
    min_frames: int | None = pydantic.Field(
        None, ge=2, description="shortest window worth keeping; the full length if not given"
    )
    multi_shot: bool = pydantic.Field(False, description="let windows run across cuts")
    cut: Literal["windows", "silences"] = pydantic.Field(
        "windows",
        description="windows of one length, or stretches of at most that length that end where it"
        " is quiet",
    )

    @pydantic.model_validator(mode="after")
    def _min_is_not_more(self) -> ClipSettings:
        if self.min_frames is not None and self.min_frames > self.frames:
            raise ValueError("min_frames must not be more than frames")
        return self

    @property
    def window_s(self) -> float:
        """A full window's length in seconds."""
        return self.frames / self.fps

    def fingerprint(self, unit: str, shots: str) -> str:
        """The segmentation: hash of these settings and of what the cuts come from."""
        settings = self.model_dump(mode="json")
        return fingerprint(
            {"version": SEGMENT_VERSION, "settings": settings, "unit": unit, "shots": shots}
        )


@dataclasses.dataclass(frozen=True)
class Shot:
    """A shot of a unit in seconds; index as in the table `shots`."""

    index: int
    start_s: float
    end_s: float


def cut_unit(
    source_id: str,
    unit: Mapping[str, Any],
    shots: Sequence[Shot],
    settings: ClipSettings,
    segmentation: str,
    audio: Signals | None = None,
) -> list[ClipRow]:
    """The clips of one decoded unit, in order, without gaps.

    Args:
        source_id: the unit's source.
        unit: its row of the table `units`, status ok.
        shots: its shots in order; empty for a source without video.
        settings: how to cut.
        segmentation: fingerprint of how it is cut.
        sound: the unit's signals of the stage `loudness`, to cut at silences.
    """
    start_s, end_s = unit["decoded_start_s"], unit["decoded_end_s"]
    if settings.multi_shot or settings.cut == "silences" or not shots:
        stretches = [(start_s, end_s)]
    else:
        stretches = [(max(shot.start_s, start_s), min(shot.end_s, end_s)) for shot in shots]
    clips = []
    for stretch_start_s, stretch_end_s in stretches:
        if settings.cut == "silences":
            edges = cut_at_silences(stretch_start_s, stretch_end_s, settings.window_s, audio)
            spans = _spans(edges)
        else:
            spans = _windows(stretch_start_s, stretch_end_s, settings)
        for clip_start_s, clip_end_s in spans:
            inside = [s.index for s in shots if s.start_s < clip_end_s and s.end_s > clip_start_s]
            clips.append(
                ClipRow(
                    clip_id=clip_id(source_id, clip_start_s, clip_end_s),
                    source_id=source_id,
                    unit_index=unit["unit_index"],
                    segmentation=segmentation,
                    start_s=clip_start_s,
                    end_s=clip_end_s,
                    first_shot=inside[0] if inside else None,
                    last_shot=inside[-1] if inside else None,
                    window=_window_kind(clip_end_s - clip_start_s, settings),
                    damaged_s=_damaged_s(unit["damaged"], clip_start_s, clip_end_s),
                )
            )
    return clips


def clip_id(source_id: str, start_s: float, end_s: float) -> str:
    """The same span of the same source is the same clip, however it came to be cut."""
    return fingerprint([source_id, f"{start_s:.6f}", f"{end_s:.6f}"])


def summarise_clip(
    clip: ClipRow,
    stages: Mapping[str, SignalStage[StageParameters]],
    fingerprints: Mapping[str, str],
    signals_rows: Mapping[str, Mapping[str, Any]],
    side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """The clip's row with one struct per stage, computed from its unit's signals.

    Args:
        clip: the clip.
        stages: signal stages by name.
        fingerprints: theirs, by name.
        signals_rows: the unit's rows of `signals`, by stage.
        side_rows: the unit's rows of the side tables, by table.
    """
    row = to_mapping(clip)
    for name, stage in stages.items():
        measured = signals_rows.get(name)
        if measured is None:
            continue
        status, error, record = measured["status"], measured["error"], None
        if status == "ok":
            signals = signals_from_row(measured)
            record = stage.summarise(signals, clip.start_s, clip.end_s, side_rows)
        row[name] = struct_of(
            stage.Record, record, status, error, measured["backend"], fingerprints[name]
        )
    return row


def signals_record(
    stage: SignalStage[StageParameters],
    start_s: float,
    end_s: float,
    signals_rows: Mapping[str, Mapping[str, Any]],
    side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> object:
    """What a stage's signals alone say of a span, for its model; None where they failed."""
    measured = signals_rows.get(stage.name)
    if measured is None or measured["status"] != "ok":
        return None
    return stage.summarise(signals_from_row(measured), start_s, end_s, side_rows)


def struct_of(
    record_type: type,
    record: object,
    status: str,
    error: Mapping[str, Any] | None,
    backend: str,
    stage_fingerprint: str,
) -> dict[str, Any]:
    """A stage's struct: its record's fields (null unless measured) and its mark."""
    if isinstance(record, NotApplicable):
        status, record = "not_applicable", None
    values = (
        {field.name: None for field in dataclasses.fields(record_type)}
        if record is None
        else to_mapping(record)
    )
    mark = {
        "status": status,
        "error": error,
        "backend": backend,
        "fingerprint": stage_fingerprint,
    }
    assert set(mark) == {field.name for field in dataclasses.fields(StageMark)}
    return values | mark


def _windows(start_s: float, end_s: float, settings: ClipSettings) -> list[tuple[float, float]]:
    """Spans that cover a stretch: full windows, then what remains."""
    # A frame is shown at every output tick of a window that is short by less than half a tick;
    # as little at a stretch's end is no clip of its own either, and goes to the last window.
    slack_s = 0.5 / settings.fps
    count = max(0, int((end_s - start_s + slack_s) // settings.window_s))
    edges = [start_s + index * settings.window_s for index in range(count + 1)]
    if count and abs(end_s - edges[-1]) <= slack_s:
        edges[-1] = end_s
    else:
        edges.append(end_s)
    return _spans(edges)


def _spans(edges: Sequence[float]) -> list[tuple[float, float]]:
    """The spans between edges, to the microsecond; empty ones are left out."""
    # Adding zero turns a rounded -0.0 into 0.0: the same time must be the same text.
    rounded = [round(edge, _MICROSECONDS) + 0.0 for edge in edges]
    return [(a, b) for a, b in itertools.pairwise(rounded) if b > a]


def _window_kind(length_s: float, settings: ClipSettings) -> Literal["full", "short", "remainder"]:
    slack_s = 0.5 / settings.fps
    if length_s > settings.window_s - slack_s:
        return "full"
    least = settings.min_frames or settings.frames
    return "short" if length_s > least / settings.fps - slack_s else "remainder"


def _damaged_s(
    damaged: Sequence[Mapping[str, float]] | None, start_s: float, end_s: float
) -> float:
    overlaps = (min(part["end_s"], end_s) - max(part["start_s"], start_s) for part in damaged or ())
    return float(sum(overlap for overlap in overlaps if overlap > 0))
