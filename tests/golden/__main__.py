"""Run golden files, of whatever kind and wherever they lie, and print how far off each output is.

    python -m tests.golden FILE...

A line an output: file, output, max|difference| / max|reference|, verdict. Near enough is 1e-4; a
confidence may be 1e-3 off, an offset must be equal. Exits with 1 if any output is not ok, or if
there was none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.golden import audio, lora, ovi_fusion, syncnet, unipc
from tests.golden.files import Check, Checks, Golden

_BY_TENSORS: tuple[tuple[set[str], Callable[[Golden], Checks]], ...] = (
    ({"in.frames_bgr"}, syncnet.check),
    ({"features.in.lip"}, syncnet.check),
    ({"in.waveform", "out.log_mel"}, audio.check_vae),
    ({"in.log_mel", "out.waveform"}, audio.check_vocoder),
    ({"out.base", "out.adapted"}, lora.check),
)


def checks_of(golden: Golden) -> Callable[[Golden], Checks] | None:
    """What runs a file, told by what is in it; None if nothing does."""
    names = set(golden.tensors)
    if {"video_config", "audio_config"} <= set(golden.metadata):
        return ovi_fusion.check
    if any(name.endswith(".sigmas") for name in names):
        return unipc.check
    return next((check for needed, check in _BY_TENSORS if needed <= names), None)


def run(path: Path) -> list[Check]:
    """Every output of a file; what goes wrong on the way is one more that is not ok."""
    done: list[Check] = []
    try:
        golden = Golden.read(path)
        checks = checks_of(golden)
        if checks is None:
            return [Check("-", False, note="unknown kind of golden file")]
        for one in checks(golden):
            done.append(one)
    except Exception as error:
        # One file that cannot be run must not hide the others.
        note = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        done.append(Check("-", False, note=note))
    return done or [Check("-", False, note="no outputs")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line an output; 0 if all are ok."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    ok = True
    for path in parser.parse_args(arguments).files:
        for one in run(path):
            error = "-" if one.error is None else f"{one.error:.2e}"
            verdict = one.note or ("ok" if one.ok else "NOT OK")
            print(f"{path.name}  {one.output}  {error}  {verdict}", flush=True)
            ok = ok and one.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
