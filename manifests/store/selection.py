"""Which rows of the tables are a job's own: the fingerprints that it has resolved to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

UNIT_KEY = ("source_id", "unit_index")
"""The key of side tables whose rows belong to a decode unit."""
CLIP_KEY = ("clip_id",)
"""The key of side tables whose rows belong to a clip."""


@dataclasses.dataclass(frozen=True)
class SideTable:
    """A table that a stage writes many rows to, for each unit or clip that it measures.

    Args:
        stage: whose rows these are; they hold its fingerprint.
        key: columns that name the unit or clip, `UNIT_KEY` or `CLIP_KEY`.
    """

    stage: str
    key: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a job resolves to; None leaves the rows of that kind unrestricted.

    Args:
        segmentation: fingerprint of how clips are cut.
        policy: hash of the gates.
        decided_under: fingerprint of what the gates may read; the policy's decisions of other
            measurements are not the job's.
        stages: fingerprint by stage; a stage that is not here has no column in `clips` and
            `dataset`.
        probe: fingerprint of `sources`.
        units: fingerprint of `units`.
        failed_units: fingerprint of those of them that failed, if it is another.
        caption: style and fingerprint of the captions.
        mix: fingerprint of the mix; without one no clip has a place in a mix.
        profile: what samples are packed to.
        packed_windows: which windows (`full`, `short`, `remainder`) of kept clips are packed.
        side_tables: the stages' side tables by name.
    """

    segmentation: str | None = None
    policy: str | None = None
    stages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probe: str | None = None
    units: str | None = None
    failed_units: str | None = None
    caption: tuple[str, str] | None = None
    mix: str | None = None
    profile: str | None = None
    packed_windows: tuple[str, ...] = ("full",)
    decided_under: str | None = None
    side_tables: Mapping[str, SideTable] = dataclasses.field(default_factory=dict)
