"""What the rest of training knows of a model: a family's spec, and what its models answer to."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from manifests.settings import Settings
from training.models.released import ReleasedLayout


class ModelSettings(Settings):
    """A family's settings; each family adds its own.

    Attributes:
        family: name in the registry, or a user's own as `module:factory`.
    """

    family: str


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """What codecs and text encoder hand to a model.

    Attributes:
        video_channels: of a video latent.
        audio_channels: of an audio latent.
        text_dim: width of a text token.
        text_length: text tokens of a prompt.
        latent_rate_ratio: latent frames of a clip for each of its audio latents.
    """

    video_channels: int
    audio_channels: int
    text_dim: int
    text_length: int
    latent_rate_ratio: float


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """Tokens of one sample; 0 where a modality is absent."""

    video: int
    audio: int
    text: int


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What a training step goes back for.

    Attributes:
        trained: whether a parameter of the model is trained, by its name there.
        text: whether gradients go on into the text encoder.
        video: whether the video's velocities have a loss.
        audio: whether the audio's have.
    """

    trained: Callable[[str], bool]
    text: bool
    video: bool = True
    audio: bool = True


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one sample's training step, two per multiplication.

    Only matrix products and convolutions count, as is usual, and attention is counted as it is
    written, not as a kernel that keeps no scores runs it again.

    Attributes:
        forward: of the forward pass.
        backward: of the backward pass: gradients of trained weights, and of all that leads to them.
        recomputed: of the forward pass, what runs again in the backward pass if units are
            recomputed.
    """

    forward: float
    backward: float
    recomputed: float


class JointModel(nn.Module, abc.ABC):
    """Predicts the velocities of both modalities, or of one where the other is left out.

    It knows nothing of ranks, data, prompts or losses. Symbols in shapes: B samples, C latent
    channels, F x H x W the video latent, L audio latents, T text tokens.
    """

    @abc.abstractmethod
    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        timestep: Tensor,
        text: Tensor,
        *,
        video_given: Tensor | None = None,
        audio_given: Tensor | None = None,
        audio_timestep: Tensor | None = None,
        audio_text: Tensor | None = None,
        skip_blocks: Collection[int] = (),
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities [B, C, F, H, W] and [B, L, C], None for what is left out.

        Args:
            video: noisy latent [B, C, F, H, W], or None.
            audio: noisy latent [B, L, C], or None.
            timestep: [B], from 0 (data) to the family's `timestep_scale` (noise).
            text: [B, T, text_dim], zero-padded.
            video_given: bool [B, video tokens]: clean tokens, whose timestep is 0.
            audio_given: bool [B, L], the same for audio.
            audio_timestep: [B], where it is not the video's.
            audio_text: where it is not the video's.
            skip_blocks: blocks that are passed over, for guidance without them.
        """


SettingsT = TypeVar("SettingsT", bound=ModelSettings)
SettingsT_contra = TypeVar("SettingsT_contra", bound=ModelSettings, contravariant=True)


class ActivationBytes(Protocol[SettingsT_contra]):
    """Bytes that one sample's forward pass keeps for its backward pass, about."""

    def __call__(
        self,
        settings: SettingsT_contra,
        tokens: TokenCounts,
        /,
        *,
        matmul_bytes: int,
        recompute: bool,
    ) -> float:
        """For so many tokens and bytes of a number in a matrix product, recomputed or not."""


@dataclasses.dataclass(frozen=True)
class ModelFamily(Generic[SettingsT]):
    """All that training, planning and sampling need to know of a kind of model.

    Attributes:
        settings: what a recipe says under `model`.
        build: the model, initialised by torch's random numbers; free on the meta device.
        patch: video latents a token along time, rows and columns. An audio latent is a token.
        units: names of the submodules that are sharded, recomputed and compiled as a unit; each
            runs exactly once in every pass.
        flops: operations of one sample's training step.
        activation_bytes: memory that one sample's forward pass keeps for its backward pass.
        timestep_scale: timestep of pure noise; data is at 0.
        released: layouts of files that its weights can be read from and written to.
    """

    settings: type[SettingsT]
    build: Callable[[SettingsT, InputFormat], JointModel]
    patch: Callable[[SettingsT], tuple[int, int, int]]
    units: Callable[[nn.Module], Iterator[str]]
    flops: Callable[[SettingsT, InputFormat, TokenCounts, Gradients], Flops]
    activation_bytes: ActivationBytes[SettingsT]
    timestep_scale: float
    released: tuple[ReleasedLayout, ...] = ()
