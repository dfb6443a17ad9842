"""Fingerprints: short stable hashes of what a result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

FINGERPRINT_HEX_DIGITS = 16


def fingerprint(value: Any) -> str:  # noqa: ANN401 - anything JSON can say
    """16 hex digits of the SHA-256 of `value` as canonical JSON (sorted keys, no blanks).

    Args:
        value: anything made of dicts, lists, strings, numbers, booleans and None.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_HEX_DIGITS]
