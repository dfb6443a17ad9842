"""The commands that read what a job wrote: `inspect`, `verify` and `compact`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from curation.cli.options import AsJson
from curation.cli.printing import print_funnel, print_json, print_rows


def inspect(
    out: Annotated[str, typer.Argument(help="What `twinreel curate` wrote.")],
    sql: Annotated[
        str | None,
        typer.Option(
            help="One SELECT over the view `dataset` (a row per clip) and the tables"
            " `sources`, `units`, `shots`, `signals`, `clips`, `mix`, `decisions`, `captions`,"
            " `samples`, `face_tracks`, `speech_segments`, `words`."
        ),
    ] = None,
    clip: Annotated[str | None, typer.Option(help="Everything known of one clip.")] = None,
    as_json: AsJson = False,
) -> None:
    """The funnel and the distributions, one clip, or any SELECT over the manifests."""
    from curation.cli.opening import open_output  # noqa: PLC0415
    from manifests.explore.funnel import funnel  # noqa: PLC0415
    from manifests.explore.open import find_clip  # noqa: PLC0415
    from manifests.explore.query import run_query  # noqa: PLC0415

    with open_output(out) as connection:
        if sql is not None:
            rows = run_query(connection, sql)
            if as_json:
                print_json(rows.to_pylist())
            else:
                print_rows(rows.column_names, rows.to_pylist())
        elif clip is not None:
            print_json(find_clip(connection, clip))
        elif as_json:
            print_json(dataclasses.asdict(funnel(connection)))
        else:
            print_funnel(funnel(connection), distributions=True)


def verify(
    out: Annotated[str, typer.Argument(help="What `twinreel curate` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Read every kept sample back from its shard: checksum, frames, sound.

    Exit 1 if one is bad, if a kept clip has none since packing it failed, or if clips have not met
    the current gates.
    """
    from curation.cli.inspection import inspect_samples, verification_lines  # noqa: PLC0415

    result, lacking = inspect_samples(out)
    if as_json:
        print_json(
            {
                **dataclasses.asdict(result),
                "unpacked": [dataclasses.asdict(clip) for clip in lacking.clips],
                "unpacked_total": lacking.total,
                "not_packed_yet": lacking.not_yet,
                "undecided": lacking.undecided,
                "pending": lacking.pending,
            }
        )
    else:
        for line in verification_lines(result, lacking):
            typer.echo(line)
    if result.bad or lacking.total or lacking.undecided:
        raise typer.Exit(1)


def compact(out: Annotated[str, typer.Argument(help="What `twinreel curate` wrote.")]) -> None:
    """Fold many small manifest files into few. Changes no result."""
    from curation.cli.inspection import compact_tables  # noqa: PLC0415

    before, after = compact_tables(out)
    typer.echo(f"{before} manifest files folded into {after}")
