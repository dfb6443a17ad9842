"""What a text encoder is: prompts to vectors."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.parts import PartSettings


class TextEncoder(nn.Module, abc.ABC):
    """Turns prompts into [B, length, dim]: a prompt's tokens, then zeros.

    A caption that is dropped for guidance is the empty prompt, whatever an encoder makes of it:
    nothing but zeros, or the tokens that every text ends with.

    Attributes:
        dim: width of a token.
        length: tokens; what a prompt has beyond them is cut.
    """

    dim: int
    length: int

    @abc.abstractmethod
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts."""


class FrozenTextEncoder(TextEncoder):
    """An encoder that stands outside the trained model: what it makes of a prompt is an input.

    No checkpoint holds it, no rank shards it. Its embeddings can be made before training.
    """

    @abc.abstractmethod
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Each prompt's own tokens [tokens, dim]: at most `length`, no padding."""

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts into float32 [B, length, dim]."""
        return torch.stack([pad_text(text, self.length) for text in self.encode(prompts)])


def pad_text(text: Tensor, length: int) -> Tensor:
    """A prompt's tokens [tokens, dim], then zeros: float32 [length, dim]."""
    return nn.functional.pad(text.float(), (0, 0, 0, length - len(text)))


class TextEncoderSettings(PartSettings, abc.ABC):
    """Settings of a text encoder.

    Attributes:
        dim: width of a token.
        length: tokens.
        is_frozen: whether it builds a `FrozenTextEncoder`.
    """

    place: ClassVar[str] = "text"
    is_frozen: ClassVar[bool] = False
    dim: int
    length: int

    def forward_flops(self) -> float:
        """Operations of one prompt, two per multiplication; 0 for a frozen one."""
        return 0.0

    @abc.abstractmethod
    def build(self) -> TextEncoder:
        """The encoder, with its weights, or else initialised by torch's random numbers.

        Raises:
            UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        """
