"""What a text encoder is: prompts to vectors."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor, nn

from manifests.settings import Settings


class TextEncoder(nn.Module, abc.ABC):
    """Turns prompts into [B, length, dim]: a prompt's tokens, then zeros.

    Attributes:
        dim: width of a token.
        length: tokens; what a prompt has beyond them is cut.
    """

    dim: int
    length: int

    @abc.abstractmethod
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts; an empty one is all zeros, which is what a dropped caption is."""


class TextEncoderSettings(Settings, abc.ABC):
    """Settings of a text encoder.

    Attributes:
        dim: width of a token.
        length: tokens.
    """

    dim: int
    length: int

    @abc.abstractmethod
    def build(self) -> TextEncoder:
        """The encoder, initialised by torch's random numbers.

        Raises:
            UsageError: `part_unavailable`.
        """
