"""Starting a run's ranks: in this process, by torchrun's own launcher, or under a torchrun."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from manifests.errors import TwinreelError
from training.train import Job, train


def launch(job: Job, ranks: int) -> None:
    """Train on `ranks` processes of this machine.

    Under torchrun (which several machines need) each of its processes calls this and is one rank,
    whatever `ranks` says.

    Raises:
        TwinreelError: what stopped the run, as the rank met it that failed first; `rank_failed` if
            it had no words for it.
    """
    if "RANK" in os.environ or ranks == 1:
        train(job)
        return
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        # What they have to say of a rank that failed is said better by the rank.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Else each of them would take every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    configuration = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="spawn",
        run_id="twinreel",
    )
    with tempfile.TemporaryDirectory(prefix="twinreel-ranks-") as folder:
        try:
            elastic_launch(configuration, _rank)(job, Path(folder))
        except SignalException as stop:
            raise KeyboardInterrupt from stop
        except ChildFailedError as error:
            raise _first_error(Path(folder), error) from error


def _rank(job: Job, errors: Path) -> None:
    """One rank; an error that has words is left behind for the process that started it."""
    try:
        train(job)
    except TwinreelError as error:
        partial = errors / f"{os.environ['RANK']}.partial"
        partial.write_bytes(pickle.dumps(error))
        partial.rename(partial.with_suffix(".error"))
        sys.stdout.flush()
        sys.stderr.flush()
        # Other ranks wait in a collective that this one will never join: no tidying up together.
        os._exit(1)


def _first_error(folder: Path, failure: ChildFailedError) -> TwinreelError:
    left = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    if left:
        error = pickle.loads(left[0].read_bytes())
        assert isinstance(error, TwinreelError)
        return error
    rank, first = failure.get_first_failure()
    return TwinreelError(
        "rank_failed",
        f"Rank {rank} ended with exit code {first.exitcode}.",
        remedy="What it last printed is above; go on with `--resume`.",
    )
