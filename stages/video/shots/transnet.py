"""Cuts and fades where TransNetV2 sees a transition."""

from __future__ import annotations

import cv2
import numpy as np

from stages.media.blocks import ByteImage, Frame
from stages.models.transnet import FRAME_SIZE_PX, WINDOW_FRAMES, transition_probabilities
from stages.video.shots.cuts import Boundary

_STEP_FRAMES = 50
_HARD_CUT_FRAMES = 3
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
        small = cv2.resize(frame.small_bgr, FRAME_SIZE_PX, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        if not self._times_s:
            # The first frame stands in for those before it.
            self._pending += [image] * ((WINDOW_FRAMES - _STEP_FRAMES) // 2)
        self._pending.append(image)
        self._times_s.append(frame.time_s)
        if len(self._pending) == WINDOW_FRAMES:
            self._look()

    def boundaries(self) -> list[Boundary]:
        """All transitions, in order; called once, at the end."""
        while len(self._probabilities) < len(self._times_s):
            self._pending += [self._pending[-1]] * (WINDOW_FRAMES - len(self._pending))
            self._look()
        marked = np.asarray(self._probabilities[: len(self._times_s)]) > self._threshold
        edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
        found = []
        for first, after in zip(edges[::2], edges[1::2], strict=True):
            # The network marks the last frames of the old shot; what follows is the new one.
            if after < len(self._times_s):
                gradual = after - first > _HARD_CUT_FRAMES
                found.append(Boundary(self._times_s[after], "fade" if gradual else "cut"))
        return found

    def _look(self) -> None:
        """Judge the middle of the pending window, and move it on by half."""
        margin = (WINDOW_FRAMES - _STEP_FRAMES) // 2
        probabilities = transition_probabilities(np.stack(self._pending))
        self._probabilities += probabilities[margin : margin + _STEP_FRAMES].tolist()
        del self._pending[:_STEP_FRAMES]
