"""What a cluster can do to a job: nodes and results that go away."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from curation.engine.pool import Pool


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A cluster's address, and what takes one of its nodes away."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address, lambda: cluster.remove_node(node, allow_graceful=False)
    finally:
        cluster.shutdown()


def lose_results(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Have the first results be gone when they are fetched, as with a node that held them.

    Ray has no call that loses an object, so its error is raised in the place of `ray.get`.
    """
    wait, get = Pool.wait, ray.get
    lost: list[Any] = []

    def losing_wait(pool: Pool, running: Collection[Any], *others: Pool) -> list[Any]:
        done = wait(pool, running, *others)
        lost.extend(done[: count - len(lost)])
        return done

    def losing_get(reference: Any) -> Any:
        if reference in lost:
            raise ray.exceptions.ObjectLostError(reference.hex(), None, "")
        return get(reference)

    monkeypatch.setattr(Pool, "wait", losing_wait)
    monkeypatch.setattr(ray, "get", losing_get)
    return lost
