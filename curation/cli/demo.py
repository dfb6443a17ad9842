"""The command `demo-bucket`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def demo_bucket(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty or new folder.")],
    seed: Annotated[int, typer.Option(help="Other pictures and sounds, same structure.")] = 0,
) -> None:
    """Render a small raw bucket of real media files whose truth is known (`DIR/truth.json`)."""
    from curation.demo_bucket import render_bucket  # noqa: PLC0415

    truth = render_bucket(directory, seed=seed, processes=os.cpu_count() or 1)
    typer.echo(f"{len(truth.clips)} files in {directory}, their truth in {directory}/truth.json")
