"""The tables as Python records: what a writer fills in and what the Parquet schema is made of.

A table is a frozen dataclass. `arrow_schema` derives the Parquet schema from its type hints, so
that the code that writes a row and the schema it is written under cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

Status = Literal["ok", "not_applicable", "failed"]
SampleStatus = Literal["ok", "held", "failed"]


@dataclasses.dataclass(frozen=True)
class ErrorRecord:
    """Why something failed: `code` is stable, `retryable` says whether a later try may succeed."""

    code: str
    message: str
    retryable: bool


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of a source in seconds of its own time (0 is the container's start)."""

    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class StageMark:
    """What every struct that a stage owns carries beside its measurements."""

    status: Status
    error: ErrorRecord | None
    backend: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """One input file: what the listing and the probe know of it.

    `width` and `height` are of the displayed picture (upright, square pixels); times are seconds of
    the source's own time, which starts at `container_start_s`.
    """

    source_id: str
    uri: str
    modality: Literal["video", "audio", "image"] | None
    bytes: int
    etag: str
    sha256: str | None
    container: str | None
    container_start_s: float | None
    duration_s: float | None
    video_index: int | None
    video_codec: str | None
    coded_width: int | None
    coded_height: int | None
    width: int | None
    height: int | None
    fps: float | None
    rotation_deg: int | None
    sample_aspect_ratio: float | None
    interlaced: bool | None
    full_range: bool | None
    video_start_s: float | None
    audio_index: int | None
    audio_codec: str | None
    audio_start_s: float | None
    audio_rate_hz: int | None
    audio_channels: int | None
    audio_first_samples: int | None
    spans: list[Span]
    split: Literal["train", "held_out"]
    licence: str | None
    carried: dict[str, str]
    status: Status
    error: ErrorRecord | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class UnitRow:
    """A stretch of a source that is decoded in one go; a unit boundary closes a window.

    `start_s`..`end_s` is what was planned, `decoded_start_s`..`decoded_end_s` what was there.
    `decoded_frames` counts pictures, `damaged` lists the stretches between a decoding error and the
    next key frame.
    """

    source_id: str
    unit_index: int
    start_s: float
    end_s: float
    decoded_start_s: float | None
    decoded_end_s: float | None
    decoded_frames: int
    damaged: list[Span]
    status: Status
    error: ErrorRecord | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class ClipRow:
    """A window of a source under one segmentation; the stages' structs are added beside these.

    `window` is `full` (the asked length), `short` (at least the least length) or `remainder`.
    `damaged_s` is how much of it lies between a decoding error and the next key frame.
    """

    clip_id: str
    source_id: str
    unit_index: int
    segmentation: str
    start_s: float
    end_s: float
    first_shot: int | None
    last_shot: int | None
    window: Literal["full", "short", "remainder"]
    damaged_s: float


@dataclasses.dataclass(frozen=True)
class DecisionRow:
    """What a policy (hash of the gates) says of a clip, and which gates said so.

    `decided_under` is the fingerprint of what the gates could read: of how clips are cut and
    measured. Rows of versions that did not keep it have None, and hold whatever was measured.
    """

    clip_id: str
    policy: str
    state: Literal["keep", "reject", "pending"]
    rejected_by: list[str]
    pending_on: list[str]
    decided_under: str | None = None


@dataclasses.dataclass(frozen=True)
class MixRow:
    """A clip's part in the mix: its group, and whether the group's quota has room for it.

    `group` is None where what it is told by has no value; such a clip has no place.
    `fingerprint` is of the target shares and of the gates that say which clips compete.
    """

    clip_id: str
    group: str | None
    chosen: bool
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class VerifiedRecord:
    """What a caption's words come to beside what was measured; None where that cannot be known.

    Words between the speech tags against the transcript: `word_error_rate` (edits over the
    transcript's words), `spoken_words` (the transcript's), `invented_words` (in the caption alone),
    `missed_words` (in the transcript alone). `audio_agrees`: whether the audio description speaks
    of what the tagger heard.
    """

    word_error_rate: float | None
    spoken_words: int | None
    invented_words: int | None
    missed_words: int | None
    audio_agrees: bool | None


@dataclasses.dataclass(frozen=True)
class CaptionRow:
    """The words that go with a clip in one style, and what they cost.

    `speech` is what is said in it; `requests`, tokens and `cost` (in the currency that the prices
    were given in) are of all tries together, None without an endpoint.
    """

    clip_id: str
    style: str
    text: str | None
    audio: str | None
    speech: str | None
    model: str
    verified: VerifiedRecord | None
    requests: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    status: Status
    error: ErrorRecord | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class SampleMember:
    """A clip's part in a sample (`target` now; references and edits later)."""

    role: str
    clip_id: str


@dataclasses.dataclass(frozen=True)
class SampleRow:
    """A packed sample: where its bytes lie and what they hold.

    `status` is `held` where it is made and waits as a fragment for its shard, which another member
    holds back; such a row has no offset, its `shard` is the one it was planned for (the same for
    all who were planned together), and its `fingerprint` is of all that its bytes were made of. A
    `failed` row with a `shard` holds that one back.

    `audio_shift_s` is how much later its sound was put than the source has it, to bring it in sync;
    0 where nothing was repaired.
    """

    sample_id: str
    profile: str
    members: list[SampleMember]
    shard: str | None
    offset_bytes: int | None
    bytes: int | None
    sha256: str | None
    width: int | None
    height: int | None
    frames: int | None
    fps: float | None
    audio_rate_hz: int | None
    audio_samples: int | None
    audio_shift_s: float | None
    status: SampleStatus
    error: ErrorRecord | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class LatentRow:
    """A part of a sample as a model is given it, made before training: where its bytes lie.

    `key` is of all that the bytes depend on: `encoder` (fingerprint of the codec or text encoder
    with its weights), and the sample's media and the shape they are brought to, or the caption.
    `offset_bytes` and `bytes` are of the tensor, a safetensors file within the tar `shard`.
    """

    key: str
    part: Literal["video", "audio", "text"]
    encoder: str
    sample_id: str
    shard: str | None
    offset_bytes: int | None
    bytes: int | None
    sha256: str | None
    status: Literal["ok", "failed"]
    error: ErrorRecord | None


_SCALARS: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def arrow_type(hint: object) -> pa.DataType:
    """The Arrow type of a type hint: scalars, `X | None`, literals of strings, lists, string maps
    and nested dataclasses.

    Raises:
        TypeError: the hint has no Arrow counterpart.
    """
    if isinstance(hint, type) and hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return pa.struct(list(arrow_schema(hint)))
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Literal:
        return pa.string()
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        if len(options) == 1 and len(arguments) == 2:
            return arrow_type(options[0])
    if origin is list:
        return pa.list_(arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(arrow_type(arguments[0]), arrow_type(arguments[1]))
    raise TypeError(f"no Arrow type for {hint!r}")


def arrow_schema(record: type) -> pa.Schema:
    """The Arrow schema of a dataclass, fields in their order."""
    hints = typing.get_type_hints(record)
    return pa.schema(
        [
            pa.field(field.name, arrow_type(hints[field.name]))
            for field in dataclasses.fields(record)
        ]
    )


def struct_type(*records: type) -> pa.StructType:
    """One struct of several records' fields in order: a stage's measurements and its mark."""
    return pa.struct([field for record in records for field in arrow_schema(record)])


def to_mapping(row: object) -> dict[str, Any]:
    """A record as plain nested dicts and lists, ready for Arrow."""
    if not dataclasses.is_dataclass(row) or isinstance(row, type):
        raise TypeError(f"not a record: {row!r}")
    return {field.name: _plain(getattr(row, field.name)) for field in dataclasses.fields(row)}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(element) for element in value]
    return value


TABLES: dict[str, type] = {
    "sources": SourceRow,
    "units": UnitRow,
    "mix": MixRow,
    "decisions": DecisionRow,
    "captions": CaptionRow,
    "samples": SampleRow,
    "latents": LatentRow,
}
"""Tables whose whole schema is known here; `signals`, `clips` and side tables are the stages'."""
