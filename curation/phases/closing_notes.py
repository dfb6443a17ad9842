"""A job's closing notes: what is odd, what failed for now, and what waits for the next run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import duckdb

from curation.config import GateSettings
from curation.phases.measured import rows_of
from curation.resolve import Resolved
from manifests.explore.funnel import CodeCount
from manifests.explore.unpacked import unpacked
from manifests.policy.gate_settings import SPLIT_NAMES
from manifests.store.sql import quote_name, quote_text

_AGAIN = "run the same command again."
_NOT_REJECTED = "state IS DISTINCT FROM 'reject'"
"""Clips that a next run measures and captions."""


def gate_notes(gates: Mapping[str, GateSettings], resolved: Resolved) -> Iterator[str]:
    """Gates that do something else than whoever set them may think."""
    stages = {**resolved.signal_stages, **resolved.clip_stages}
    for name, gate in sorted(gates.items()):
        for stage, backends in (gate.backends or {}).items():
            if stage in stages and stages[stage].backend.name not in backends:
                yield (
                    f"The gate '{name}' speaks of {stage} by {' or '.join(backends) or 'nobody'},"
                    f" this job measures it by {stages[stage].backend.name}: such clips are"
                    f' pending. Give both, as in --set \'gates.{name}={{sql: "{gate.sql}",'
                    f" backends: {{{stage}: [{stages[stage].backend.name}]}}}}'."
                )
        now = [part for part in SPLIT_NAMES.get(name, ()) if part in gates]
        if now:
            yield (
                f"The gate '{name}' is one of your own: the preset's are {' and '.join(now)} now,"
                " and hold beside it."
            )


def bucket_notes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What is odd about the bucket as a whole."""
    notes = []
    row = connection.execute(
        "SELECT count(*), count(audio_codec) FROM sources WHERE status = 'ok'"
    ).fetchall()[0]
    if row[0] and not row[1]:
        notes.append(
            "None of the sources has sound, so nothing can be kept for joint audio-video training;"
            " check that the right files were given."
        )
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (status = 'ok') FROM sources"
    ).fetchall()[0]
    if row[0] and not row[1]:
        notes.append("No file can be read: the codes and messages above say why, file by file.")
    row = connection.execute(
        "SELECT count(state), count(*) FILTER (state = 'keep') FROM dataset"
    ).fetchall()[0]
    if row[0] and not row[1]:
        notes.append("No clip is kept: the funnel shows which gate rejects how much.")
    return notes


def pending_notes(connection: duckdb.DuckDBPyConnection, resolved: Resolved) -> Iterator[str]:
    """How many clips wait for what the next run brings, and how many for something else."""
    coming = [quote_text(name) for name in _coming(resolved)]
    # What is there, measured by a backend that a gate does not speak of, comes in no run.
    there = [
        f"CASE WHEN {quote_name(name)}.status = 'ok' THEN {quote_text(name)} END"
        for name in (*resolved.clip_stages, *resolved.summed_stages)
    ]
    row = rows_of(
        connection,
        f"""SELECT count(*) AS clips, count(*) FILTER (len(list_filter(
                pending_on, lambda cause: cause NOT IN ({", ".join(coming) or "NULL"})
                    OR list_contains([{", ".join(there)}], cause)
            )) > 0) AS stuck FROM dataset WHERE state = 'pending'""",
    )[0]
    if row["stuck"]:
        yield (
            f"{_waiting(row['stuck'])}: what they wait for is in `pending_on`; run"
            " `twinreel curate` again once the backend is there, or change the gate with `twinreel"
            " select`."
        )
    if waiting := row["clips"] - row["stuck"]:
        yield f"{_waiting(waiting)} on what is not measured yet: {_AGAIN}"


def _coming(resolved: Resolved) -> list[str]:
    """What a next run can measure as this one is set up: names as in `pending_on`."""
    stages = {**resolved.signal_stages, **resolved.clip_stages}

    def comes(name: str) -> bool:
        reads = getattr(stages.get(name), "reads", ())
        return name in stages and all(comes(read) for read in reads)

    others = [name for name in ("caption", "mix") if name not in resolved.unavailable]
    return [*(name for name in stages if comes(name)), *others]


def left_for_the_next_run(
    connection: duckdb.DuckDBPyConnection, resolved: Resolved
) -> Iterator[str]:
    """What failed and may pass, and which samples cannot be made at all."""
    of_good_files = "SEMI JOIN (FROM sources WHERE status = 'ok') USING (source_id)"
    yield from _failed(connection, "sources", "file", "could not be read")
    yield from _failed(
        connection, f"units {of_good_files}", "decode segment", "could not be decoded"
    )
    failed_signals = rows_of(
        connection,
        f"""SELECT DISTINCT stage FROM signals {of_good_files}
        WHERE status = 'failed' AND error.retryable ORDER BY stage""",
    )
    for stage in (row["stage"] for row in failed_signals):
        signals = f"(SELECT * FROM signals {of_good_files} WHERE stage = {quote_text(stage)})"
        yield from _failed(
            connection, signals, "decode segment", f"could not be measured by '{stage}'"
        )
    for stage in sorted(resolved.clip_stages):
        yield from _failed(
            connection, _of_clips(stage), "clip", f"could not be measured by '{stage}'"
        )
    yield from _failed(connection, _of_clips("caption"), "clip", "could not be captioned")
    yield from _samples(connection)


def _of_clips(struct: str) -> str:
    name = quote_name(struct)
    return (
        f"(SELECT {name}.status AS status, {name}.error AS error FROM dataset"
        f" WHERE {_NOT_REJECTED})"
    )


def _failed(
    connection: duckdb.DuckDBPyConnection, table: str, what: str, failed: str
) -> Iterator[str]:
    rows = rows_of(
        connection,
        f"""SELECT error.code AS code, count(*) AS count FROM {table}
        WHERE status = 'failed' AND error.retryable GROUP BY ALL ORDER BY ALL""",
    )
    if rows:
        codes = [CodeCount(**row) for row in rows]
        yield f"{_plural(_total(codes), what)} {failed} for now ({_listed(codes)}): {_AGAIN}"


def _samples(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    samples = unpacked(connection)
    if samples.for_now:
        count = _plural(_total(samples.for_now), "sample")
        yield f"{count} could not be packed for now ({_listed(samples.for_now)}): {_AGAIN}"
    if any(code.code == "caption_missing" for code in samples.for_now):
        yield "Clips without a caption are not packed: the phase `caption` writes them."
    if samples.held:
        yield (
            f"{_plural(samples.held, 'finished sample')} must wait for other members of their"
            " shards, once: the next run assembles them."
        )
    if samples.for_good:
        count = _plural(_total(samples.for_good), "kept clip")
        yield (
            f"{count} could not be packed ({_listed(samples.for_good)}): `twinreel verify` names"
            " the files."
        )


def _total(codes: Sequence[CodeCount]) -> int:
    return sum(code.count for code in codes)


def _listed(codes: Sequence[CodeCount]) -> str:
    if len(codes) == 1:
        return codes[0].code
    return ", ".join(f"{code.code} {code.count}" for code in codes)


def _plural(count: int, what: str) -> str:
    ending = "" if count == 1 else "s"
    return f"{count} {what}{ending}"


def _waiting(count: int) -> str:
    return f"{_plural(count, 'clip')} {'is' if count == 1 else 'are'} pending"
