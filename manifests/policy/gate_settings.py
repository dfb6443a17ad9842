"""Gates of one set of settings over those of another, and gates of earlier versions' jobs.

A tightened gate must never bring a clip back. So an expression alone takes the place of an
expression alone: what the gate beneath says of backends stays. A mapping replaces the gate whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import duckdb

from manifests.errors import UsageError
from manifests.settings import did_you_mean

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "sound": ("has_sound", "volume"),
    "mean_volume": ("has_sound", "volume"),
    "sync": ("sync_offset", "sync_confidence"),
}
"""Gates of earlier presets that held two conditions, and the two gates that they are now."""

_SPLIT_SQL: dict[str, tuple[str, ...]] = {
    "loudness.status <> 'not_applicable' AND loudness.mean_volume_db >= -60": (
        "has_sound",
        "volume",
    ),
    "motion.static_share < 0.9 AND motion.frozen_share < 0.5": ("not_static", "not_frozen"),
    "abs(sync.offset_frames) <= 3 AND sync.confidence > 1.5": ("sync_offset", "sync_confidence"),
    "sync.confidence >= 3.0 AND abs(sync.offset_frames) <= 3": ("sync_confidence", "sync_offset"),
}
"""The same gates' expressions, with a name for either side of their AND."""


def split_gates(gates: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The gates of an earlier version's job, those that its presets mixed taken apart.

    Gates that were changed since stay as they are, and all clips are decided as before.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, gate in gates.items():
        parts = _SPLIT_SQL.get(gate["sql"], ()) if name in (*SPLIT_NAMES, "not_static") else ()
        if not parts or set(parts) & (gates.keys() - {name}):
            found[name] = gate
            continue
        conditions = gate["sql"].split(" AND ")
        for part, sql in zip(parts, conditions, strict=True):
            found[part] = {**gate, "sql": sql}
    return found


def with_what_stays(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, each expression alone among their gates completed by the gate that it changes.

    Args:
        above: settings that are to go over others.
        below: the others.
    """
    gates, beneath = above.get("gates"), below.get("gates")
    if not isinstance(gates, Mapping) or not isinstance(beneath, Mapping):
        return dict(above)
    return {
        **above,
        "gates": {name: _completed(gate, beneath.get(name)) for name, gate in gates.items()},
    }


def _completed(gate: object, beneath: object) -> object:
    sql = gate["sql"] if isinstance(gate, Mapping) and set(gate) == {"sql"} else gate
    if not isinstance(sql, str) or not sql or not isinstance(beneath, Mapping):
        return gate
    backends = beneath.get("backends")
    if isinstance(backends, Mapping):
        # What it no longer reads needs no backend.
        words = _identifiers(sql)
        backends = {stage: names for stage, names in backends.items() if stage.lower() in words}
    return {**beneath, "sql": sql, "backends": backends or None}


def _identifiers(sql: str) -> set[str]:
    data = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    return {
        data[start:end].decode(errors="replace").strip().strip('"').lower()
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind == duckdb.token_type.identifier
    }


def check_removals(given: Mapping[str, Any], known: Collection[str], gone: Collection[str]) -> None:
    """Make sure that the gates that settings remove are there.

    Args:
        given: the settings.
        known: names of gates.
        gone: names of gates that the same settings may have removed before.

    Raises:
        UsageError: `unknown_gate` (names the nearest right one).
    """
    gates = given.get("gates")
    for name, gate in gates.items() if isinstance(gates, Mapping) else ():
        if (gate is not None and gate != "") or name in known:
            continue
        if name in gone and name not in SPLIT_NAMES:
            continue
        listed = ", ".join(sorted(known))
        now = " and ".join(f"'gates.{part}'" for part in SPLIT_NAMES.get(name, ()))
        near = f"It is {now} now. " if now else did_you_mean(name, sorted(known), "gates")
        raise UsageError(
            "unknown_gate",
            "There is no such gate to remove.",
            subject=f"gates.{name}",
            remedy=f"{near}Gates there: {listed}.",
        )
