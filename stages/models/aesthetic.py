"""CLIP's image tower and the aesthetic predictor that reads its embeddings.

The tower is the ViT-L/14 of Radford et al. 2021 (arXiv:2103.00020) in open_clip's implementation;
the predictor is the "improved aesthetic predictor" (sac+logos+ava1, linearMSE): five linear layers
in a row over the embedding of length 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from manifests.errors import UsageError
from stages.media.blocks import ByteImage
from stages.models.torchvision_guard import import_torchvision
from stages.weights.load import load_into, load_state_dict

_TOWER_PREFIX = "visual."
_HEAD_WIDTH = 64
_EMBEDDING = 768
_PREDICTOR_WIDTHS = (1024, 128, 64, 16)
_IMAGES_AT_ONCE = {"cpu": 6, "cuda": 96}


@dataclasses.dataclass(frozen=True)
class TowerLayout:
    """Sizes of a vision transformer: in pixels, in channels, in layers."""

    image_px: int
    patch_px: int
    width: int
    layers: int
    heads: int
    embedding: int


def layout_of(tower: Mapping[str, torch.Tensor]) -> TowerLayout:
    """The sizes that an image tower's tensors have; heads are 64 wide, as in all of OpenAI's.

    Raises:
        KeyError: it is no vision transformer.
    """
    width, _, patch_px, _ = tower["conv1.weight"].shape
    # One position for every patch, and one for the class.
    side = math.isqrt(tower["positional_embedding"].shape[0] - 1)
    layers = {name.split(".")[2] for name in tower if name.startswith("transformer.resblocks.")}
    return TowerLayout(
        image_px=side * patch_px,
        patch_px=patch_px,
        width=width,
        layers=len(layers),
        heads=width // _HEAD_WIDTH,
        embedding=tower["proj"].shape[1],
    )


class AestheticPredictor(nn.Module):
    """Linear layers without anything between them but, in training, dropout.

    Its entries are named as in the published file, where dropout takes the places between.

    Args:
        embedding: channels that come in.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        first, second, third, fourth = _PREDICTOR_WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(embedding, first),
            nn.Dropout(0.2),
            nn.Linear(first, second),
            nn.Dropout(0.2),
            nn.Linear(second, third),
            nn.Dropout(0.1),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scores [images] of embeddings [images, channels]."""
        return self.layers(embeddings)[:, 0]


class AestheticModel:
    """Scores frames; both sets of weights are loaded.

    Args:
        tower_path: CLIP's weights in open_clip's layout; its text half is not looked at.
        predictor_path: the predictor's.
        device: `cpu` or `cuda`.
        half: whether the tower computes in half precision.

    Raises:
        UsageError: `bad_weights`.
    """

    def __init__(self, tower_path: Path, predictor_path: Path, *, device: str, half: bool) -> None:
        self._device = torch.device(device)
        self._half = half
        self._tower = load_tower(tower_path).to(self._device)
        predictor = AestheticPredictor(_EMBEDDING)
        load_into(predictor, load_state_dict(predictor_path), predictor_path)
        self._predictor = predictor.to(self._device)

    @torch.inference_mode()
    def embeddings(self, images: ByteImage) -> torch.Tensor:
        """CLIP embeddings of length 1, float32 [images, channels].

        Args:
            images: uint8 RGB [images, 224, 224, 3].
        """
        most = _IMAGES_AT_ONCE[self._device.type]
        return torch.cat(
            [self._embed(images[first : first + most]) for first in range(0, len(images), most)]
        )

    @torch.inference_mode()
    def scores(self, embeddings: torch.Tensor) -> list[float]:
        """How people would rate the frames, about 1 to 10.

        Args:
            embeddings: as `embeddings` gives them.
        """
        scores: list[float] = self._predictor(embeddings.to(self._device)).tolist()
        return scores

    def _embed(self, images: ByteImage) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            features = self._tower(_normalised(torch.from_numpy(images).to(self._device)))
        return nn.functional.normalize(features.float(), dim=-1)


def load_tower(path: Path) -> nn.Module:
    """CLIP's image tower alone, float32 on the CPU.

    Args:
        path: weights of the whole model, in open_clip's layout.

    Raises:
        UsageError: `bad_weights`.
    """
    import_torchvision()
    from open_clip.transformer import QuickGELU, VisionTransformer  # noqa: PLC0415 - after that

    visual = {
        name.removeprefix(_TOWER_PREFIX): tensor
        for name, tensor in load_state_dict(path).items()
        if name.startswith(_TOWER_PREFIX)
    }
    try:
        layout = layout_of(visual)
        if layout.embedding != _EMBEDDING:
            raise ValueError(f"embeddings of {layout.embedding} instead of {_EMBEDDING} channels")
    except (KeyError, ValueError) as error:
        raise UsageError(
            "bad_weights",
            f"It holds no image tower of CLIP ({error}).",
            subject=str(path),
            remedy="Check it with `twinreel weights verify`, and fetch it again.",
        ) from error
    # Without memory at first: 300 million random numbers would be drawn to be thrown away.
    with torch.device("meta"):
        tower = VisionTransformer(
            image_size=layout.image_px,
            patch_size=layout.patch_px,
            width=layout.width,
            layers=layout.layers,
            heads=layout.heads,
            mlp_ratio=4.0,
            output_dim=layout.embedding,
            # OpenAI trained with this approximation; others' weights want the exact function.
            act_layer=QuickGELU,
        )
    return load_into(tower.to_empty(device="cpu"), visual, path)


def _normalised(images: torch.Tensor) -> torch.Tensor:
    """Frames as CLIP has seen them in training: float32 [images, 3, height, width].

    Args:
        images: uint8 RGB [images, height, width, 3].
    """
    import_torchvision()
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD  # noqa: PLC0415 - after that

    mean, deviation = (
        torch.tensor(values, device=images.device)
        for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    return ((images.float() / 255.0 - mean) / deviation).permute(0, 3, 1, 2).contiguous()
