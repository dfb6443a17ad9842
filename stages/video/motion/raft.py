"""Motion by RAFT: the speeds of a clip, from frames half a second apart.

RAFT (Teed and Deng 2020, arXiv:2003.12039, in torchvision's implementation) sees much larger
displacements than DIS. Unit, camera and subject are those of `stages.video.motion.stage`, whose
signals also say which frames repeat or are missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from manifests.errors import MediaError
from stages.base.backends import BackendDeclaration
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.media.blocks import ByteImage, Margins, SourceFormat
from stages.media.sampled_frames import RgbConformer, progressive_frames
from stages.models.torchvision_guard import import_torchvision
from stages.video.motion.flow import (
    LONGEST_PAIR_S,
    MOTION_VERSION,
    SPLIT_SHORT_SIDE_PX,
    STATED_SHORT_SIDE_PX,
    FlowField,
    FlowSpeeds,
    MotionParameters,
    MotionRecord,
    RaftParameters,
    is_cut,
    split_flow,
)
from stages.weights.load import load_into, load_state_dict

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "torchvision")
_LONG_SIDE_LIMIT_PX = 1024
"""What is wider than 4:1 is squeezed to this: correlations cost by the square of the area."""
_SIDE_STEP_PX = 8
"""The network's feature maps are an eighth of its frames."""
_TIME_SLACK_S = 5e-4
"""Containers round times."""
_TIME_TOLERANCE_S = 1e-6
_PAIR_AREA_PX = 256 * 456
_CPU_PAIRS, _CUDA_PAIRS = 4, 32
"""Pairs of 16:9 that go through the network at once: about 0.3 and 2 GB of working memory."""


@dataclasses.dataclass(frozen=True)
class FramePairs:
    """A clip's frames as RAFT sees them, and which of them are a pair.

    `frames` is uint8 RGB [frames, height, width, 3]; `pairs` holds indices into it,
    int64 [pairs, 2]; `apart_s` is float64 [pairs]. `shown_px` is the width and height, at a short
    side of 256 px, of what those frames show: the network's sides are rounded.
    """

    frames: ByteImage
    pairs: npt.NDArray[np.int64]
    apart_s: npt.NDArray[np.float64]
    shown_px: tuple[float, float]
    frozen_share: float
    dropped_share: float


@dataclasses.dataclass(frozen=True)
class RaftModel:
    """The network with its weights, and how it is run."""

    network: torch.nn.Module
    device: str
    half: bool
    flow_updates: int


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
        found = _PairFinder(self.parameters.raft, conformer, clip.end_s - clip.start_s).find(timed)
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
        import_torchvision()
        from torchvision.models import optical_flow  # noqa: PLC0415 - only RAFT pays for torch

        path = self.require_weights(*self.weights(self.backend.name))
        build = {"raft_large": optical_flow.raft_large, "raft_small": optical_flow.raft_small}
        network = load_into(build[self.backend.name](weights=None), load_state_dict(path), path)
        settings = self.parameters.raft
        half = device.startswith("cuda") and settings.precision != "full"
        return raft_model(network, device, half=half, flow_updates=settings.flow_updates)

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


def shown_size(source: SourceFormat) -> tuple[float, float]:
    """Width and height of a source's frames at a short side of 256 px.

    Raises:
        MediaError: `no_video`.
    """
    if not source.width or not source.height:
        raise MediaError("no_video", "It holds no pictures.")
    scale = STATED_SHORT_SIDE_PX / min(source.width, source.height)
    return source.width * scale, source.height * scale


def network_size(source: SourceFormat) -> tuple[int, int]:
    """Width and height that the network sees: 256 px the short side, a multiple of 8 the long one.

    Raises:
        MediaError: `no_video`.
    """
    width, height = (
        min(_LONG_SIDE_LIMIT_PX, round(side / _SIDE_STEP_PX) * _SIDE_STEP_PX)
        for side in shown_size(source)
    )
    return width, height


class _PairFinder:
    """Picks pairs out of a clip's frames as they go by, and keeps only what it picks.

    Args:
        settings: how far apart and how many.
        conformer: brings what is kept to size.
        duration_s: of the clip.
    """

    def __init__(
        self, settings: RaftParameters, conformer: RgbConformer, duration_s: float
    ) -> None:
        self._pair_s = settings.pair_s
        self._most = settings.max_pairs
        self._every_s = max(1.0 / settings.pairs_hz, duration_s / settings.max_pairs)
        self._conformer = conformer
        self.images: list[ByteImage] = []
        self.times_s: list[float] = []
        self.pairs: list[tuple[int, int]] = []

    def find(self, timed: Iterable[tuple[float, VideoFrame]]) -> _PairFinder:
        """Look at a clip's frames in order.

        A pair's second frame may be the next one's first. A clip that is too short for a pair at
        the distance asked for has its first and last frame compared.
        """
        first: int | None = None
        next_first_s = -np.inf
        last: tuple[float, VideoFrame] | None = None
        for time_s, frame in timed:
            last = time_s, frame
            if first is not None and time_s >= self.times_s[first] + self._pair_s - _TIME_SLACK_S:
                self._add(first, time_s, frame)
                first = None
            if len(self.pairs) == self._most:
                break
            if first is None and time_s >= next_first_s - _TIME_SLACK_S:
                first = self._keep(time_s, frame)
                next_first_s = time_s + self._every_s
        if not self.pairs and first is not None and last is not None:
            self._add(first, *last)
        return self

    def _add(self, first: int, time_s: float, frame: VideoFrame) -> None:
        if 0 < time_s - self.times_s[first] <= LONGEST_PAIR_S + _TIME_SLACK_S:
            self.pairs.append((first, self._keep(time_s, frame)))

    def _keep(self, time_s: float, frame: VideoFrame) -> int:
        if not self.times_s or self.times_s[-1] != time_s:
            self.times_s.append(time_s)
            self.images.append(self._conformer.image(frame))
        return len(self.times_s) - 1


def raft_model(
    network: torch.nn.Module, device: str, *, half: bool, flow_updates: int
) -> RaftModel:
    """A network of torchvision's, made ready to be run.

    Args:
        network: with its weights, on the CPU.
        device: `cpu` or `cuda`.
        half: whether to compute in half precision.
        flow_updates: see `RaftParameters`.
    """
    import torch  # noqa: PLC0415 - only RAFT pays for torch

    kind = torch.device(device).type
    # As in the authors' own mixed precision, correlations are float32: sums over 256 channels may
    # pass what half precision can hold.
    correlations: Any = network.corr_block
    build_pyramid = correlations.build_pyramid

    def build_in_full_precision(first: torch.Tensor, second: torch.Tensor) -> None:
        with torch.autocast(kind, enabled=False):
            build_pyramid(first.float(), second.float())

    correlations.build_pyramid = build_in_full_precision
    return RaftModel(network.to(device), device, half, flow_updates)


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
        for chunk in _chunks(places, _pairs_at_once(model.device, size)):
            first = np.stack([batch[clip].frames[index] for clip, index, _ in chunk])
            second = np.stack([batch[clip].frames[index] for clip, _, index in chunk])
            for (clip, _, _), flow in zip(chunk, network_flow(model, first, second), strict=True):
                flows[clip].append(flow)
    return flows


def network_flow(model: RaftModel, first: ByteImage, second: ByteImage) -> FlowField:
    """What the network says of some pairs: float32 [pairs, height, width, 2].

    Args:
        model: what `RaftStage.load` gave.
        first: uint8 RGB [pairs, height, width, 3], sides multiples of 8 and at least 128.
        second: the same shape.
    """
    import torch  # noqa: PLC0415 - only RAFT pays for torch

    # Coordinates stay float32 under autocast: in half precision they would be off by whole pixels.
    kind = torch.device(model.device).type
    with torch.inference_mode(), torch.autocast(kind, torch.float16, enabled=model.half):
        one, two = (
            # -1..1, as torchvision's own transform for its weights has it.
            torch.from_numpy(frames).to(model.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            for frames in (first, second)
        )
        flow = model.network(one, two, num_flow_updates=model.flow_updates)[-1]
        return np.asarray(flow.float().permute(0, 2, 3, 1).cpu().numpy(), dtype=np.float32)


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


def _pairs_at_once(device: str, size: tuple[int, ...]) -> int:
    most = _CUDA_PAIRS if device.startswith("cuda") else _CPU_PAIRS
    # What a pair costs grows with the square of its area: all places are compared with all.
    return max(1, int(most * min(1.0, (_PAIR_AREA_PX / (size[0] * size[1])) ** 2)))


def _chunks(
    places: Sequence[tuple[int, int, int]], most: int
) -> Iterator[Sequence[tuple[int, int, int]]]:
    return (places[first : first + most] for first in range(0, len(places), most))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
