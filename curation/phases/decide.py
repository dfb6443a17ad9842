"""The phase `select`: every clip decided by the gates, as one query. Nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence

from curation.job import Job
from manifests.policy.decide import changed, decide
from manifests.policy.gates import Gate, validate
from manifests.store.selection import Selection
from manifests.store.store import Store
from manifests.store.view import connect


def check_gates(store: Store, selection: Selection, gates: Sequence[Gate]) -> None:
    """Make sure every gate is a scalar expression over columns that exist, before any work.

    Raises:
        UsageError: a gate is not.
    """
    with connect(store, selection) as connection:
        validate(gates, connection)


def select(job: Job) -> None:
    """Decide every clip, and write the decisions that are new or different."""
    gates = job.configuration.gate_list()
    with job.output.connect() as connection:
        validate(gates, connection)
        under = job.resolved.selection.decided_under
        decisions = changed(connection, decide(connection, gates, under))
    job.output.commit({"decisions": decisions})
