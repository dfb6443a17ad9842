"""Random numbers that depend on names alone: on no rank, no order, no earlier draw."""

from __future__ import annotations

import hashlib

import torch


def key(*parts: object) -> int:
    """63 bits of the SHA-256 of the parts' texts; equal parts, equal key, on any machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A generator on the CPU, seeded by the parts' key.

    On the CPU whatever the device: a sample's noise is then the same on every kind of machine.
    """
    return torch.Generator().manual_seed(key(*parts))


def uniform(*parts: object) -> float:
    """A number in [0, 1)."""
    return key(*parts) / 2.0**63
