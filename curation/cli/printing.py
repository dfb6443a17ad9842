"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table


def print_rows(names: list[str], rows: list[dict[str, Any]]) -> None:
    """A query's rows as a table."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(*names, box=None)
    for row in rows:
        table.add_row(*(escape(_cell(row[name])) for name in names))
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


def escape(text: str) -> str:
    """A text in which rich sees no markup."""
    return text.replace("[", "\\[")


def print_json(value: object) -> None:
    """Values as JSON, in the characters that standard output can take."""
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, default=str)
    typer.echo(text)


def print_funnel(state: Any, *, distributions: bool) -> None:  # noqa: ANN401
    """The funnel of a job's results."""
    from curation.cli.inspection import funnel_lines  # noqa: PLC0415

    for line in funnel_lines(state, distributions=distributions):
        typer.echo(line)
