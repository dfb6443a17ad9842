"""Motion by RAFT: the speeds of a clip, from frames half a second apart.

RAFT (Teed and Deng 2020, arXiv:2003.12039, in torchvision's implementation) sees much larger
displacements than DIS. Unit, camera and subject are those of `stages.video.motion.stage`, whose
signals also say which frames repeat or are missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import cv2
import numpy as np

from manifests.errors import MediaError
from stages.base.backends import BackendDeclaration
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.media.blocks import ByteImage, Margins
from stages.media.sampled_frames import RgbConformer, progressive_frames
from stages.models.raft import (
    FlowField,
    RaftModel,
    load_raft,
    network_flow,
    pairs_at_once,
)
from stages.video.motion.flow import (
    MOTION_VERSION,
    SPLIT_SHORT_SIDE_PX,
    STATED_SHORT_SIDE_PX,
    FlowSpeeds,
    MotionParameters,
    MotionRecord,
    is_cut,
    split_flow,
)
from stages.video.motion.frame_pairs import FramePairs, PairFinder, network_size, shown_size

_PACKAGES = ("torch", "torchvision")
_TIME_TOLERANCE_S = 1e-6


class RaftStage(ModelStage[MotionParameters, FramePairs, RaftModel]):
    """What completes the records of the stage `motion`: RAFT, large or small."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = MOTION_VERSION
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("raft_large", _PACKAGES, weights=("raft-large",)),
        BackendDeclaration("raft_small", _PACKAGES, weights=("raft-small",)),
    )
    Parameters: ClassVar[type[StageParameters]] = MotionParameters
    Record: ClassVar[type] = MotionRecord

    @property
    def precondition(self) -> str:
        """There is video."""
        return "modality = 'video'"

    def prepare(self, clip: ClipTask) -> FramePairs | NotApplicable | Ready:
        """The clip's pairs; no model is needed for a clip that has none.

        Raises:
            MediaError: the clip cannot be decoded, or `no_first_look`.
        """
        if isinstance(clip.signals_record, NotApplicable):
            return clip.signals_record
        if clip.source.video_index is None:
            return NotApplicable("motion needs pictures")
        if not isinstance(clip.signals_record, MotionRecord):
            raise MediaError(
                "no_first_look",
                "Its repeated and missing pictures were not counted when the source was decoded.",
                subject=clip.uri,
            )
        width, height = network_size(clip.source)
        conformer = RgbConformer(clip.source, Margins(), width, height)
        end_s = clip.end_s - _TIME_TOLERANCE_S
        timed = progressive_frames(clip.uri, clip.source, clip.start_s, end_s)
        found = PairFinder(self.parameters.raft, conformer, clip.end_s - clip.start_s).find(timed)
        if not found.pairs:
            return Ready(clip.signals_record)
        return FramePairs(
            frames=np.stack(found.images),
            pairs=np.array(found.pairs, dtype=np.int64),
            apart_s=np.array([found.times_s[b] - found.times_s[a] for a, b in found.pairs]),
            shown_px=shown_size(clip.source),
            frozen_share=clip.signals_record.frozen_share,
            dropped_share=clip.signals_record.dropped_share,
        )

    def load(self, device: str) -> RaftModel:
        """The network with its weights.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        path = self.require_weights(*self.weights(self.backend.name))
        settings = self.parameters.raft
        half = device.startswith("cuda") and settings.precision != "full"
        return load_raft(
            self.backend.name, path, device, half=half, flow_updates=settings.flow_updates
        )

    def infer(self, model: RaftModel, batch: Sequence[FramePairs]) -> list[object]:
        """Every clip's speeds."""
        return [
            self._record(prepared, flows)
            for prepared, flows in zip(batch, clip_flows(model, batch), strict=True)
        ]

    def _record(self, prepared: FramePairs, flows: Sequence[FlowField]) -> MotionRecord:
        speeds: list[FlowSpeeds] = []
        for (first, second), apart_s, flow in zip(
            prepared.pairs, prepared.apart_s, flows, strict=True
        ):
            frames = prepared.frames[first], prepared.frames[second]
            displacement = pair_displacements(
                *frames, flow, prepared.shown_px, self.parameters.unexplained_share
            )
            if displacement is not None:
                speeds.append(displacement.scaled(1.0 / float(apart_s)))
        static = [speed.score < self.parameters.static_px_s for speed in speeds]
        return MotionRecord(
            score_px_s=_mean([speed.score for speed in speeds]),
            camera_px_s=_mean([speed.camera for speed in speeds]),
            subject_px_s=_mean([speed.subject for speed in speeds]),
            static_share=_mean(static),
            frozen_share=prepared.frozen_share,
            dropped_share=prepared.dropped_share,
        )


def clip_flows(model: RaftModel, batch: Sequence[FramePairs]) -> list[list[FlowField]]:
    """The flow of every pair of every clip: float32 [height, width, 2], to the right and down.

    Pairs of equal size go through the network together, whichever clips they are of.
    """
    flows: list[list[FlowField]] = [[] for _ in batch]
    by_size: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    for clip, prepared in enumerate(batch):
        places = by_size.setdefault(prepared.frames.shape[1:3], [])
        places += [(clip, int(first), int(second)) for first, second in prepared.pairs]
    for size, places in by_size.items():
        for chunk in _chunks(places, pairs_at_once(model.device, size)):
            first = np.stack([batch[clip].frames[index] for clip, index, _ in chunk])
            second = np.stack([batch[clip].frames[index] for clip, _, index in chunk])
            for (clip, _, _), flow in zip(chunk, network_flow(model, first, second), strict=True):
                flows[clip].append(flow)
    return flows


def pair_displacements(
    first: ByteImage,
    second: ByteImage,
    flow: FlowField,
    shown_px: tuple[float, float],
    unexplained_share: float,
) -> FlowSpeeds | None:
    """Mean displacements in pixels at a short side of 256 px, or None where flow explains nothing.

    Args:
        first: uint8 RGB [height, width, 3], as the network saw it.
        second: the same.
        flow: float32 [height, width, 2] in the network's pixels.
        shown_px: see `FramePairs`.
        unexplained_share: see `MotionParameters`.
    """
    height, width = flow.shape[:2]
    stated = flow * np.array([shown_px[0] / width, shown_px[1] / height], np.float32)
    # Camera and subject at the size, and so on the grid, that DIS has them.
    scale = SPLIT_SHORT_SIDE_PX / STATED_SHORT_SIDE_PX
    size = round(shown_px[0] * scale), round(shown_px[1] * scale)
    small = np.asarray(cv2.resize(stated, size, interpolation=cv2.INTER_AREA) * np.float32(scale))
    one, two = (
        np.asarray(
            cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA),
            dtype=np.uint8,
        )
        for frame in (first, second)
    )
    if is_cut(one, two, small, unexplained_share, only_inside=True):
        return None
    split = split_flow(one, small).scaled(1.0 / scale)
    score = float(np.hypot(stated[..., 0], stated[..., 1]).mean())
    return dataclasses.replace(split, score=score)


def _chunks(
    places: Sequence[tuple[int, int, int]], most: int
) -> Iterator[Sequence[tuple[int, int, int]]]:
    return (places[first : first + most] for first in range(0, len(places), most))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
