"""A text encoder that needs no weights: one vector a word."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.text.encoder import TextEncoder, TextEncoderSettings

_WORDS = re.compile(r"\w+|[^\w\s]")


class WordTextSettings(TextEncoderSettings):
    """A vector for each word, trained with the model."""

    kind: Literal["words"]
    dim: int = Field(128, ge=1, description="width of a token")
    length: int = Field(32, ge=1, description="words of a prompt; what comes after them is cut")
    vectors: int = Field(4096, ge=2, description="words that are told apart, at most, by hash")

    def build(self) -> WordEncoder:
        """The encoder."""
        return WordEncoder(dim=self.dim, length=self.length, vectors=self.vectors)


class WordEncoder(TextEncoder):
    """A vector for each word, and one for its place, trained from scratch with the model.

    A few dozen captions of few words are enough for it: a word is the same wherever it stands, so
    that words seen in other company before say what they said there. Words are told apart by hash
    (Weinberger et al., "Feature Hashing", 2009): there is no vocabulary to be made or kept.

    Args:
        dim: width of a token.
        length: words of a prompt.
        vectors: in the table; two words may share one.
    """

    def __init__(self, *, dim: int, length: int, vectors: int) -> None:
        super().__init__()
        self.dim, self.length, self.vectors = dim, length, vectors
        self.words = nn.Embedding(vectors, dim)
        self.places = nn.Parameter(0.1 * torch.randn(length, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts into [B, length, dim]."""
        device = self.places.device
        rows = torch.full((len(prompts), self.length), -1)
        for row, prompt in enumerate(prompts):
            words = _WORDS.findall(prompt.lower())[: self.length]
            rows[row, : len(words)] = torch.tensor([self._row(word) for word in words]).long()
        rows = rows.to(device)
        hidden = self.norm(self.words(rows.clamp(min=0)) + self.places)
        return hidden.masked_fill((rows < 0)[..., None], 0.0)

    def _row(self, word: str) -> int:
        """A word's place in the table, the same in every process."""
        digest = hashlib.sha256(word.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.vectors
