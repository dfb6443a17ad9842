"""Measuring a unit: one decode, watched by every signal stage."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.errors import MediaError, TwinreelError, system_refuses
from manifests.fingerprint import fingerprint
from manifests.store.records import ErrorRecord, Span, UnitRow, arrow_type
from stages.base.contract import SignalStage, StageCall, StageParameters
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import AudioBlock, DecodedSpan, Frame, SourceFormat
from stages.media.decode import decode_unit
from stages.media.heartbeat import beat
from stages.registry import SIGNAL_STAGES, build_signal_stage

UNIT_VERSION = 1
"""Raise whenever decoding or the proxy changes what the stages see."""
UNIT_FAILURE_VERSION = 1
"""Raise whenever a stretch that failed for good may decode: failures are then tried again. With it
goes `curation.resolve.PROBE_VERSION`, for sources that failed as a whole."""


@dataclasses.dataclass(frozen=True)
class UnitTask:
    """One unit to measure, with the stages that lack results for it.

    `start_s` and `end_s` are the plan; the first unit of a span starts wherever its frames do,
    the last ends wherever they end, at `span_end_s` at the latest. `stages` holds the stages by
    name as the job has resolved them, `fingerprint` is the decode's own.
    """

    source_id: str
    uri: str
    source: SourceFormat
    unit_index: int
    start_s: float
    end_s: float
    open_start: bool
    open_end: bool
    stages: Mapping[str, StageCall]
    fingerprint: str
    thread_count: int
    max_damaged_share: float
    span_end_s: float = math.inf


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """What a unit leaves behind: rows by table."""

    unit: UnitRow
    rows: Mapping[str, list[dict[str, Any]]]


def signals_schema() -> pa.Schema:
    """Schema of the table `signals`: one row per source, unit and stage; wide over the series."""
    fields = [
        pa.field("source_id", pa.string()),
        pa.field("unit_index", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("start_s", pa.float64()),
        pa.field("rate_hz", pa.float64()),
        pa.field("bins", pa.int64()),
    ]
    fields += [
        pa.field(series_column(name, series), pa.list_(pa.float32()))
        for name, stage in SIGNAL_STAGES.items()
        for series in stage.series
    ]
    fields += [
        pa.field("status", pa.string()),
        pa.field("error", arrow_type(ErrorRecord)),
        pa.field("backend", pa.string()),
        pa.field("fingerprint", pa.string()),
    ]
    return pa.schema(fields)


def series_column(stage: str, series: str) -> str:
    """The column of `signals` that holds a stage's series."""
    return f"{stage}_{series}"


def signals_from_row(row: Mapping[str, Any]) -> Signals:
    """A stage's signals out of a row of the table `signals`."""
    stage = SIGNAL_STAGES[row["stage"]]
    return Signals(
        row["start_s"],
        row["rate_hz"],
        {
            series: np.asarray(row[series_column(row["stage"], series)], dtype=np.float64)
            for series in stage.series
        },
    )


def measure_unit(task: UnitTask) -> UnitResult:
    """Decode a unit once and return its rows. Runs in the killable child.

    Raises:
        MediaError: the file cannot be opened, nothing decodes, or `corrupt_bitstream` when more of
            it is damaged than the settings allow, `times_start_over` when more of it is out of
            reach.
    """
    watchers = [
        _Watcher(call, task.source)
        for name, call in task.stages.items()
        if _applies(name, task.source)
    ]
    if task.source.audio_index is None and task.source.video_index is None:
        raise MediaError(
            "no_audio",
            "It holds no sound, and only sound is looked at.",
            subject=task.uri,
            remedy="Leave it out, or set decode.media=all.",
        )
    seeing = [watcher for watcher in watchers if watcher.media == "video"]
    hearing = [watcher for watcher in watchers if watcher.media == "audio"]

    def on_frame(frame: Frame) -> None:
        beat()
        for watcher in seeing:
            watcher.frame(frame)

    def on_audio(block: AudioBlock) -> None:
        for watcher in hearing:
            watcher.audio(block)

    span = decode_unit(
        task.uri,
        task.source,
        -math.inf if task.open_start else task.start_s,
        task.span_end_s if task.open_end else task.end_s,
        on_frame=on_frame,
        on_audio=on_audio,
        thread_count=task.thread_count,
    )
    _check_damage(task, span)
    _check_times(task, span)
    rows: dict[str, list[dict[str, Any]]] = {"signals": []}
    for watcher in watchers:
        beat()
        signals_row, side_rows = watcher.rows(task, span)
        rows["signals"].append(signals_row)
        for table, table_rows in side_rows.items():
            rows.setdefault(table, []).extend(table_rows)
    for name in task.stages:
        if not _applies(name, task.source):
            rows["signals"].append(_signals_row(task, name, "not_applicable"))
    return UnitResult(_unit_row(task, span), rows)


def failed_unit(task: UnitTask, error: ErrorRecord) -> UnitRow:
    """The row of a unit that could not be decoded."""
    return UnitRow(
        task.source_id,
        task.unit_index,
        task.start_s,
        task.end_s,
        None,
        None,
        0,
        [],
        "failed",
        error,
        failed_unit_fingerprint(task.fingerprint),
    )


def failed_unit_fingerprint(unit: str) -> str:
    """The fingerprint of units that fail, made from that of units that decode."""
    return fingerprint([unit, UNIT_FAILURE_VERSION])


class _Watcher:
    """A stage's observer, kept from harming the others: what it raises fails its own struct.

    So does a machine that lacks what the job has resolved: no other backend takes its place.
    """

    def __init__(self, call: StageCall, source: SourceFormat) -> None:
        self._name = call.name
        self._error: ErrorRecord | None = None
        self._observer: Observer = self._guard(lambda: _observer(call, source))

    @property
    def media(self) -> str | None:
        """What it watches; None of a stage that is not known here."""
        stage = SIGNAL_STAGES.get(self._name)
        return None if stage is None else stage.media

    def frame(self, frame: Frame) -> None:
        if self._error is None:
            self._guard(lambda: self._observer.frame(frame))

    def audio(self, block: AudioBlock) -> None:
        if self._error is None:
            self._guard(lambda: self._observer.audio(block))

    def rows(
        self, task: UnitTask, span: DecodedSpan
    ) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        assert span.start_s is not None and span.end_s is not None
        observation: Observation | None = None
        if self._error is None:
            start_s, end_s = span.start_s, span.end_s
            observation = self._guard(lambda: self._observer.finish(start_s, end_s))
        if observation is None:
            return _signals_row(task, self._name, "failed", self._error), {}
        row = _signals_row(task, self._name, "ok")
        signals = observation.signals
        row |= {"start_s": signals.start_s, "rate_hz": signals.rate_hz}
        row["bins"] = len(next(iter(signals.series.values())))
        for series, values in signals.series.items():
            row[series_column(self._name, series)] = values.astype(np.float32)
        keys = {
            "source_id": task.source_id,
            "unit_index": task.unit_index,
            "fingerprint": task.stages[self._name].fingerprint,
        }
        sides = {
            table: [{**keys, **side} for side in side_rows]
            for table, side_rows in observation.side_rows.items()
        }
        return row, sides

    def _guard(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
        try:
            return action()
        except TwinreelError as error:
            self._error = ErrorRecord(error.code, error.message, error.retryable)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            self._error = ErrorRecord("unexpected_error", message, system_refuses(error))
        return None


@functools.lru_cache(maxsize=64)
def _stage(call: StageCall) -> SignalStage[StageParameters]:
    """The stage, built once a process."""
    return build_signal_stage(call.name, json.loads(call.parameters), call.backend)


def _observer(call: StageCall, source: SourceFormat) -> Observer:
    stage = _stage(call)
    # Where a model completes the record, it is the model stage that loads the weights.
    if stage.model_stage() is None:
        stage.check_backend()
    return stage.observer(source)


def _applies(name: str, source: SourceFormat) -> bool:
    stage = SIGNAL_STAGES.get(name)
    if stage is None:
        return True  # its watcher says that it is not known here
    present = source.video_index if stage.media == "video" else source.audio_index
    return present is not None


def _check_damage(task: UnitTask, span: DecodedSpan) -> None:
    assert span.start_s is not None and span.end_s is not None
    damaged_s = sum(part.end_s - part.start_s for part in span.damaged)
    share = damaged_s / max(span.end_s - span.start_s, 1e-9)
    if share > task.max_damaged_share:
        raise MediaError(
            "corrupt_bitstream",
            f"{share:.0%} of it follows a decoding error (from {span.damaged[0].start_s:.2f} s).",
            subject=task.uri,
            remedy="Upload it again, or raise decode.max_damaged_share to keep what is sound.",
        )


def _check_times(task: UnitTask, span: DecodedSpan) -> None:
    share = span.started_over / max(1, span.started_over + span.frames)
    if share > task.max_damaged_share:
        raise MediaError(
            "times_start_over",
            f"{share:.0%} of its pictures have times that begin anew: recordings were put behind"
            " each other, and what comes later cannot be told from what came before.",
            subject=task.uri,
            remedy="Give it new times, for example: ffmpeg -i IN -c copy OUT.mkv",
        )


def _unit_row(task: UnitTask, span: DecodedSpan) -> UnitRow:
    return UnitRow(
        task.source_id,
        task.unit_index,
        task.start_s,
        task.end_s,
        span.start_s,
        span.end_s,
        span.frames,
        [Span(part.start_s, part.end_s) for part in span.damaged],
        "ok",
        None,
        task.fingerprint,
    )


def _signals_row(
    task: UnitTask,
    stage: str,
    status: str,
    error: ErrorRecord | None = None,
) -> dict[str, Any]:
    return {
        "source_id": task.source_id,
        "unit_index": task.unit_index,
        "stage": stage,
        "start_s": None,
        "rate_hz": None,
        "bins": None,
        "status": status,
        "error": None if error is None else dataclasses.asdict(error),
        "backend": task.stages[stage].backend.name,
        "fingerprint": task.stages[stage].fingerprint,
    }
