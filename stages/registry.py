"""Every stage there is, by name: the built-in ones, and those that other packages bring.

A new built-in stage is one file and one line here. A stage of a package of one's own is that
package's file, and one line that names its class in the package's `pyproject.toml`:

    [project.entry-points."twinreel.stages"]
    hum = "my_package.hum:HumStage"
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from manifests.errors import UsageError
from manifests.store.records import (
    TABLES,
    ClipRow,
    SourceRow,
    StageMark,
    arrow_schema,
    struct_type,
)
from manifests.store.selection import UNIT_KEY, SideTable
from stages.audio.audio_class import AudioClassStage
from stages.audio.audio_quality import AudioQualityStage
from stages.audio.loudness import LoudnessStage
from stages.audio.speech import SpeechStage
from stages.audio.transcript import TranscriptStage
from stages.base.backends import Backend
from stages.base.contract import ClipStage, SignalStage, Stage, StageParameters
from stages.joint.sync.stage import SyncStage
from stages.video.aesthetic import AestheticStage
from stages.video.faces.stage import FacesStage
from stages.video.motion.stage import MotionStage
from stages.video.picture import PictureStage
from stages.video.shots.stage import ShotsStage
from stages.weights.catalogue import CATALOGUE

ENTRY_POINT_GROUP = "twinreel.stages"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED_COLUMNS = {
    *arrow_schema(ClipRow).names,
    *arrow_schema(SourceRow).names,
    *("state", "rejected_by", "pending_on", "mix", "caption", "sample"),
}
"""Columns of the view `dataset` beside the stages' structs."""
_RESERVED_TABLES = {*TABLES, "signals", "clips", "dataset"}
_BUILT_IN_STAGES: tuple[type[Stage[Any]], ...] = (
    ShotsStage,
    PictureStage,
    MotionStage,
    FacesStage,
    LoudnessStage,
    SpeechStage,
    # Clips are looked at in this order: what costs least for what it rejects comes first.
    AestheticStage,
    SyncStage,
    AudioClassStage,
    AudioQualityStage,
    TranscriptStage,
)


def stages_of_other_packages() -> Iterator[type[Stage[Any]]]:
    """The stages that installed packages name as entry points, in the order of their names.

    Raises:
        UsageError: `bad_stage`: one cannot be imported, is no stage, or has a name that is taken.
    """
    taken = {stage.name for stage in _BUILT_IN_STAGES} | _RESERVED_COLUMNS
    tables = {table for stage in _BUILT_IN_STAGES for table in stage.side_tables} | _RESERVED_TABLES
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        try:
            stage = point.load()
        except Exception as error:  # importing runs whatever the module holds
            raise _bad_stage(point, f"{type(error).__name__}: {error}") from error
        if not (isinstance(stage, type) and issubclass(stage, SignalStage | ClipStage)):
            raise _bad_stage(point, "it is no class that derives from SignalStage or ClipStage")
        if not _NAME.fullmatch(stage.name) or stage.name in taken:
            raise _bad_stage(point, f"its name {stage.name!r} is taken, or not in snake_case")
        if not tables.isdisjoint(stage.side_tables):
            raise _bad_stage(point, f"one of its tables {sorted(stage.side_tables)} is taken")
        taken.add(stage.name)
        tables.update(stage.side_tables)
        yield stage


def _bad_stage(point: importlib.metadata.EntryPoint, why: str) -> UsageError:
    package = point.dist.name if point.dist is not None else "an unknown package"
    return UsageError(
        "bad_stage",
        f"The stage {point.value} of the package {package} cannot be used ({why}).",
        subject=f"entry point {point.name}",
        remedy=f"Mend or uninstall {package}.",
        retryable=True,
    )


STAGES: dict[str, type[Stage[Any]]] = {
    stage.name: stage for stage in (*_BUILT_IN_STAGES, *stages_of_other_packages())
}
SIGNAL_STAGES: dict[str, type[SignalStage[Any]]] = {
    name: stage for name, stage in STAGES.items() if issubclass(stage, SignalStage)
}
CLIP_STAGES: dict[str, type[ClipStage[Any]]] = {
    name: stage for name, stage in STAGES.items() if issubclass(stage, ClipStage)
}
SIDE_TABLES: dict[str, SideTable] = {
    table: SideTable(name, stage.side_key)
    for name, stage in STAGES.items()
    for table in stage.side_tables
}
"""Tables that stages write many rows a unit or a clip to."""
UNIT_SIDE_TABLES = tuple(name for name, side in SIDE_TABLES.items() if side.key == UNIT_KEY)


def build_signal_stage(
    name: str, parameters: Mapping[str, Any], backend: Backend | None = None
) -> SignalStage[StageParameters]:
    """The signal stage of that name with its parameters validated; see `build_clip_stage`."""
    stage = SIGNAL_STAGES.get(name)
    if stage is None:
        raise _not_here(name)
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
        UsageError: `missing_package`: it is not known here.
        KeyError: it is a signal stage without such a model.
    """
    if name in SIGNAL_STAGES:
        model_stage = build_signal_stage(name, parameters, backend).model_stage()
        if model_stage is None:
            raise KeyError(name)
        return model_stage
    stage = CLIP_STAGES.get(name)
    if stage is None:
        raise _not_here(name)
    return stage(stage.Parameters.model_validate(parameters), backend)


def _not_here(name: str) -> UsageError:
    """The error of a worker for a stage that the job knows and its own node does not."""
    return UsageError(
        "missing_package",
        f"The package that brings the stage '{name}' is not installed here.",
        subject=f"stages.{name}",
        remedy="Install it on every node.",
        retryable=True,
    )


def clips_schema() -> pa.Schema:
    """Schema of the table `clips`: the clip's own columns, then one struct per stage."""
    structs = [
        pa.field(name, struct_type(stage.Record, StageMark)) for name, stage in STAGES.items()
    ]
    return pa.schema([*arrow_schema(ClipRow), *structs])


def side_table_schemas() -> dict[str, pa.Schema]:
    """Schemas of the side tables: the columns of the key, the row's own, and `fingerprint`."""
    clip_columns = arrow_schema(ClipRow)
    return {
        table: pa.schema(
            [
                *(clip_columns.field(column) for column in stage.side_key),
                *arrow_schema(record),
                pa.field("fingerprint", pa.string()),
            ]
        )
        for stage in STAGES.values()
        for table, record in stage.side_tables.items()
    }


def weights_users(name: str) -> tuple[str, ...]:
    """What loads a set of `stages.weights.catalogue`.

    Backends as `stage:backend`, parts of a training recipe as `key:kind`.
    """
    backends = tuple(
        f"{stage.name}:{backend.name}"
        for stage in STAGES.values()
        for backend in stage.backends
        if name in backend.weights
    )
    return backends + CATALOGUE[name].recipe_parts
