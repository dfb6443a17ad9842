"""Our packages in a zip, for machines that have only what they depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from ray import cloudpickle

from curation.engine import travel
from curation.engine.worker import Worker

ROOT = Path(__file__).parents[3]
MACHINE = """
import json, pickle, sys
sys.path.append(sys.argv[1])
kind, arguments = pickle.load(sys.stdin.buffer)
worker = kind(arguments)
import curation.engine.worker, stages.media.probe
place, error = worker.run("inspect:getfile", stages.media.probe.probe, "a task")
print(json.dumps([curation.engine.worker.__file__, place or str(error)]))
"""
"""Another machine: without `site` it has its packages, and no checkout that is installed there."""


def on_another_machine(sent: bytes, temporary: Path) -> list[Path]:
    """Where a worker, and the decoding process that it starts, have our packages from."""
    finished = subprocess.run(
        [sys.executable, "-P", "-S", "-c", MACHINE, sysconfig.get_path("purelib")],
        input=sent, capture_output=True, check=False, cwd=temporary,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr.decode()
    return [Path(file) for file in json.loads(finished.stdout)]


def test_a_worker_runs_tasks_from_the_zip_and_unpacks_again_what_was_cleaned_away(
    tmp_path: Path,
) -> None:
    packed = travel._packed()
    sent = cloudpickle.dumps(  # type: ignore[no-untyped-call]
        (travel.hosted(Worker, packed), travel.arguments_of(60.0, 4000, 0))
    )
    worker, probe = on_another_machine(sent, tmp_path)
    first = worker.parents[2]
    assert first.is_relative_to(tmp_path) and probe == first / "stages/media/probe.py"
    assert on_another_machine(sent, tmp_path)[0].parents[2] == first

    probe.unlink()
    worker, probe = on_another_machine(sent, tmp_path)
    again = worker.parents[2]
    assert again.is_relative_to(tmp_path) and again != first
    assert probe == again / "stages/media/probe.py"
