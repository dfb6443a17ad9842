"""What finds the faces of one frame: YuNet, or OpenCV's Haar cascade."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from stages.media.blocks import Frame
from stages.video.faces.tracks import Face

_CASCADE = "haarcascade_frontalface_default.xml"
_SHORT_SIDE_PX = 192
"""The cascade costs by the pixel; at this size it sees faces from an eighth of the short side."""
_WINDOW_PX = 24
_FULL_WEIGHT = 8.0


class FaceDetector(Protocol):
    """Finds the faces of one frame; `first_score` is the least that begins a track."""

    first_score: float

    def faces(self, frame: Frame) -> list[Face]:
        """The faces, best first."""


class YuNet:
    """YuNet (Wu et al. 2023) in OpenCV: boxes, scores and landmarks, two of them the mouth's.

    Args:
        weights: the ONNX file.
        first_score: least score (0..1) of a face that begins a track.
        next_score: least score of one that carries a track on.
        min_height_share: least height of a face as a share of the frame's short side.
    """

    def __init__(
        self, weights: Path, *, first_score: float, next_score: float, min_height_share: float
    ) -> None:
        self.first_score = first_score
        self._min_height_share = min_height_share
        self._size = (320, 320)
        self._detector = cv2.FaceDetectorYN.create(
            str(weights), "", self._size, score_threshold=min(first_score, next_score)
        )

    def faces(self, frame: Frame) -> list[Face]:
        """The faces, best first."""
        height, width = frame.luma.shape
        if self._size != (width, height):
            self._size = (width, height)
            self._detector.setInputSize(self._size)
        _, found = self._detector.detect(frame.bgr)
        if found is None:
            return []
        rows = np.asarray(found, dtype=np.float64)
        rows = rows[rows[:, 3] >= self._min_height_share * min(height, width)]
        return [
            Face(
                left=float(row[0]) / width,
                top=float(row[1]) / height,
                width=float(row[2]) / width,
                height=float(row[3]) / height,
                score=float(row[14]),
                mouth_x=float(row[10] + row[12]) / 2 / width,
                mouth_y=float(row[11] + row[13]) / 2 / height,
            )
            for row in rows[np.argsort(-rows[:, 14], kind="stable")]
        ]


class HaarCascade:
    """OpenCV's frontal face cascade (Viola and Jones 2001), set for precision.

    Its score is the cascade's confidence, brought to 0..1; any face may begin a track.

    Args:
        neighbours: detections that must agree on a face.
        min_height_share: least height of a face as a share of the frame's short side.
    """

    first_score = 0.0

    def __init__(self, *, neighbours: int, min_height_share: float) -> None:
        self._neighbours = neighbours
        self._min_height_share = min_height_share
        folder = Path(cv2.__file__).parent / "data"
        self._cascade = cv2.CascadeClassifier(str(folder / _CASCADE))

    def faces(self, frame: Frame) -> list[Face]:
        """The faces, best first."""
        scale = min(1.0, _SHORT_SIDE_PX / min(frame.luma.shape))
        luma = cv2.resize(frame.luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = luma.shape
        least = max(_WINDOW_PX, round(self._min_height_share * min(height, width)))
        boxes, _, weights = self._cascade.detectMultiScale3(
            luma,
            scaleFactor=1.2,
            minNeighbors=self._neighbours,
            minSize=(least, least),
            outputRejectLevels=True,
        )
        found = [
            Face(
                left=float(left) / width,
                top=float(top) / height,
                width=float(box_width) / width,
                height=float(box_height) / height,
                score=float(np.clip(weight / _FULL_WEIGHT, 0.0, 1.0)),
            )
            for (left, top, box_width, box_height), weight in zip(
                np.asarray(boxes).reshape(-1, 4), np.asarray(weights).reshape(-1), strict=True
            )
        ]
        return sorted(found, key=lambda face: -face.score)
