"""What a job will do anew that OUT has already, and why: one selection beside another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from manifests.store.selection_file import SavedSelection, StageOrigin
from manifests.store.sql import quote_name, quote_text
from manifests.store.view import query_rows


@dataclasses.dataclass(frozen=True)
class DoneAnew:
    """Rows that OUT has and that a job will not take.

    `what` is a stage, or `sources`, `clips`, `captions`, `samples` or `gates`; `count` is how many
    `rows` (units, clips, ...) are there and not yet done anew.
    """

    what: str
    reasons: list[str]
    count: int
    rows: str

    def __str__(self) -> str:
        rows = self.rows if self.count != 1 else self.rows.removesuffix("s")
        return f"{self.what}: {', '.join(self.reasons)}: {self.count} {rows}"


def done_anew(
    connection: duckdb.DuckDBPyConnection, before: SavedSelection, now: SavedSelection
) -> list[DoneAnew]:
    """What of the results of one job the next one does anew.

    Args:
        connection: from `manifests.store.view.connect`, under the selection of the next one.
        before: what the job resolved to whose results are there.
        now: what the next one does.
    """
    old, new = before.selection, now.selection
    found = [
        *_stages(connection, before, now),
        DoneAnew(
            "sources",
            ["files are probed otherwise"],
            _lacking(connection, "sources_log", "uri", _is(old.probe), _is(new.probe)),
            "files",
        ),
        DoneAnew(
            "clips",
            ["they are cut otherwise; those with other ends are measured anew"],
            _lacking(
                connection,
                "clips_log",
                "clip_id",
                _is(old.segmentation, "segmentation"),
                _is(new.segmentation, "segmentation"),
            ),
            "clips",
        ),
        DoneAnew(
            "captions",
            ["style, model, prompts or what they are made of have changed"],
            _lacking(
                connection,
                "captions_log",
                "clip_id",
                _is_caption(old.caption),
                _is_caption(new.caption),
            ),
            "captions",
        ),
        DoneAnew(
            "samples",
            ["they are packed otherwise"],
            _lacking(
                connection,
                "samples_log",
                "members",
                f"{_is(old.profile, 'profile')} AND status = 'ok'",
                _is(new.profile, "profile"),
            ),
            "samples",
        ),
        DoneAnew(
            "gates",
            [f"{name} has changed" for name in _changed(before.gates, now.gates)],
            _lacking(
                connection,
                "decisions_log",
                "clip_id",
                _is(old.policy, "policy"),
                _is(new.policy, "policy"),
            ),
            "decisions",
        ),
    ]
    return [part for part in found if part.count]


def _stages(
    connection: duckdb.DuckDBPyConnection, before: SavedSelection, now: SavedSelection
) -> Iterator[DoneAnew]:
    signals = query_rows(connection, "SELECT DISTINCT stage FROM signals_log")
    of_units = {row["stage"] for row in signals}
    for stage in sorted(before.origins.keys() & now.origins.keys()):
        old, new = before.selection.stages[stage], now.selection.stages[stage]
        if old == new:
            continue
        reasons = _reasons(before.origins[stage], now.origins[stage])
        if stage in of_units:
            table = f"(FROM signals_log WHERE stage = {quote_text(stage)})"
            count = _lacking(connection, table, "source_id, unit_index", _is(old), _is(new))
            yield DoneAnew(stage, reasons, count, "units")
        else:
            table = (
                f"(SELECT clip_id, {quote_name(stage)}.fingerprint AS fingerprint FROM clips_log)"
            )
            count = _lacking(connection, table, "clip_id", _is(old), _is(new))
            yield DoneAnew(stage, reasons, count, "clips")


def _reasons(before: StageOrigin, now: StageOrigin) -> list[str]:
    """Why a stage's fingerprint is another one."""
    reasons = []
    if before.version != now.version:
        reasons.append(f"version {before.version} -> {now.version}")
    reasons += [
        f"{name} {before.parameters.get(name)} -> {now.parameters.get(name)}"
        for name in _changed(before.parameters, now.parameters)
        if name != "backend"
    ]
    if before.backend != now.backend:
        reasons.append(f"backend {before.backend} -> {now.backend}")
    elif before.weights_sha256 != now.weights_sha256:
        reasons.append(f"other weights of {now.backend}")
    reasons += [
        f"{name}, which it reads, is measured anew" for name in _changed(before.reads, now.reads)
    ]
    return reasons or ["sources are decoded otherwise"]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values are not the same in both."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def _lacking(
    connection: duckdb.DuckDBPyConnection, table: str, key: str, old: str, new: str
) -> int:
    """How many keys have a row under one condition and none under the other."""
    [row] = query_rows(
        connection,
        f"SELECT count(*) AS n FROM (SELECT {key} FROM {table} WHERE {old}"
        f" EXCEPT SELECT {key} FROM {table} WHERE {new})",
    )
    return int(row["n"])


def _is(value: str | None, column: str = "fingerprint") -> str:
    return f"{column} = {quote_text(value)}" if value is not None else "false"


def _is_caption(caption: tuple[str, str] | None) -> str:
    style, fingerprint = caption if caption is not None else (None, None)
    return f"{_is(style, 'style')} AND {_is(fingerprint)}"
