"""Random numbers that depend on names alone: on no rank, no order, no earlier draw."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
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


def mixed(values: npt.NDArray[np.uint64], *parts: object) -> npt.NDArray[np.uint64]:
    """Keys of many values at once, one for each: equal value and parts, equal key.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators"), which gives different values different keys.
    """
    found = values ^ np.uint64(key(*parts))
    with np.errstate(over="ignore"):
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))
