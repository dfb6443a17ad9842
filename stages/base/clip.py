"""A clip on its way to a stage, and what a stage may say of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from stages.media.blocks import SourceFormat


@dataclasses.dataclass(frozen=True)
class ClipTask:
    """A clip to look at: its source, its span and what is known of it already.

    `side_rows` are the rows of its unit (or, of tables that clip stages write, its own) by table.
    `structs` holds the clip's structs of the stages in `reads`, by stage (null ones left out).
    `signals_record` is what a signal stage makes of the clip's signals, for the model that
    completes its record.
    """

    clip_id: str
    uri: str
    source: SourceFormat
    start_s: float
    end_s: float
    side_rows: Mapping[str, Sequence[Mapping[str, Any]]]
    structs: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    signals_record: object = None


@dataclasses.dataclass(frozen=True)
class NotApplicable:
    """The stage has nothing to say of this source or clip (no sound, no face)."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """A clip's record with rows for side tables, by table.

    Side rows are dicts without `clip_id` and `fingerprint`, which the caller adds.
    """

    record: object
    side_rows: Mapping[str, Sequence[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Ready:
    """A clip's result that `prepare` already knows: an instance of `Record`, or `Findings`."""

    record: object
