"""Frames at proxy size: upright, with square pixels, what every observer sees."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from stages.media.blocks import SourceFormat
from stages.media.probe import is_full_range

PROXY_SHORT_SIDE_PX = 288
_PROXY_LONG_SIDE_LIMIT_PX = 1152

_ROTATIONS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


def upright(image: npt.NDArray[np.generic], rotation_deg: int) -> npt.NDArray[np.generic]:
    """Turn an image clockwise by 0, 90, 180 or 270 degrees: what the display matrix asks for."""
    rotation = _ROTATIONS.get(rotation_deg)
    return image if rotation is None else np.asarray(cv2.rotate(np.asarray(image), rotation))


def proxy_size(source: SourceFormat) -> tuple[int, int]:
    """Width and height of the upright proxy: short side 288 px, both even, the aspect kept."""
    if not source.width or not source.height:
        raise ValueError("only sources with pictures have a proxy")
    short, long = sorted((source.width, source.height))
    scale = min(PROXY_SHORT_SIDE_PX / short, _PROXY_LONG_SIDE_LIMIT_PX / long)
    width, height = (max(16, round(side * scale / 2) * 2) for side in (source.width, source.height))
    return width, height


class ProxyScaler:
    """Turns decoded frames into proxies: full-range 4:2:0 planes, upright, square pixels."""

    def __init__(self, source: SourceFormat) -> None:
        self._rotation_deg = source.rotation_deg
        width, height = proxy_size(source)
        sideways = source.rotation_deg in (90, 270)
        self._width, self._height = (height, width) if sideways else (width, height)
        # One scaler for all frames: building its tables costs as much as scaling a small frame.
        self._reformatter = VideoReformatter()

    def planes(self, frame: VideoFrame) -> tuple[npt.NDArray[np.uint8], ...]:
        """Luma [height, width] and the two chroma planes [height / 2, width / 2], uint8."""
        proxy = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="yuv420p",
            interpolation=Interpolation.AREA,
            src_color_range=ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
        )
        planes = []
        for plane in proxy.planes:
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(
                plane.height, plane.line_size
            )
            planes.append(upright(pixels[:, : plane.width], self._rotation_deg))
        return tuple(np.asarray(plane, dtype=np.uint8) for plane in planes)


def luma_plane(frame: VideoFrame) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], int]:
    """The luma as the codec stores it [coded height, coded width] and its bits per sample.

    A view of the frame's memory where the format is planar YUV or grey; others are converted.
    """
    name = frame.format.name
    bits = frame.format.components[0].bits
    if not name.startswith(("yuv", "gray", "nv")) or name.startswith(("yuyv", "yuva", "grayf")):
        frame, bits = frame.reformat(format="gray"), 8
    plane = frame.planes[0]
    if bits > 8:
        deep = np.frombuffer(memoryview(plane), np.uint16).reshape(
            plane.height, plane.line_size // 2
        )
        return deep[:, : plane.width], bits
    pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return pixels[:, : plane.width], bits
