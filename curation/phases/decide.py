"""The phase `select`: every clip decided by the gates, as one query. Nothing is decoded."""

from __future__ import annotations

from curation.job import Job
from manifests.policy.decide import changed, decide
from manifests.policy.gates import validate


def select(job: Job) -> None:
    """Decide every clip, and write the decisions that are new or different."""
    gates = job.configuration.gate_list()
    with job.output.connect() as connection:
        validate(gates, connection)
        under = job.resolved.selection.decided_under
        decisions = changed(connection, decide(connection, gates, under))
    job.output.commit({"decisions": decisions})
