"""Wan 2.2's video VAE through diffusers: Ovi's video latents."""

from __future__ import annotations

import importlib.util
import re
import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.models.torchvision_guard import import_torchvision
from stages.weights.load import bad_weights, load_into, load_state_dict
from training.codecs.codec import VideoCodec, VideoCodecSettings
from training.parts import missing_package

_CHANNELS = 48
_PATCH = 2
_DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"

# Mean and deviation of each channel, over the data that Wan was trained on: `latents_mean` and
# `latents_std` in vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers.
_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_DEVIATION = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


class WanSettings(VideoCodecSettings):
    """Wan 2.2's video VAE: 48 channels, a latent for 4 frames of 16 x 16 pixels."""

    kind: Literal["wan-2.2"]
    file: str | None = Field(
        None,
        description="weights in the place of the released ones: a file in the original's or in"
        " diffusers' layout, or a folder of diffusers'",
    )
    weights: ClassVar[tuple[str, ...]] = ("wan-2.2-vae",)

    @property
    def channels(self) -> int:
        """Of a latent."""
        return _CHANNELS

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns a latent."""
        return 4, 16, 16

    @property
    def own_weights(self) -> tuple[Path, ...]:
        """The file that takes the place of the released weights."""
        if self.file is None:
            return ()
        path = Path(self.file).expanduser()
        return (path / _DIFFUSERS_FILE if path.is_dir() else path,)

    def build(self) -> Wan:
        """The codec, with its weights.

        Raises:
            UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        """
        if importlib.util.find_spec("diffusers") is None:
            raise missing_package("diffusers", needed_by=self.needed_by)
        (file,) = self.weight_paths()
        return Wan(load_vae(file))


class Wan(VideoCodec):
    """Latents are the means of the VAE's posteriors, normalised by channel: always the same.

    Args:
        vae: diffusers' AutoencoderKLWan.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae: Any = vae
        shape = (1, _CHANNELS, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(_MEAN).view(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(shape), persistent=False)
        self.mean: Tensor
        self.deviation: Tensor
        # The network keeps the frames before the present ones in itself.
        self._alone = threading.Lock()

    def encode(self, frames: Tensor) -> Tensor:
        """Latents [B, 48, F, H, W] of [B, 3, 1 + 4 (F - 1), 16 H, 16 W]."""
        with self._alone:
            mean = self.vae.encode(frames).latent_dist.mean
        return (mean - self.mean) / self.deviation

    def decode(self, latent: Tensor) -> Tensor:
        """Frames [B, 3, 1 + 4 (F - 1), 16 H, 16 W] in [-1, 1]."""
        with self._alone:
            return self.vae.decode(latent * self.deviation + self.mean).sample.clamp(-1, 1)


def load_vae(path: Path) -> nn.Module:
    """diffusers' AutoencoderKLWan with the weights in a file, of the widths that its tensors have.

    Args:
        path: in the original's layout or in diffusers'.

    Raises:
        UsageError: `bad_weights`.
    """
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    from diffusers import AutoencoderKLWan  # noqa: PLC0415 - plans and recipes do without it

    weights = load_state_dict(path)
    if "encoder.conv1.weight" in weights:
        weights = {_diffusers_name(name): tensor for name, tensor in weights.items()}
    try:
        width, inputs = weights["encoder.conv_in.weight"].shape[:2]
        decoder_width = weights["decoder.norm_out.gamma"].shape[0]
        channels = weights["post_quant_conv.weight"].shape[0]
    except KeyError as error:
        raise bad_weights(path, f"It lacks {error}.") from error
    if channels != _CHANNELS:
        raise bad_weights(path, f"Its latents have {channels} channels instead of {_CHANNELS}.")
    with torch.device("meta"):
        vae: nn.Module = AutoencoderKLWan(
            base_dim=width,
            decoder_base_dim=decoder_width,
            z_dim=channels,
            is_residual=True,
            in_channels=inputs,
            out_channels=inputs,
            patch_size=_PATCH,
            scale_factor_spatial=16,
        )
    return load_into(vae, weights, path, assign=True)


_LAYER_NAMES = {"0": "norm1", "2": "conv1", "3": "norm2", "6": "conv2"}
"""Of a residual block, by their place in the original's sequence."""
_RESAMPLING = r"\d\.(resample|time_conv)"
_NAMES = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(\w+)\.conv1\.", r"\1.conv_in."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (rf"\.downsamples\.(\d)\.downsamples\.{_RESAMPLING}", r".down_blocks.\1.downsampler.\2"),
    (rf"\.upsamples\.(\d)\.upsamples\.{_RESAMPLING}", r".up_blocks.\1.upsampler.\2"),
    (r"\.downsamples\.(\d)\.downsamples\.(\d)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.upsamples\.(\d)\.upsamples\.(\d)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def _diffusers_name(original: str) -> str:
    """Diffusers' name of a tensor of `Wan2.2_VAE.pth`."""
    name = re.sub(r"\.residual\.(\d)\.", lambda found: f".{_LAYER_NAMES[found[1]]}.", original)
    for pattern, other in _NAMES:
        name = re.sub(pattern, other, name, count=1)
    return name
