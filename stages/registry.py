"""Every stage there is, by name. A new stage is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from manifests.store.records import ClipRow, StageMark, arrow_schema, struct_type
from manifests.store.selection import CLIP_KEY, UNIT_KEY, SideTable
from stages.audio.audio_class import AudioClassStage
from stages.audio.audio_quality import AudioQualityStage
from stages.audio.loudness import LoudnessStage
from stages.audio.speech import SpeechStage
from stages.audio.transcript import TranscriptStage
from stages.base.contract import Backend, ClipStage, SignalStage, Stage, StageParameters
from stages.joint.sync.stage import SyncStage
from stages.video.aesthetic import AestheticStage
from stages.video.faces.stage import FacesStage
from stages.video.motion.stage import MotionStage
from stages.video.picture import PictureStage
from stages.video.shots.stage import ShotsStage

SIGNAL_STAGES: dict[str, type[SignalStage[Any]]] = {
    stage.name: stage
    for stage in (ShotsStage, PictureStage, MotionStage, FacesStage, LoudnessStage, SpeechStage)
}
CLIP_STAGES: dict[str, type[ClipStage[Any]]] = {
    stage.name: stage
    for stage in (
        AestheticStage,
        SyncStage,
        AudioClassStage,
        AudioQualityStage,
        TranscriptStage,
    )
}
"""In the order in which clips are looked at: what costs least for what it rejects comes first."""
STAGES: dict[str, type[Stage[Any]]] = {**SIGNAL_STAGES, **CLIP_STAGES}
SIDE_TABLES: dict[str, SideTable] = {
    "shots": SideTable("shots", UNIT_KEY),
    "face_tracks": SideTable("faces", UNIT_KEY),
    "speech_segments": SideTable("speech", UNIT_KEY),
    "words": SideTable("transcript", CLIP_KEY),
}
"""Tables that stages write many rows a unit or a clip to."""
UNIT_SIDE_TABLES = tuple(name for name, side in SIDE_TABLES.items() if side.key == UNIT_KEY)


def build_signal_stage(
    name: str, parameters: Mapping[str, Any], backend: Backend | None = None
) -> SignalStage[StageParameters]:
    """The signal stage of that name with its parameters validated; see `build_clip_stage`."""
    stage = SIGNAL_STAGES[name]
    return stage(stage.Parameters.model_validate(parameters), backend)


def build_clip_stage(
    name: str, parameters: Mapping[str, Any], backend: Backend | None = None
) -> ClipStage[StageParameters]:
    """The clip stage of that name with its parameters validated.

    Args:
        name: the stage's; a signal stage's means the model that completes its record.
        parameters: its settings.
        backend: what the job has resolved it to; resolved here if not given.

    Raises:
        KeyError: there is none, nor a signal stage of that name with such a model.
    """
    if name in SIGNAL_STAGES:
        model_stage = build_signal_stage(name, parameters, backend).model_stage()
        if model_stage is None:
            raise KeyError(name)
        return model_stage
    stage = CLIP_STAGES[name]
    return stage(stage.Parameters.model_validate(parameters), backend)


def clips_schema() -> pa.Schema:
    """Schema of the table `clips`: the clip's own columns, then one struct per stage."""
    structs = [
        pa.field(name, struct_type(stage.Record, StageMark)) for name, stage in STAGES.items()
    ]
    return pa.schema([*arrow_schema(ClipRow), *structs])
