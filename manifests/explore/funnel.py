"""From sources to samples in numbers: what came in, what was lost where and why, what is left."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.store.sql import quote_name
from manifests.store.view import query_rows, query_table, stage_names

FAILED_FILES_LISTED = 1000
HISTOGRAM_BINS = 40

_SAMPLED_CLIPS = 100_000
_TAIL_SPANS = 1.0


@dataclasses.dataclass(frozen=True)
class Amount:
    """So many rows, so many seconds."""

    count: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class CodeCount:
    """How often something failed with an error code."""

    code: str
    count: int


@dataclasses.dataclass(frozen=True)
class FailedFile:
    """A source that could not be used; `message` ends with what to do about it."""

    uri: str
    code: str
    message: str
    retryable: bool


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sources or units: all of them, those that were read, and why the others were not."""

    total: Amount
    ok: Amount
    failed: Amount
    failed_by_code: list[CodeCount]


@dataclasses.dataclass(frozen=True)
class GateCount:
    """Clips that a gate rejects: all of them, and those that no other gate rejects."""

    gate: str
    together: Amount
    alone: Amount


@dataclasses.dataclass(frozen=True)
class Cause:
    """Clips that wait for a stage, or for a value that a gate lacks."""

    name: str
    clips: Amount


@dataclasses.dataclass(frozen=True)
class StageCount:
    """How far a stage has come with the clips."""

    stage: str
    ok: int
    not_applicable: int
    failed: int
    unmeasured: int
    failed_by_code: list[CodeCount]


@dataclasses.dataclass(frozen=True)
class SampleCounts:
    """What was packed; `held` samples are made and wait for their shards.

    What is held or failed is counted of kept clips: nobody waits for the others.
    """

    samples: int
    seconds: float
    shards: int
    bytes: int
    held: int
    failed_by_code: list[CodeCount]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A numeric field of a stage's struct over the clips that have it.

    `counts[i]` lie between `edges[i]` and `edges[i + 1]`; what lies further out is in the outermost
    bins. With very many clips a fixed choice of them stands for all.
    """

    column: str
    count: int
    minimum: float
    p5: float
    median: float
    p95: float
    maximum: float
    edges: list[float]
    counts: list[int]


@dataclasses.dataclass(frozen=True)
class Funnel:
    """How a dataset came about, in numbers. `undecided` clips have met no gate yet."""

    sources: Counts
    failed_files: list[FailedFile]
    units: Counts
    clips: Amount
    kept: Amount
    rejected: Amount
    pending: Amount
    undecided: Amount
    rejected_by: list[GateCount]
    pending_on: list[Cause]
    stages: list[StageCount]
    captions: int
    samples: SampleCounts
    distributions: list[Distribution]

    def as_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists, texts and numbers."""
        return dataclasses.asdict(self)


def funnel(connection: duckdb.DuckDBPyConnection) -> Funnel:
    """The funnel of what the connection's selection shows. Lists are sorted."""
    stages = stage_names(connection)
    states = {row["state"]: Amount(row["clips"], row["seconds"]) for row in _by_state(connection)}
    nothing = Amount(0, 0.0)
    return Funnel(
        sources=_counts(connection, "sources", "duration_s"),
        failed_files=_failed_files(connection),
        units=_counts(connection, "units", "decoded_end_s - decoded_start_s"),
        clips=Amount(
            sum(amount.count for amount in states.values()),
            round(math.fsum(amount.seconds for amount in states.values()), 3),
        ),
        kept=states.get("keep", nothing),
        rejected=states.get("reject", nothing),
        pending=states.get("pending", nothing),
        undecided=states.get(None, nothing),
        rejected_by=_rejected_by(connection),
        pending_on=_pending_on(connection),
        stages=_stage_counts(connection, stages),
        captions=query_rows(connection, "SELECT count(*) AS n FROM captions WHERE status = 'ok'")[
            0
        ]["n"],
        samples=_sample_counts(connection),
        distributions=_distributions(connection, stages),
    )


def _seconds(expression: str) -> str:
    # Rounded, since the order in which a sum is formed is not fixed.
    return f"round(coalesce(fsum({expression}), 0), 3)"


_CLIP_SECONDS = _seconds("end_s - start_s")


def _by_state(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    return query_rows(
        connection,
        f"SELECT state, count(*) AS clips, {_CLIP_SECONDS} AS seconds FROM dataset GROUP BY state",
    )


def _counts(connection: duckdb.DuckDBPyConnection, table: str, seconds: str) -> Counts:
    rows = query_rows(
        connection,
        f"""SELECT status, count(*) AS n, {_seconds(seconds)} AS seconds
        FROM {table} GROUP BY status""",
    )
    amounts = {row["status"]: Amount(row["n"], row["seconds"]) for row in rows}
    nothing = Amount(0, 0.0)
    return Counts(
        total=Amount(
            sum(amount.count for amount in amounts.values()),
            round(math.fsum(amount.seconds for amount in amounts.values()), 3),
        ),
        ok=amounts.get("ok", nothing),
        failed=amounts.get("failed", nothing),
        failed_by_code=_by_code(connection, table, "status", "error"),
    )


def _by_code(
    connection: duckdb.DuckDBPyConnection, table: str, status: str, error: str
) -> list[CodeCount]:
    rows = query_rows(
        connection,
        f"""SELECT coalesce({error}.code, 'unknown') AS code, count(*) AS n
        FROM {table} WHERE {status} = 'failed' GROUP BY code ORDER BY n DESC, code""",
    )
    return [CodeCount(row["code"], row["n"]) for row in rows]


def _failed_files(connection: duckdb.DuckDBPyConnection) -> list[FailedFile]:
    rows = query_rows(
        connection,
        f"""SELECT uri, coalesce(error.code, 'unknown') AS code,
            coalesce(error.message, '') AS message, coalesce(error.retryable, false) AS retryable
        FROM sources WHERE status = 'failed' ORDER BY uri LIMIT {FAILED_FILES_LISTED}""",
    )
    return [FailedFile(**row) for row in rows]


def _rejected_by(connection: duckdb.DuckDBPyConnection) -> list[GateCount]:
    rows = query_rows(
        connection,
        f"""SELECT gate, count(*) AS clips, {_CLIP_SECONDS} AS seconds,
            count(*) FILTER (gates = 1) AS alone_clips,
            {_seconds("CASE WHEN gates = 1 THEN end_s - start_s ELSE 0 END")} AS alone_seconds
        FROM (
            SELECT start_s, end_s, len(rejected_by) AS gates, unnest(rejected_by) AS gate
            FROM dataset WHERE state = 'reject'
        ) GROUP BY gate ORDER BY clips DESC, gate""",
    )
    return [
        GateCount(
            row["gate"],
            Amount(row["clips"], row["seconds"]),
            Amount(row["alone_clips"], row["alone_seconds"]),
        )
        for row in rows
    ]


def _pending_on(connection: duckdb.DuckDBPyConnection) -> list[Cause]:
    rows = query_rows(
        connection,
        f"""SELECT cause, count(*) AS clips, {_CLIP_SECONDS} AS seconds FROM (
            SELECT start_s, end_s, unnest(pending_on) AS cause
            FROM dataset WHERE state = 'pending'
        ) GROUP BY cause ORDER BY clips DESC, cause""",
    )
    return [Cause(row["cause"], Amount(row["clips"], row["seconds"])) for row in rows]


def _stage_counts(connection: duckdb.DuckDBPyConnection, stages: list[str]) -> list[StageCount]:
    if not stages:
        return []
    # One pass over the clips, however many stages there are.
    counted = ", ".join(
        f"count(*) FILTER ({quote_name(stage)}.status = '{status}')"
        for stage in stages
        for status in ("ok", "not_applicable", "failed")
    )
    rows = connection.execute(f"SELECT count(*), {counted} FROM clips").fetchall()
    clips, counts = rows[0][0], iter(rows[0][1:])
    found = []
    for stage in stages:
        ok, not_applicable, failed = next(counts), next(counts), next(counts)
        name = quote_name(stage)
        codes = _by_code(connection, "clips", f"{name}.status", f"{name}.error") if failed else []
        missing = clips - ok - not_applicable - failed
        found.append(StageCount(stage, ok, not_applicable, failed, missing, codes))
    return found


_OF_KEPT = "(SELECT sample FROM dataset WHERE state = 'keep')"


def _sample_counts(connection: duckdb.DuckDBPyConnection) -> SampleCounts:
    seconds = _seconds("coalesce(frames / fps, audio_samples / audio_rate_hz)")
    row = query_rows(
        connection,
        f"""SELECT count(*) AS samples, {seconds} AS seconds,
            count(DISTINCT shard) AS shards, coalesce(sum(bytes), 0)::BIGINT AS bytes,
            (SELECT count(*) FROM {_OF_KEPT} WHERE sample.status = 'held') AS held
        FROM samples WHERE status = 'ok'""",
    )[0]
    failed = _by_code(connection, _OF_KEPT, "sample.status", "sample.error")
    return SampleCounts(**row, failed_by_code=failed)


def _distributions(connection: duckdb.DuckDBPyConnection, stages: list[str]) -> list[Distribution]:
    clips = query_rows(connection, "SELECT count(*) AS n FROM clips")[0]["n"]
    schema = query_table(connection, "SELECT * FROM clips LIMIT 0").schema
    fields = [
        (f"{stage}.{field.name}", f"{quote_name(stage)}.{quote_name(field.name)}")
        for stage in stages
        for field in schema.field(stage).type
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]
    if not fields or not clips:
        return []
    selected = ", ".join(f"{sql}::DOUBLE AS {quote_name(name)}" for name, sql in fields)
    one_in = -(-clips // _SAMPLED_CLIPS)
    connection.abort()
    # Not by Arrow, whose way to NumPy loads pandas where it is installed.
    values = connection.execute(
        f"SELECT {selected} FROM clips WHERE hash(clip_id) % {one_in} = 0"
    ).fetchnumpy()
    found = []
    for name, _ in fields:
        column = np.ma.compressed(values[name])
        finite = column[np.isfinite(column)]
        if finite.size:
            found.append(_distribution(name, finite))
    return found


def _distribution(name: str, values: npt.NDArray[np.float64]) -> Distribution:
    minimum, p5, median, p95, maximum = (
        float(value) for value in np.percentile(values, [0, 5, 50, 95, 100])
    )
    low, high = _drawn_range(minimum, p5, p95, maximum)
    counts, edges = np.histogram(np.clip(values, low, high), HISTOGRAM_BINS, (low, high))
    return Distribution(
        column=name,
        count=int(values.size),
        minimum=minimum,
        p5=p5,
        median=median,
        p95=p95,
        maximum=maximum,
        edges=[float(edge) for edge in edges],
        counts=[int(count) for count in counts],
    )


def _drawn_range(minimum: float, p5: float, p95: float, maximum: float) -> tuple[float, float]:
    """From the least to the largest value, but not far beyond where nearly all lie."""
    span = p95 - p5
    low = max(minimum, p5 - _TAIL_SPANS * span) if span > 0 else minimum
    high = min(maximum, p95 + _TAIL_SPANS * span) if span > 0 else maximum
    if high > low:
        return low, high
    margin = max(abs(low) * 0.05, 0.5)
    return low - margin, high + margin
