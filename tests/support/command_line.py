"""Running the command `twinreel` in tests, and small files to run it on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from curation.cli.main import main
from curation.demo_bucket import Shape, VideoFormat, scenery_clip

SMALL = Shape(320, 180, 24, 5.2, video=VideoFormat(options={"preset": "ultrafast"}))
"""A little longer than one window: a clip that is kept, and a remainder."""
SMALL_SAMPLES = ("--set", "pack.area_px=57600", "--set", "pack.preset=ultrafast")


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command printed, and the code it ended with."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """The one error message; there must be nothing else."""
        assert "Traceback" not in self.out + self.err, self.err
        assert self.out == "", self.out
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.strip()


def twinreel(*arguments: str | Path) -> Finished:
    """The command in this process: for what needs no Ray."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["twinreel", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Finished(code, out.getvalue(), err.getvalue())


def start_process(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[str]:
    """The command in a process of its own, in a group of its own, perhaps in a given folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "twinreel", *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def twinreel_process(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """The command in a process of its own, to its end."""
    with start_process(*arguments, environment=environment, folder=folder) as process:
        # A job that hangs must not stop the tests for good; a busy machine is no hang.
        out, err = process.communicate(timeout=900)
    return Finished(process.returncode, out, err)


def render_small(path: Path, seed: int = 0, *, sound: bool = True) -> Path:
    """A clip of 5.2 s that the quickstart gates keep if it has sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scenery_clip(path, seed=seed, shape=SMALL, audio="room" if sound else None)
    return path
