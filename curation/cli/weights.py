"""The commands about learned weights: `twinreel weights list`, `fetch`, `verify`, `mirror`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from curation.cli.options import AsJson
from curation.cli.printing import print_json
from manifests.errors import StorageError, TwinreelError, UsageError
from stages.weights.catalogue import CATALOGUE, WeightSet
from stages.weights.find import (
    MIRROR_VARIABLE,
    OFFLINE_VARIABLE,
    find_set,
    fullest_folder,
    is_offline,
    size_text,
    weights_folders,
)

if TYPE_CHECKING:
    from stages.weights.download import OnBytes
    from stages.weights.fetch import FetchedFile

app = typer.Typer(
    no_args_is_help=True, help="Learned weights: which there are, fetching, checking, mirroring."
)
_COLUMNS = (
    *("name", "purpose", "used by", "size", "licence", "commercial use", "sha256", "source"),
    "here",
)
_WIDE = 400
_SHORT_DIGITS = 12

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Sets, as `weights list` names them."),
]
All = Annotated[bool, typer.Option("--all", help="All sets.")]
FromMirror = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        envvar=MIRROR_VARIABLE,
        help="Folder, `s3://`, `gs://` or `az://` to look in before the sources.",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help=f"Use no network; {OFFLINE_VARIABLE}=1 does the same.")
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Which weights there are, what for, under which licence, and whether they are here."""
    from stages.registry import weights_users  # noqa: PLC0415 - keeps `--help` quick

    if as_json:
        print_json([_describe(weights) for weights in CATALOGUE.values()])
        return
    table = Table(*(Column(name, overflow="fold") for name in _COLUMNS), box=None)
    for weights in CATALOGUE.values():
        table.add_row(
            weights.name,
            weights.purpose,
            " ".join(weights_users(weights.name)),
            _about_size(weights),
            weights.licence,
            weights.commercial,
            weights.sha256[:_SHORT_DIGITS] or "-",
            _publisher(weights),
            escape(_here(weights)),
        )
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    console.print(table)
    for weights in CATALOGUE.values():
        if weights.caution:
            console.print(f"{weights.name}: {weights.caution}", highlight=False, soft_wrap=True)
    folders = ", ".join(str(folder) for folder in weights_folders())
    console.print(f"looked for in {escape(folders)}", highlight=False, soft_wrap=True)


@app.command()
def fetch(
    names: Names = None,
    all_: All = False,
    for_: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="STAGE[:BACKEND]",
            help="What a stage's backends load, e.g. `motion:raft_large`. Can be repeated.",
        ),
    ] = None,
    mirror: FromMirror = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Bring weights here. What is here and right is left alone; what was cut off goes on.

    They go into the first folder in TWINREEL_WEIGHTS that can be written to, or else into
    `~/.cache/twinreel/weights`. Set HF_TOKEN for files of the Hugging Face hub that need a login.
    """
    chosen = _chosen(names, all_=all_, used_by=for_ or [])
    if not chosen:
        raise UsageError(
            "nothing_named",
            "Nothing is named that could be fetched.",
            subject="twinreel weights fetch",
            remedy="Name sets (see `twinreel weights list`), or give --for or --all.",
        )
    fetched = _fetch_all(chosen, mirror, offline=offline, quiet=as_json)
    if as_json:
        print_json([dataclasses.asdict(file) for file in fetched])


@app.command()
def verify(names: Names = None, as_json: AsJson = False) -> None:
    """Hash what is here. Exit 1 if a file is not what was published, or a named one is missing.

    `unpinned` files have no published hash, and were not fetched by this command.
    """
    from stages.weights.verify import verify_set  # noqa: PLC0415 - keeps `--help` quick

    chosen = _chosen(names) or list(CATALOGUE.values())
    files = [file for weights in chosen for file in verify_set(weights)]
    if not names:
        files = [file for file in files if file.verdict != "missing"]
    if as_json:
        print_json([dataclasses.asdict(file) for file in files])
    else:
        for file in files:
            detail = f" ({file.detail})" if file.detail else ""
            typer.echo(f"{file.verdict:8} {file.weights} {file.path}{detail}")
        if not files:
            typer.echo("no weights are here")
    if any(file.verdict in ("bad", "missing") for file in files):
        raise typer.Exit(1)


@app.command("mirror")
def mirror_to(
    target: Annotated[str, typer.Argument(help="Folder, `s3://`, `gs://` or `az://`.")],
    names: Names = None,
    all_: All = False,
    as_json: AsJson = False,
) -> None:
    """Copy weights to a bucket or folder that `fetch --mirror` reads; those here if none is named.

    What is named and not here is fetched first. What is there with equal bytes is left alone.
    """
    from stages.weights.mirror import copy_to_mirror  # noqa: PLC0415 - keeps `--help` quick

    chosen = _chosen(names, all_=all_)
    if chosen:
        other = os.environ.get(MIRROR_VARIABLE)
        _fetch_all(chosen, other if other != target else None, offline=False, quiet=as_json)
    else:
        chosen = [weights for weights in CATALOGUE.values() if find_set(weights) is not None]
    mirrored = []
    for weights in chosen:
        files = copy_to_mirror(target, weights)
        mirrored += files
        if not as_json:
            for file in files:
                typer.echo(f"{file.state:8} {file.url} ({size_text(file.size_bytes)})")
    if as_json:
        print_json([dataclasses.asdict(file) for file in mirrored])
    elif not mirrored:
        typer.echo("no weights are here: name some, or give --all")


def _chosen(
    names: list[str] | None, *, all_: bool = False, used_by: list[str] | None = None
) -> list[WeightSet]:
    """The sets that are named, in the catalogue's order.

    Raises:
        UsageError: `unknown_weights`, or `no_weights_for` a stage's backend.
    """
    from manifests.settings import did_you_mean  # noqa: PLC0415 - keeps `--help` quick
    from stages.registry import weights_users  # noqa: PLC0415 - keeps `--help` quick

    for name in names or []:
        if name not in CATALOGUE:
            raise UsageError(
                "unknown_weights",
                f"There are no weights named '{name}'.",
                remedy=f"{did_you_mean(name, list(CATALOGUE))}See `twinreel weights list`.",
            )
    chosen = set(CATALOGUE if all_ else names or [])
    for user in used_by or []:
        needed = {
            weights.name
            for weights in CATALOGUE.values()
            if any(
                user in (backend, backend.split(":")[0]) for backend in weights_users(weights.name)
            )
        }
        if not needed:
            raise UsageError(
                "no_weights_for",
                "It loads no weights, or there is no such stage or backend.",
                subject=f"--for {user}",
                remedy="See the column 'used by' of `twinreel weights list`.",
            )
        chosen |= needed
    return [weights for weights in CATALOGUE.values() if weights.name in chosen]


def _fetch_all(
    chosen: list[WeightSet], mirror: str | None, *, offline: bool, quiet: bool
) -> list[FetchedFile]:
    """Fetch every set that can be had, then raise for those that cannot."""
    from stages.registry import weights_users  # noqa: PLC0415 - keeps `--help` quick
    from stages.weights.fetch import fetch_set  # noqa: PLC0415 - keeps `--help` quick
    from stages.weights.mirror import Mirror  # noqa: PLC0415

    source = Mirror(mirror) if mirror else None
    fetched: list[FetchedFile] = []
    failed: dict[str, TwinreelError] = {}
    with _ProgressBars() as bars:
        for weights in chosen:
            try:
                files = fetch_set(
                    weights,
                    mirror=source,
                    offline=offline or is_offline(),
                    watcher=bars,
                    needed_by=", ".join(weights_users(weights.name)),
                )
            except TwinreelError as error:
                failed[weights.name] = error
                continue
            fetched += files
            if not quiet:
                for file in files:
                    origin = f" from {file.source}" if file.source else ""
                    typer.echo(f"{file.state:8} {file.path} ({size_text(file.size_bytes)}){origin}")
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise StorageError(
            "weights_incomplete", f"{len(failed)} of {len(chosen)} sets are not here. {reasons}"
        )
    return fetched


class _ProgressBars:
    """Bars on a terminal's error output, so that what is printed can be piped on."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> _ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, file_name: str, source: str) -> OnBytes:
        """A bar for one file."""
        task = self._progress.add_task(f"{file_name} from {urlsplit(source).netloc or source}")
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def wait(self, folder: Path) -> None:
        """Say why nothing happens."""
        typer.echo(f"another process fetches into {folder}: waiting for it", err=True)


def _describe(weights: WeightSet) -> dict[str, Any]:
    from stages.registry import weights_users  # noqa: PLC0415 - keeps `--help` quick

    path = find_set(weights)
    return {
        "name": weights.name,
        "purpose": weights.purpose,
        "used_by": list(weights_users(weights.name)),
        "format": weights.format,
        "size_bytes": weights.size_bytes,
        "size_is_exact": all(file.is_pinned for file in weights.files),
        "licence": weights.licence,
        "commercial_use": weights.commercial,
        "caution": weights.caution,
        "sha256": weights.sha256,
        "state": "found" if path else "missing",
        "path": str(path) if path else None,
        "files": [
            {**dataclasses.asdict(file), "format": file.format, "is_pinned": file.is_pinned}
            for file in weights.files
        ],
    }


def _here(weights: WeightSet) -> str:
    folder, missing = fullest_folder(weights)
    if not missing:
        return str(find_set(weights))
    present = len(weights.files) - len(missing)
    return f"{present} of {len(weights.files)} files in {folder}" if present else "missing"


def _about_size(weights: WeightSet) -> str:
    is_exact = all(file.is_pinned for file in weights.files)
    return f"{'' if is_exact else 'about '}{size_text(weights.size_bytes)}"


def _publisher(weights: WeightSet) -> str:
    """The host, or the hub's repository, that a set is fetched from."""
    source = weights.files[0].source
    if source.startswith("hf://"):
        return "/".join(source.split("/")[:4])
    return urlsplit(source).netloc
