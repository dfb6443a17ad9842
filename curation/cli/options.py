"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Folder, file, glob, `s3://` prefix, or a `.txt`, `.csv` or `.parquet` table of URIs"
        " (column `uri`; optional `start_s`, `end_s`; other columns are carried along).",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="`quickstart` (the default; needs no weights), `ovi` (the paper's recipe), `ovi-audio`"
        " or `ovi-audio-5s` (its sound-only data)."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML over the preset.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting over all else, e.g. `clip.frames=97` or"
        " `'gates.loud=loudness.mean_volume_db > -30'`. An empty value removes a gate.",
    ),
]
Missing = Annotated[
    str | None,
    typer.Option(
        help="What to do if weights or packages are missing: `stop` (the default) names them,"
        " `pending` measures the rest and leaves clips pending that need them."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
