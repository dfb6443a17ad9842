"""Curation jobs from Python: what `twinreel curate` and `twinreel select` do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinreel._names import claim

claim("curation", "stages", "manifests")

import yaml  # noqa: E402

from curation.config import load_configuration  # noqa: E402
from curation.curate import other_gates, run_curation, run_select  # noqa: E402
from manifests.errors import UsageError  # noqa: E402

if TYPE_CHECKING:
    from curation.config import JobConfiguration
    from curation.curate import Summary

Settings = Mapping[str, Any] | Sequence[str]
"""`{"pack.area_px": 57600}`, `{"pack": {"area_px": 57600}}` or `["pack.area_px=57600"]`."""


def curate(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    preset: str | None = None,
    config: str | PathLike[str] | None = None,
    settings: Settings = (),
    phases: Sequence[str] = (),
    limit: int | None = None,
    missing: str | None = None,
    address: str | None = None,
) -> Summary:
    """Measure, decide, caption and pack a raw bucket; what OUT already holds is not done again.

    Args:
        inputs: folders, files, globs, `s3://` prefixes, or tables of URIs; one or many.
        out: folder or `s3://` prefix of the results.
        preset: `quickstart` if neither it nor `config` says otherwise.
        config: a YAML file over the preset.
        settings: settings over both, by dotted name, nested, or as `key=value`. A gate that is
            None or empty is removed.
        phases: only these of measure, annotate, select, caption, pack; all if empty.
        limit: only the first so many files, by uri.
        missing: `stop` or `pending`: what to do if weights or packages are missing.
        address: a Ray cluster's; the Ray that this process is connected to, or a local one that
            ends with the call, if not given.

    Returns:
        What was done, the funnel, and notes for whoever reads it.

    Raises:
        TwinreelError: as the command: wrong inputs or settings, an OUT that cannot be written.
    """
    if limit is not None and limit < 1:
        raise UsageError(
            "bad_setting",
            f"It must be at least 1 (given: {limit}).",
            subject="limit",
            remedy="Leave it out to take all files.",
        )
    named = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    return run_curation(
        [fspath(one) for one in named],
        fspath(out),
        configuration_of(preset, config, settings, missing=missing),
        phases=phases,
        limit=limit,
        address=address,
    )


def select(
    out: str | PathLike[str],
    *,
    preset: str | None = None,
    config: str | PathLike[str] | None = None,
    settings: Settings = (),
) -> Summary:
    """Decide again, with other gates: decodes nothing, rewrites no shard.

    Args:
        out: folder or `s3://` prefix that `curate` wrote.
        preset: whose gates to begin with; those that OUT has, if not given.
        config: a YAML file with gates over them.
        settings: gates over both, such as `{"gates.volume": "loudness.mean_volume_db > -35"}`;
            one that is None or empty is removed.

    Raises:
        TwinreelError: as the command: `not_a_gate`, `unknown_gate`, a gate that is wrong,
            `not_an_output`.
    """
    place = fspath(out)
    configuration = other_gates(
        place,
        preset=preset,
        file=None if config is None else Path(config),
        assignments=assignments(settings),
    )
    return run_select(place, configuration)


def configuration_of(
    preset: str | None,
    config: str | PathLike[str] | None,
    settings: Settings,
    *,
    missing: str | None = None,
) -> JobConfiguration:
    """A job's configuration, as the command makes it of its options.

    Raises:
        UsageError: as `curation.config.load_configuration`.
    """
    chosen = assignments(settings)
    if missing is not None:
        chosen.append(f"missing={missing}")
    return load_configuration(preset, None if config is None else Path(config), chosen)


def assignments(settings: Settings) -> list[str]:
    """Settings as the command line writes them: `key=value`, the value in YAML."""
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{key}={_text_of(key, value)}" for key, value in _flat(settings)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        # A gate that is a mapping is one setting: it replaces the whole of the preset's.
        if isinstance(value, Mapping) and not name.startswith("gates."):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _text_of(name: str, value: object) -> str:
    if name.startswith("gates.") and (value is None or isinstance(value, str)):
        # The command line takes a gate's SQL as it is.
        return value or ""
    if isinstance(value, str):
        return json.dumps(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("...\n").strip()
