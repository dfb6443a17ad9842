"""Aesthetic score: how people would rate a clip's frames.

CLIP's image embedding and the "improved aesthetic predictor" over it (see
`stages.models.aesthetic`), on three frames of the clip. From 4.5 on frames are commonly called
good, from 5.5 fair, from 6.5 high.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pydantic

from stages.base.backends import BackendDeclaration
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.contract import ModelStage, StageParameters
from stages.media.blocks import ByteImage, Margins
from stages.media.sampled_frames import sampled_frames

if TYPE_CHECKING:
    from stages.models.aesthetic import AestheticModel

IMAGE_PX = 224
_PLACES = (0.1, 0.5, 0.9)
"""Where in a clip its frames are taken, as shares of its length."""
_LONG_SIDE_LIMIT_PX = 2048
"""Larger frames are made this small while decoding: eight times what the model sees."""
_TOWER, _PREDICTOR = "clip-vit-l-14", "aesthetic-mlp"


class AestheticParameters(StageParameters):
    """How exactly it is computed. Off unless asked for: it loads weights."""

    enabled: bool = False
    precision: Literal["auto", "full", "half"] = pydantic.Field(
        default="auto",
        description="of the arithmetic on a GPU, where auto is half; a CPU's is always full",
    )


@dataclasses.dataclass(frozen=True)
class AestheticRecord:
    """A clip's aesthetic score, about 1 to 10: mean and least of frames at 10, 50 and 90 %."""

    mean: float
    min: float


@dataclasses.dataclass(frozen=True)
class ClipFrames:
    """What the model sees of a clip: uint8 RGB [3, 224, 224, 3]."""

    images: ByteImage


class AestheticStage(ModelStage[AestheticParameters, ClipFrames, "AestheticModel"]):
    """Backend `clip_mlp` (`auto`)."""

    name: ClassVar[str] = "aesthetic"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("picture",)
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration(
            "clip_mlp", ("torch", "torchvision", "open_clip"), weights=(_TOWER, _PREDICTOR)
        ),
    )
    Parameters: ClassVar[type[StageParameters]] = AestheticParameters
    Record: ClassVar[type] = AestheticRecord

    @property
    def precondition(self) -> str:
        """There is video."""
        return "modality = 'video'"

    def prepare(self, clip: ClipTask) -> ClipFrames | NotApplicable | Ready:
        """Three frames without their margins.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        if clip.source.video_index is None:
            return NotApplicable("an aesthetic score needs pictures")
        length_s = clip.end_s - clip.start_s
        images = sampled_frames(
            clip.uri,
            clip.source,
            clip.start_s,
            clip.end_s,
            [clip.start_s + place * length_s for place in _PLACES],
            margins_px=_margins(clip),
            max_long_side_px=_LONG_SIDE_LIMIT_PX,
        )
        return ClipFrames(np.stack([clip_crop(image) for image in images]))

    def load(self, device: str) -> AestheticModel:
        """CLIP's image tower and the predictor.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        from stages.models.aesthetic import AestheticModel  # noqa: PLC0415 - only here torch

        return AestheticModel(
            self.require_weights(_TOWER),
            self.require_weights(_PREDICTOR),
            device=device,
            half=device.startswith("cuda") and self.parameters.precision != "full",
        )

    def infer(self, model: AestheticModel, batch: Sequence[ClipFrames]) -> list[object]:
        """Every clip's score."""
        embeddings = model.embeddings(np.concatenate([clip.images for clip in batch]))
        scores = np.array(model.scores(embeddings)).reshape(len(batch), -1)
        return [AestheticRecord(float(clip.mean()), float(clip.min())) for clip in scores]


def clip_crop(image: ByteImage) -> ByteImage:
    """The middle of a frame whose short side is brought to 224 px: uint8 [224, 224, 3].

    Pixel for pixel what open_clip's transform for evaluation does before it normalises.

    Args:
        image: uint8 RGB [height, width, 3].
    """
    from PIL import Image  # noqa: PLC0415 - comes with the extra `models`

    height, width = image.shape[:2]
    short = min(height, width)
    size = width * IMAGE_PX // short, height * IMAGE_PX // short
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - IMAGE_PX) / 2.0) for side in size)
    return np.asarray(resized.crop((left, top, left + IMAGE_PX, top + IMAGE_PX)), dtype=np.uint8)


def _margins(clip: ClipTask) -> Margins:
    """The clip's black margins, none where they are not known."""
    margins_px = clip.structs.get("picture", {}).get("margins_px")
    return Margins(**margins_px) if margins_px else Margins()
