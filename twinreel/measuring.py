"""One file measured here and now: no Ray, no OUT."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinreel._names import claim

claim("curation", "stages", "manifests")

import duckdb  # noqa: E402
import pyarrow as pa  # noqa: E402

from curation.engine.child import KillableChild  # noqa: E402
from curation.inputs.file import local_file  # noqa: E402
from curation.phases.measured import source_format  # noqa: E402
from curation.resolve import Resolved, resolve  # noqa: E402
from manifests.errors import TwinreelError, UsageError  # noqa: E402
from manifests.settings import did_you_mean  # noqa: E402
from manifests.store.address import is_address  # noqa: E402
from manifests.store.dataset_views import shown_source_columns  # noqa: E402
from manifests.store.records import (  # noqa: E402
    ClipRow,
    ErrorRecord,
    SourceRow,
    arrow_schema,
    to_mapping,
)
from stages.base.clip import ClipTask  # noqa: E402
from stages.base.signals import Signals  # noqa: E402
from stages.media.blocks import SourceFormat  # noqa: E402
from stages.media.probe import probe  # noqa: E402
from stages.registry import STAGES, UNIT_SIDE_TABLES, clips_schema  # noqa: E402
from stages.run.clip import ClipMeasurement, ClipResult, LoadedStage, measure_clip  # noqa: E402
from stages.run.segment import (  # noqa: E402
    Shot,
    cut_unit,
    signals_record,
    struct_of,
    summarise_clip,
)
from stages.run.unit import UnitResult, UnitTask, measure_unit, signals_from_row  # noqa: E402
from twinreel.jobs import Settings, assignments, configuration_of  # noqa: E402

if TYPE_CHECKING:
    from curation.config import JobConfiguration

Struct = Mapping[str, Any]
"""A stage's record with units in its fields' names, and `status`, `error` and `backend`."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What stages find in one file.

    Attributes:
        uri: the file's.
        source: what the probe found: container, codecs, `duration_s`, size, rates.
        start_s: where decoding began, in the file's time.
        end_s: where it ended.
        whole: by stage, its struct over the whole file; of stages that sum up time series.
        clips: the clips that a job would cut, in order: their columns, and a struct by stage.
        signals: by stage, its time series over the file.
        side_rows: rows of side tables (`shots`, `face_tracks`, `speech_segments`, `words`).
    """

    uri: str
    source: SourceFormat
    start_s: float
    end_s: float
    whole: Mapping[str, Struct]
    clips: Sequence[Mapping[str, Any]]
    signals: Mapping[str, Signals]
    side_rows: Mapping[str, Sequence[Mapping[str, Any]]]

    def __getitem__(self, stage: str) -> Struct:
        """A stage's struct over the whole file."""
        return self.whole[stage]


def measure(
    path: str | PathLike[str],
    *stages: str,
    preset: str | None = None,
    settings: Settings = (),
) -> Measurement:
    """Measure one file, as a job would measure its clips.

    It is decoded in a child process, which a damaged file may crash without harm, and in one piece:
    a job decodes a file of more than `decode.unit_s` in several, so that its tracks and shots may
    end where two of them meet.

    Args:
        path: a file's path or address.
        stages: which; what they read is measured too. All of the preset if none is named.
        preset: `quickstart` if not given.
        settings: settings over it, see `twinreel.curate`.

    Raises:
        MediaError: it cannot be read, or nothing in it decodes.
        UsageError: `unknown_stage`, `not_a_recording`, wrong settings, or `missing_parts`.
    """
    configuration = _configuration(stages, preset, settings)
    resolved = resolve(configuration)
    uri = _uri(fspath(path))
    limits = configuration.decode
    child = KillableChild(stall_s=limits.stall_s, memory_mb=limits.memory_mb)
    with contextlib.closing(child):
        source = _probe(child, uri, configuration)
        unit = child.call(measure_unit, _task(uri, source, resolved), subject=uri)
        return _Measured(uri, source, configuration, resolved, unit, child).all()


def _configuration(
    stages: Collection[str], preset: str | None, settings: Settings
) -> JobConfiguration:
    for name in stages:
        if name not in STAGES:
            raise UsageError(
                "unknown_stage",
                f"There is no stage '{name}'.",
                subject=name,
                remedy=f"{did_you_mean(name, list(STAGES))}Stages are {', '.join(STAGES)}.",
            )
    chosen = assignments(settings)
    if stages:
        wanted = _with_what_they_read({*stages, "shots"})
        chosen += [f"stages.{name}.enabled={str(name in wanted).lower()}" for name in STAGES]
    # Nothing is captioned: whatever model the preset asks for that is not needed.
    return configuration_of(preset, None, [*chosen, "caption.backend=attributes"])


def _with_what_they_read(stages: Collection[str]) -> set[str]:
    read = {read for name in stages for read in STAGES[name].reads}
    return set(stages) if read <= set(stages) else _with_what_they_read({*stages, *read})


def _uri(path: str) -> str:
    if is_address(path):
        return path
    local = Path(path).expanduser()
    file = local_file(local)
    if file.error is not None:
        raise file.error
    if not local.is_file():
        raise UsageError(
            "not_a_file",
            "It is a folder.",
            subject=path,
            remedy="Give one file, or the folder to `twinreel.curate`.",
        )
    return file.uri


def _probe(child: KillableChild, uri: str, configuration: JobConfiguration) -> SourceFormat:
    found = child.call(probe, uri, subject=uri)
    if found.modality == "image":
        raise UsageError(
            "not_a_recording",
            "It is a still image, and stages look at video and audio.",
            subject=uri,
            remedy="Give a video or audio file.",
        )
    return source_format(dataclasses.asdict(found), configuration.decode.media)


def _task(uri: str, source: SourceFormat, resolved: Resolved) -> UnitTask:
    return UnitTask(
        source_id=uri,
        uri=uri,
        source=source,
        unit_index=0,
        start_s=0.0,
        end_s=math.inf,
        open_start=True,
        open_end=True,
        stages={name: resolved.calls[name] for name in resolved.signal_stages},
        fingerprint=resolved.unit,
        thread_count=1,
        max_damaged_share=1.0,
    )


class _Measured:
    """A file that was decoded, on its way to clips with all their structs."""

    def __init__(
        self,
        uri: str,
        source: SourceFormat,
        configuration: JobConfiguration,
        resolved: Resolved,
        unit: UnitResult,
        child: KillableChild,
    ) -> None:
        self._uri, self._source, self._child = uri, source, child
        self._configuration, self._resolved = configuration, resolved
        self._unit = to_mapping(unit.unit)
        self._rows = {row["stage"]: row for row in unit.rows["signals"]}
        self._side_rows: dict[str, list[dict[str, Any]]] = {
            **{table: [] for table in UNIT_SIDE_TABLES},
            **{table: list(rows) for table, rows in unit.rows.items() if table != "signals"},
        }
        self._signals = {
            name: signals_from_row(row) for name, row in self._rows.items() if row["status"] == "ok"
        }

    def all(self) -> Measurement:
        """The measurement."""
        clips = self._cut()
        summed = [self._summed(clip) for clip in clips]
        for name in self._resolved.clip_stages:
            self._look_at(name, clips, summed)
        start_s, end_s = self._unit["decoded_start_s"], self._unit["decoded_end_s"]
        whole = dataclasses.replace(clips[0], start_s=start_s, end_s=end_s)
        structs = self._summed(whole)
        return Measurement(
            self._uri,
            self._source,
            start_s,
            end_s,
            {name: structs[name] for name in self._resolved.summed_stages if name in structs},
            summed,
            self._signals,
            self._side_rows,
        )

    def _cut(self) -> list[ClipRow]:
        shots = [
            Shot(row["shot_index"], row["start_s"], row["end_s"])
            for row in sorted(self._side_rows["shots"], key=lambda row: row["shot_index"])
        ]
        return cut_unit(
            self._uri,
            self._unit,
            shots,
            self._configuration.clip,
            self._resolved.segmentation,
            audio=self._signals.get("loudness"),
        )

    def _summed(self, clip: ClipRow) -> dict[str, Any]:
        stages, fingerprints = self._resolved.summed_stages, self._resolved.fingerprints
        return summarise_clip(clip, stages, fingerprints, self._rows, self._side_rows)

    def _look_at(self, name: str, clips: list[ClipRow], rows: list[dict[str, Any]]) -> None:
        """Add a clip stage's struct to the clips' rows."""
        loaded: list[LoadedStage] = []
        for clip, row in zip(clips, rows, strict=True):
            try:
                row[name] = self._struct(name, clip, row, loaded)
            except TwinreelError as error:
                record = ErrorRecord(error.code, error.message, error.retryable)
                row[name] = self._mark(name, "failed", to_mapping(record))

    def _struct(
        self, name: str, clip: ClipRow, row: dict[str, Any], loaded: list[LoadedStage]
    ) -> Struct:
        stage, call = self._resolved.clip_stages[name], self._resolved.calls[name]
        if not _holds(stage.precondition, row, self._uri, self._source):
            return self._mark(name, "not_applicable")
        signal_stage = self._resolved.signal_stages.get(name)
        seen = None
        if signal_stage is not None:
            seen = signals_record(
                signal_stage, clip.start_s, clip.end_s, self._rows, self._side_rows
            )
        task = ClipTask(
            clip_id=clip.clip_id,
            uri=self._uri,
            source=self._source,
            start_s=clip.start_s,
            end_s=clip.end_s,
            side_rows=self._side_rows,
            structs={read: row[read] for read in stage.reads if row.get(read) is not None},
            signals_record=seen,
        )
        found = self._child.call(measure_clip, ClipMeasurement(call, task), subject=self._uri)
        if not isinstance(found, ClipResult):
            if not loaded:
                loaded.append(LoadedStage(call))
            [inferred] = loaded[0].infer([found.prepared])
            if isinstance(inferred, TwinreelError):
                raise inferred
            found = inferred
        for table, side_rows in found.side_rows.items():
            mine = [{"clip_id": clip.clip_id, **side} for side in side_rows]
            self._side_rows.setdefault(table, []).extend(mine)
        return found.struct

    def _mark(self, name: str, status: str, error: Struct | None = None) -> Struct:
        stage, fingerprint = self._resolved.clip_stages[name], self._resolved.fingerprints[name]
        return struct_of(stage.Record, None, status, error, stage.backend.name, fingerprint)


def _holds(condition: str, row: Mapping[str, Any], uri: str, source: SourceFormat) -> bool:
    """Whether a precondition holds of a clip, as the view `dataset` would say.

    What only a listing knows of a source (size, licence, split, ...) is null.
    """
    clips, sources = clips_schema(), arrow_schema(SourceRow)
    table = pa.Table.from_pylist([dict(row)], schema=clips)
    known = {**to_mapping(source), "uri": uri, "status": "ok"}
    for name, shown in shown_source_columns(sources.names, clips.names).items():
        column = pa.array([known.get(name)], sources.field(name).type)
        table = table.append_column(shown, column)
    with duckdb.connect() as connection:
        connection.register("clip", table)
        [(holds,)] = connection.execute(f"SELECT ({condition})::BOOLEAN FROM clip").fetchall()
    return bool(holds)
