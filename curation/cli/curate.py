"""The commands that work on a bucket: `curate`, `select` and `plan curate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from curation.cli.options import AsJson, Assignments, ConfigFile, Inputs, Missing, Preset
from curation.cli.printing import escape, print_funnel, print_json
from manifests.errors import UsageError
from manifests.store.address import local_uri

if TYPE_CHECKING:
    from curation.curate import Summary


def curate(
    inputs: Inputs,
    out: Annotated[str, typer.Option(help="Folder or `s3://` prefix of the results.")],
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this phase: measure, annotate, select, caption, pack. Can be repeated."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N files.")] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's address; a local Ray if not given.")
    ] = None,
    missing: Missing = None,
    as_json: AsJson = False,
) -> None:
    """Measure, decide, caption and pack a raw bucket.

    Run the same command again after anything stopped it: what is committed is not done again.
    Files that cannot be read are named at the end; they do not change the exit code.
    """
    from curation.config import load_configuration  # noqa: PLC0415 - keeps `--help` quick
    from curation.curate import run_curation  # noqa: PLC0415

    _check_text(inputs)
    configuration = load_configuration(preset, config, _with_missing(set_, missing))
    summary = run_curation(
        inputs, out, configuration, phases=phase or [], limit=limit, address=address
    )
    _print_summary(summary, out, as_json=as_json)


def select(
    out: Annotated[str, typer.Argument(help="What `twinreel curate` wrote.")],
    set_: Assignments = None,
    config: ConfigFile = None,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Decide again, with other gates. Decodes nothing, rewrites no shard.

    The gates become OUT's own: a later `curate` given the same settings goes on from there.
    """
    from curation.curate import other_gates, run_select  # noqa: PLC0415

    configuration = other_gates(out, preset=preset, file=config, assignments=set_ or [])
    _print_summary(run_select(out, configuration), out, as_json=as_json)


def plan_curate(
    inputs: Inputs,
    out: Annotated[str | None, typer.Option(help="Where results are or would be.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    missing: Missing = None,
    as_json: AsJson = False,
) -> None:
    """What `curate` would run, and how much of it is already there. Writes nothing."""
    from curation.config import load_configuration  # noqa: PLC0415
    from curation.phases.plan import plan_curation  # noqa: PLC0415

    configuration = load_configuration(preset, config, _with_missing(set_, missing))
    found = plan_curation(inputs, out, configuration)
    plan = dataclasses.asdict(found)
    if as_json:
        print_json(plan)
        return
    console = Console()
    table = Table("what", "how much", box=None)
    for name, value in plan.items():
        if name not in ("stages", "done_anew"):
            text = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
            table.add_row(name.replace("_", " "), text)
    console.print(table)
    backends = ", ".join(f"{name} ({backend})" for name, backend in plan["stages"].items())
    console.print(f"stages: {backends}")
    for part in found.done_anew:
        console.print(f"anew: {escape(str(part))}", highlight=False, soft_wrap=True)


def _with_missing(assignments: list[str] | None, missing: str | None) -> list[str]:
    return [*(assignments or []), *([f"missing={missing}"] if missing is not None else [])]


def _check_text(inputs: list[str]) -> None:
    """Ray hands the command line on to its processes as text."""
    for given in inputs:
        try:
            given.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                "argument_not_text",
                "The name is not valid UTF-8, which Ray cannot pass on as part of a command.",
                subject=given,
                remedy=f"Write it as {local_uri(Path(given).absolute())}, or give the folder that"
                " it is in.",
            ) from error


def _print_summary(summary: Summary, out: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**dataclasses.asdict(summary), "did_nothing": summary.did_nothing})
        return
    print_funnel(summary.funnel, distributions=False)
    if summary.skipped_files:
        typer.echo(f"{summary.skipped_files} files were passed over as sidecars (by suffix)")
    for note in summary.notes:
        typer.echo(f"note: {note}")
    if summary.did_nothing:
        typer.echo("Everything was already there: nothing decoded, nothing written.")
    else:
        typer.echo(
            f"decoded {summary.decoded_units} units and {summary.decoded_clips} clips,"
            f" wrote {summary.rows_written} rows"
        )
    typer.echo(f"report: {out.rstrip('/')}/report.html")
