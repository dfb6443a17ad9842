"""Whether a mouth moves with the voice: offset and confidence of a clip's best face.

The backend `syncnet` (Chung and Zisserman 2016) gives the numbers that papers report and needs
its weights. The backend `embedded` needs none; its confidence has a scale of its own: gates on it
must name the backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from stages.base.backends import BackendDeclaration
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.joint.sync.embedded import best_aligned_face
from stages.joint.sync.syncnet import (
    ClipFaces,
    FaceChoice,
    best_faces,
    faces_of,
    find_converted,
    load_syncnet,
)

if TYPE_CHECKING:
    from stages.models.syncnet import SyncNet


class SyncParameters(StageParameters):
    """Which faces are looked at, how they are compared, and where the stage applies at all."""

    min_speech_ratio: float = pydantic.Field(
        0.1, ge=0, le=1, description="clips with less speech than this are not measured"
    )
    max_tracks: int = pydantic.Field(6, ge=1, description="how many faces, largest first")
    min_track_s: float = pydantic.Field(
        2.0,
        gt=0,
        description="embedded: faces followed for less of the clip than this are passed over",
    )
    min_face_px: float = pydantic.Field(
        40.0,
        gt=0,
        description="embedded: smaller faces (mean side in source pixels) are passed over",
    )
    mode: Literal["exact", "masked"] = pydantic.Field(
        "exact",
        description="syncnet: exact pads the sound with zeros, as published numbers do, which"
        " hides large offsets of short clips; masked leaves the padding out",
    )
    # The reference's thresholds. A clip of 5 s has 126 frames, of which a face that turns away for
    # a second is seen in fewer than 100: half of it is asked for there.
    min_track_frames: int = pydantic.Field(
        100,
        ge=13,
        description="syncnet: faces must be followed for more frames (25 a second) than this",
    )
    min_track_frames_short: int = pydantic.Field(
        50, ge=13, description="syncnet: the same in clips shorter than 6 s"
    )
    min_side_px: float = pydantic.Field(
        100.0,
        ge=0,
        description="syncnet: faces must be larger (mean longer side in source pixels) than this",
    )


@dataclasses.dataclass(frozen=True)
class SyncRecord:
    """The clip's best-confidence face against its sound.

    `offset_frames` counts frames of 25 fps (40 ms); positive: the sound is early, negative: late.

    `confidence` is, of `syncnet`, the median over all offsets of the mean distance between mouth
    and voice, less the least. Of `embedded` it is how far the correlation at that offset stands out
    over the other offsets, in multiples of what chance would give; clips whose mouth has nothing to
    do with the sound are mostly below 3.

    `track` is the face track's index in its unit. `distance` is SyncNet's least mean distance; None
    of `embedded`.
    """

    offset_frames: float
    confidence: float
    track: int
    distance: float | None


class SyncStage(ModelStage[SyncParameters, ClipFaces, "SyncNet"]):
    """Backends `syncnet` (needs weights) and `embedded`; `auto` is the first that can be had."""

    name: ClassVar[str] = "sync"
    version: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = ("faces", "speech")
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("syncnet", ("torch", "safetensors"), weights=("syncnet",)),
        BackendDeclaration("embedded"),
    )
    Parameters: ClassVar[type[StageParameters]] = SyncParameters
    Record: ClassVar[type] = SyncRecord

    @classmethod
    def find_weights(cls, name: str) -> Path | None:
        """SyncNet's weights, converted ones first; see `find_converted`."""
        return find_converted() or super().find_weights(name)

    @property
    def precondition(self) -> str:
        """Somebody speaks and a face is to be seen."""
        return (
            f"speech.speech_ratio > {self.parameters.min_speech_ratio!r} AND faces.kind <> 'none'"
        )

    def prepare(self, clip: ClipTask) -> ClipFaces | NotApplicable | Ready:
        """SyncNet's crops and cepstra of the clip; without a model, the result.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        if clip.source.audio_index is None or clip.source.video_index is None:
            return NotApplicable("sync needs pictures and sound")
        seen = self._faces(clip) if self.needs_model else self._embedded(clip)
        return seen or NotApplicable("no face is large enough for long enough")

    def load(self, device: str) -> SyncNet:
        """SyncNet with its weights.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        return load_syncnet(self.require_weights("syncnet"), device)

    def infer(self, model: SyncNet, batch: Sequence[ClipFaces]) -> list[object]:
        """Per clip the record of its best-confidence track."""
        return [
            SyncRecord(float(found.offset_frames), found.confidence, track, found.least)
            for track, found in best_faces(model, batch, self.parameters.mode)
        ]

    def _faces(self, clip: ClipTask) -> ClipFaces | None:
        settings = self.parameters
        choice = FaceChoice(
            settings.min_track_frames,
            settings.min_track_frames_short,
            settings.min_side_px,
            settings.max_tracks,
        )
        return faces_of(clip, choice)

    def _embedded(self, clip: ClipTask) -> Ready | None:
        best = best_aligned_face(
            clip,
            min_track_s=self.parameters.min_track_s,
            min_face_px=self.parameters.min_face_px,
            max_tracks=self.parameters.max_tracks,
        )
        if best is None:
            return None
        track, found = best
        return Ready(SyncRecord(found.offset_frames, found.confidence, track, None))
