"""`twinreel encode`: a recipe's latents beside the samples of a curation job."""

from __future__ import annotations

import contextlib

from curation.cli.opening import selection_of
from curation.config import DecodeSettings, EngineSettings
from curation.engine.engine import Engine
from curation.job import open_store
from curation.phases.encode import Encoded, encode
from manifests.store.lease import Lease
from manifests.store.output import Output
from training.data.snapshot import take_snapshot
from training.recipe import Recipe

_MEMORY_MB = 96 << 10
"""Of one process: umT5-XXL alone takes 11 GB, and more where it is loaded."""
_STALL_S = 1800.0
"""Within which weights are loaded and a batch is encoded, on a CPU too."""


def run_encode(
    out: str,
    recipe: Recipe,
    *,
    batch: int = 1,
    workers: int | None = None,
    address: str | None = None,
) -> Encoded:
    """Encode all kept samples, trained on or held out; what OUT holds already is not done again.

    Args:
        out: folder or object-store prefix that `curate` wrote.
        recipe: whose codecs and frozen text encoder.
        batch: samples of one shape that are encoded at once.
        workers: processes; one for each GPU, or else for each CPU, if not given.
        address: a Ray cluster's address.

    Raises:
        UsageError: `missing_package`, `missing_weights` or `bad_weights`; as `selection_of`.
        StorageError: OUT cannot be read or written, or another job has it (`out_busy`).
    """
    saved = selection_of(out)
    storage, store = open_store(out, saved.schemas)
    storage.check_writable()
    engine = Engine(
        EngineSettings(workers=workers, gpus_per_worker=1.0),
        DecodeSettings(memory_mb=_MEMORY_MB, stall_s=_STALL_S),
        address,
    )
    with Lease(storage) as lease, engine:
        output = Output(out, storage, store, lease, saved.selection)
        with contextlib.closing(output):
            with output.connect() as connection:
                snapshot = take_snapshot(connection, out, to_train=False)
            return encode(output, engine, recipe, [snapshot.train, snapshot.held_out], batch=batch)
