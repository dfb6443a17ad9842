"""The phase `annotate`: what needs the whole table. Now: each clip's place in the mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from curation.job import Job
from curation.phases.measured import rows_of
from manifests.errors import UsageError
from manifests.policy.decide import decide
from manifests.policy.gates import Gate, gates_without
from manifests.policy.mix import choose
from manifests.store.records import MixRow

KNOWN_LATER = ("mix", "caption")
"""Columns of `dataset` that are filled in after clips have been decided by all else."""


def annotate(job: Job) -> None:
    """Give every clip that passes all other gates a place in the mix or none; write what changed.

    Raises:
        UsageError: `mix_unreadable`: the mix's expression cannot be worked out.
    """
    mix, fingerprint = job.configuration.mix, job.resolved.selection.mix
    if fingerprint is None:
        return
    with job.output.connect() as connection:
        competing = _competing(connection, job.configuration.gate_list(), mix.by)
    groups: dict[str, str | None] = {row["clip_id"]: row["mix_group"] for row in competing}
    before = {row["clip_id"]: (row["group"], row["chosen"]) for row in competing}
    chosen = choose(
        {clip_id: group for clip_id, group in groups.items() if group is not None},
        mix.shares,
        clips=mix.clips,
        seed=mix.seed,
        incumbents={clip_id for clip_id, (_, had_place) in before.items() if had_place},
    )
    rows = [
        MixRow(clip_id, group, clip_id in chosen, fingerprint)
        for clip_id, group in groups.items()
        if before[clip_id] != (group, clip_id in chosen)
    ]
    job.output.commit({"mix": rows})


def _competing(
    connection: duckdb.DuckDBPyConnection, all_gates: Sequence[Gate], by: str
) -> list[dict[str, Any]]:
    """Clips that everything else keeps, with their group and the place they had.

    A clip whose group can never be known is among them, with none; one that still waits for it is
    not.
    """
    gates = gates_without(connection, all_gates, KNOWN_LATER)
    grouping = Gate("mix.by", f"CASE WHEN ({by}\n) IS NOT NULL THEN true END")
    connection.register("verdicts", decide(connection, gates))
    try:
        connection.register("groupings", decide(connection, [grouping]))
        return rows_of(
            connection,
            f"""SELECT d.clip_id, ({by}\n)::VARCHAR AS mix_group,
                d.mix."group" AS "group", d.mix.chosen AS chosen
            FROM dataset d JOIN verdicts v USING (clip_id) JOIN groupings g USING (clip_id)
            WHERE v.state = 'keep' AND g.state <> 'pending' ORDER BY d.clip_id""",
        )
    except (duckdb.Error, UsageError) as error:
        raise UsageError(
            "mix_unreadable",
            f"The group of a clip cannot be worked out ({str(error).splitlines()[0][:200]}).",
            subject="mix.by",
            remedy="Give a scalar expression over `dataset`, for example faces.kind.",
        ) from error
    finally:
        connection.unregister("verdicts")
        connection.unregister("groupings")
