"""Starting a run's ranks: in this process, by torchrun's own launcher, or under a torchrun.

As a script it is one of the ranks that torchrun's launcher starts: `python ... FOLDER`.
"""

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
from manifests.process import die_with_parent
from training.train import TrainingRun, train
from twinreel import _names

_RUN = "run.pickle"


def launch(run: TrainingRun, ranks: int) -> None:
    """Train on `ranks` processes of this machine.

    Under torchrun (which several machines need) each of its processes calls this and is one rank,
    whatever `ranks` says.

    Raises:
        TwinreelError: what stopped the run, from the rank that failed first; `rank_failed` if that
            rank raised no typed error.
    """
    if "RANK" in os.environ or ranks == 1:
        train(run)
        return
    # The rank's own error says more than its report of it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
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
        run_id="twinreel",
    )
    with tempfile.TemporaryDirectory(prefix="twinreel-ranks-") as folder:
        with (Path(folder) / _RUN).open("wb") as file:
            pickle.dump(sys.path, file)
            pickle.dump(run, file)
        # `-P`: whatever modules lie in the folder that the run is started in.
        command = ("-P", _names.__file__, "training.launch", folder)
        try:
            elastic_launch(configuration, sys.executable)(*command)
        except SignalException as stop:
            raise KeyboardInterrupt from stop
        except ChildFailedError as error:
            raise _first_error(Path(folder), error) from error


def _rank(folder: Path) -> None:
    """One rank; a typed error is left in a file for the process that started it."""
    # It has a session of its own, and would go on where the process that started it is killed.
    die_with_parent(os.getppid())
    with (folder / _RUN).open("rb") as file:
        sys.path[:] = pickle.load(file)
        run: TrainingRun = pickle.load(file)
    # What the first rank logs belongs to what the command shows.
    logging.getLogger("training").addHandler(logging.StreamHandler())
    logging.getLogger("training").setLevel(logging.INFO)
    try:
        train(run)
    except TwinreelError as error:
        partial = folder / f"{os.environ['RANK']}.partial"
        partial.write_bytes(pickle.dumps(error))
        partial.rename(partial.with_suffix(".error"))
        sys.stdout.flush()
        sys.stderr.flush()
        # Other ranks wait in a collective that this one will never join: no tidying up together.
        os._exit(1)
    except Exception:
        if any(folder.glob("*.error")):
            # The rank that failed first closed its connections, and has said why.
            os._exit(1)
        raise


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


if __name__ == "__main__":
    _rank(Path(sys.argv[1]))
