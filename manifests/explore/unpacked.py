"""Clips that are in no shard: failed, waiting, not packed or not decided yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import duckdb

from manifests.explore.funnel import CodeCount
from manifests.store.sql import quote_text
from manifests.store.view import packed_windows, query_rows

HELD = "shard_held"
"""The code of a sample that is made and waits for its shard."""
_LISTED = 1000


@dataclasses.dataclass(frozen=True)
class UnpackedClip:
    """A kept clip whose sample failed, or is made and waits for its shard."""

    clip_id: str
    uri: str
    code: str
    message: str
    retryable: bool


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """Kept clips that ought to be in a shard and are not.

    `clips` are the first thousand by code; `for_now` and `for_good` count failures by whether the
    next run tries them again; `held` samples are made and wait for such a one; `not_yet` clips have
    met no packing since they are kept. `undecided` clips have not met the current gates, and
    `pending` ones wait for a measurement: either may come to be kept.
    """

    clips: list[UnpackedClip]
    for_now: list[CodeCount]
    for_good: list[CodeCount]
    held: int
    not_yet: int
    undecided: int
    pending: int

    @property
    def total(self) -> int:
        """How many clips failed or wait, whether they are among `clips` or not."""
        return self.held + sum(code.count for code in (*self.for_now, *self.for_good))


def to_be_packed(windows: Sequence[str]) -> str:
    """The condition on `dataset` under which a clip is packed, see `Selection.packed_windows`."""
    listed = ", ".join(map(quote_text, windows))
    return f"state = 'keep' AND \"window\" IN ({listed})"


def unpacked(connection: duckdb.DuckDBPyConnection) -> Unpacked:
    """What of the kept clips, and of those that may come to be kept, is in no shard."""
    without = f"""FROM dataset WHERE {to_be_packed(packed_windows(connection))}
        AND (sample IS NULL OR sample.status <> 'ok')"""
    counts = query_rows(
        connection,
        f"""SELECT sample.status AS status, coalesce(sample.error.code, 'unknown') AS code,
            coalesce(sample.error.retryable, false) AS retryable, count(*) AS n
        {without} GROUP BY ALL ORDER BY n DESC, code""",
    )
    listed = query_rows(
        connection,
        f"""SELECT clip_id, uri,
            CASE sample.status WHEN 'held' THEN '{HELD}'
                ELSE coalesce(sample.error.code, 'unknown') END AS code,
            CASE sample.status WHEN 'held'
                THEN 'It is made and waits for its shard. Run `twinreel curate` again.'
                ELSE coalesce(sample.error.message, '') END AS message,
            sample.status = 'held' OR coalesce(sample.error.retryable, false) AS retryable
        {without} AND sample IS NOT NULL ORDER BY code, uri, clip_id LIMIT {_LISTED}""",
    )
    states = query_rows(
        connection,
        """SELECT count(*) FILTER (state IS NULL) AS undecided,
            count(*) FILTER (state = 'pending') AS pending FROM dataset""",
    )[0]
    failed = [row for row in counts if row["status"] == "failed"]
    return Unpacked(
        clips=[UnpackedClip(**row) for row in listed],
        for_now=[CodeCount(row["code"], row["n"]) for row in failed if row["retryable"]],
        for_good=[CodeCount(row["code"], row["n"]) for row in failed if not row["retryable"]],
        held=sum(row["n"] for row in counts if row["status"] == "held"),
        not_yet=sum(row["n"] for row in counts if row["status"] is None),
        **states,
    )
