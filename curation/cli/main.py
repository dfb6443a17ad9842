"""The command `twinreel`."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from curation.cli import training as cli_training
from curation.cli import weights as cli_weights
from curation.cli.logs import log_to_standard_error
from manifests.errors import TwinreelError, UsageError, one_line
from manifests.store.address import local_uri

app = typer.Typer(
    name="twinreel",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Raw video buckets in, curated WebDataset shards with Parquet manifests out.\n\n"
    "Start with `twinreel demo-bucket raw`, then `twinreel curate raw --out out`, then open"
    " `out/report.html` or ask `twinreel inspect out`.",
)
_INTERRUPTED = 130
plan_app = typer.Typer(no_args_is_help=True, help="What a job would do, before it is paid for.")
app.add_typer(plan_app, name="plan")
app.add_typer(cli_weights.app, name="weights")

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


@app.command()
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


@app.command()
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


@plan_app.command("curate")
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
    from curation.curate import plan_curation  # noqa: PLC0415

    configuration = load_configuration(preset, config, _with_missing(set_, missing))
    found = plan_curation(inputs, out, configuration)
    plan = dataclasses.asdict(found)
    if as_json:
        _print_json(plan)
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
        console.print(f"anew: {_escape(str(part))}", highlight=False, soft_wrap=True)


@app.command()
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
    from curation.cli.inspection import open_output  # noqa: PLC0415
    from manifests.explore.funnel import funnel  # noqa: PLC0415
    from manifests.explore.open import find_clip  # noqa: PLC0415
    from manifests.explore.query import run_query  # noqa: PLC0415

    with open_output(out) as connection:
        if sql is not None:
            rows = run_query(connection, sql)
            if as_json:
                _print_json(rows.to_pylist())
            else:
                _print_rows(rows.column_names, rows.to_pylist())
        elif clip is not None:
            _print_json(find_clip(connection, clip))
        elif as_json:
            _print_json(dataclasses.asdict(funnel(connection)))
        else:
            _print_funnel(funnel(connection), distributions=True)


@app.command()
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
        _print_json(
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


@app.command()
def compact(out: Annotated[str, typer.Argument(help="What `twinreel curate` wrote.")]) -> None:
    """Fold many small manifest files into few. Changes no result."""
    from curation.cli.inspection import compact_tables  # noqa: PLC0415

    before, after = compact_tables(out)
    typer.echo(f"{before} manifest files folded into {after}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What is installed, what is missing, what each missing part would give, how to get it."""
    from curation.cli.doctor import examine  # noqa: PLC0415

    findings = examine()
    if as_json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        console = Console()
        marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "optional": "[yellow]-[/]"}
        for finding in findings:
            console.print(f"{marks[finding.state]} [bold]{finding.part}[/] {finding.detail}")
            if finding.state != "ok":
                console.print(f"    gives: {finding.gives}", highlight=False)
                if finding.get:
                    console.print(f"    get it: {finding.get}", highlight=False, markup=False)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command("demo-bucket")
def demo_bucket(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty or new folder.")],
    seed: Annotated[int, typer.Option(help="Other pictures and sounds, same structure.")] = 0,
) -> None:
    """Render a small raw bucket of real media files whose truth is known (`DIR/truth.json`)."""
    from curation.demo_bucket import render_bucket  # noqa: PLC0415

    truth = render_bucket(directory, seed=seed)
    typer.echo(f"{len(truth.clips)} files in {directory}, their truth in {directory}/truth.json")


app.command()(cli_training.train)
app.command()(cli_training.generate)
plan_app.command("train")(cli_training.plan_train)


def main() -> None:
    """Entry point: every error is one message and an exit code."""
    # Schedulers end jobs with SIGTERM: that leaves OUT as tidy as an interrupt at the keyboard.
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name may have characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    log_to_standard_error()
    try:
        app(standalone_mode=True)
    except TwinreelError as error:
        message = f"[red]error:[/] {_escape(one_line(str(error)))}"
        # One line however narrow the terminal: paths must survive copying, and logs `grep`.
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # Typer has already turned an interrupt into this code, without a word.
        if stop.code == _INTERRUPTED:
            _say_stopped()
        raise
    except RuntimeError as error:
        # An interrupt in the middle of a query comes out of DuckDB as this.
        if str(error) == "Query interrupted":
            _say_stopped()
        raise


def _say_stopped() -> NoReturn:
    typer.echo("stopped; the same command goes on from what is committed", err=True)
    sys.exit(1)


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


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _print_summary(summary: Any, out: str, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        _print_json({**dataclasses.asdict(summary), "did_nothing": summary.did_nothing})
        return
    _print_funnel(summary.funnel, distributions=False)
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


def _print_funnel(state: Any, *, distributions: bool) -> None:  # noqa: ANN401
    from curation.cli.inspection import funnel_lines  # noqa: PLC0415

    for line in funnel_lines(state, distributions=distributions):
        typer.echo(line)


def _print_rows(names: list[str], rows: list[dict[str, Any]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(*names, box=None)
    for row in rows:
        table.add_row(*(_escape(_cell(row[name])) for name in names))
    console.print(table, soft_wrap=not sys.stdout.isatty())
    console.print(f"{len(rows)} rows")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


def _print_json(value: object) -> None:
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, default=str)
    typer.echo(text)


if __name__ == "__main__":
    main()
