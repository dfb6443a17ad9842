"""The command `encode`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from curation.cli.options import AsJson
from curation.cli.printing import print_json
from curation.cli.training import Assignments, require_training

_ERRORS_SHOWN = 10


def encode(
    out: Annotated[str, typer.Argument(help="What `twinreel curate` wrote.")],
    recipe: Annotated[
        str, typer.Option(help="A recipe's name or a YAML file: whose codecs and text encoder.")
    ],
    set_: Assignments = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Samples of one shape that are encoded at once.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; one for each GPU, or else for each CPU."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's address; a local Ray if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Encode samples and captions once, before training: `train` reads what it finds.

    Run the same command again after anything stopped it or changed: what is there is not encoded
    again. Samples that cannot be encoded are named at the end; they do not change the exit code.
    """
    require_training()
    from curation.encode import run_encode  # noqa: PLC0415 - keeps `--help` quick
    from training.recipe import load_recipe  # noqa: PLC0415

    loaded = load_recipe(recipe, set_ or [])
    found = run_encode(out, loaded, batch=batch, workers=workers, address=address)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    typer.echo(
        f"{found.encoded} latents and texts encoded, {found.there} were there,"
        f" {found.failed} failed: {out}"
    )
    for error in found.errors[:_ERRORS_SHOWN]:
        typer.echo(f"failed: {error}")
