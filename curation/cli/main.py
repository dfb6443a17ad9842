"""The command `twinreel`: its groups of commands, and how it ends."""

from __future__ import annotations

import io
import signal
import sys
from typing import NoReturn

import typer
from rich.console import Console

from curation.cli import curate, demo, doctor, encode, results, training, weights
from curation.cli.logs import log_to_standard_error
from curation.cli.printing import escape
from manifests.errors import TwinreelError, one_line

_INTERRUPTED = 130

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
plan = typer.Typer(no_args_is_help=True, help="What a job would do, before it is paid for.")

app.command()(curate.curate)
app.command()(curate.select)
app.command()(results.inspect)
app.command()(results.verify)
app.command()(results.compact)
app.command()(doctor.doctor)
app.command("demo-bucket")(demo.demo_bucket)
app.command()(encode.encode)
app.command()(training.train)
app.command()(training.generate)
app.command()(training.export)
app.add_typer(plan, name="plan")
plan.command("curate")(curate.plan_curate)
plan.command("train")(training.plan_train)
app.add_typer(weights.app, name="weights")


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
        message = f"[red]error:[/] {escape(one_line(str(error)))}"
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


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
