"""umT5-XXL. Planned with; its weights are not part of this version."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from training.codecs.codec import part_unavailable
from training.text.encoder import TextEncoder, TextEncoderSettings


class Umt5Settings(TextEncoderSettings):
    """umT5-XXL: tokens of width 4096."""

    kind: Literal["umt5-xxl"]
    dim: Literal[4096] = 4096
    length: int = Field(512, ge=1)

    def build(self) -> TextEncoder:
        """Not yet.

        Raises:
            UsageError: `part_unavailable`.
        """
        raise part_unavailable("text", self.kind)
