"""Pictures for observers, made from arrays or decoded from a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.base.contract import SignalStage
from stages.base.signals import Observation
from stages.media.blocks import Frame, SourceFormat
from stages.media.decode import decode_unit
from stages.media.probe import probe

Rgb = npt.NDArray[np.uint8]


def source_format(
    width: int, height: int, fps: float, *, rotation_deg: int = 0, aspect: float = 1.0
) -> SourceFormat:
    """A source of pictures of that coded size."""
    shown = (round(width * aspect), height)
    shown = shown[::-1] if rotation_deg in (90, 270) else shown
    return SourceFormat(
        modality="video",
        container="mp4",
        duration_s=10.0,
        container_start_s=0.0,
        video_index=0,
        video_codec="h264",
        coded_width=width,
        coded_height=height,
        width=shown[0],
        height=shown[1],
        fps=fps,
        rotation_deg=rotation_deg,
        sample_aspect_ratio=aspect,
        interlaced=False,
        full_range=False,
        video_start_s=0.0,
        audio_index=None,
        audio_codec=None,
        audio_start_s=None,
        audio_rate_hz=None,
        audio_channels=None,
    )


def picture_of(
    rgb: Rgb,
    time_s: float,
    duration_s: float,
    *,
    index: int = 0,
    rotation_deg: int = 0,
    aspect: float = 1.0,
    bits: int = 8,
) -> Frame:
    """A picture as a decoder would hand it on, from what the codec stores (`rgb`)."""
    height, width = rgb.shape[:2]
    scale = 288 / min(height, width * aspect)
    size = (round(width * aspect * scale / 2) * 2, round(height * scale / 2) * 2)
    proxy = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    proxy = np.ascontiguousarray(np.rot90(proxy, -(rotation_deg // 90)))
    red, _, blue = (proxy[..., channel].astype(np.float32) for channel in range(3))
    luma = cv2.cvtColor(proxy, cv2.COLOR_RGB2GRAY)
    half = (proxy.shape[1] // 2, proxy.shape[0] // 2)
    chroma_u, chroma_v = (
        cv2.resize(
            np.clip(128 + (part - luma) * gain, 0, 255).astype(np.uint8),
            half,
            interpolation=cv2.INTER_AREA,
        )
        for part, gain in ((blue, 0.564), (red, 0.713))
    )
    full = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    limited = np.round(16 + full * (219 / 255))
    source_luma: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    if bits > 8:
        source_luma = (limited * 2 ** (bits - 8)).astype(np.uint16)
    else:
        source_luma = limited.astype(np.uint8)
    return Frame(
        index=index,
        time_s=time_s,
        duration_s=duration_s,
        luma=np.asarray(luma, dtype=np.uint8),
        chroma_u=np.asarray(chroma_u, dtype=np.uint8),
        chroma_v=np.asarray(chroma_v, dtype=np.uint8),
        source_luma=source_luma,
        source_luma_bits=bits,
        full_range=False,
        rotation_deg=rotation_deg,
        damaged=False,
    )


def watch_arrays(
    stage: SignalStage[Any],
    images: Iterable[Rgb],
    times_s: Sequence[float] | npt.NDArray[np.float64],
    end_s: float,
    **shape: Any,
) -> Observation:
    """What a stage leaves behind of pictures shown from their times until the next one's."""
    edges_s = [*(float(time_s) for time_s in times_s), end_s]
    observer = None
    for index, image in enumerate(images):
        if observer is None:
            fps = len(times_s) / (end_s - edges_s[0])
            kept = {key: shape[key] for key in ("rotation_deg", "aspect") if key in shape}
            observer = stage.observer(source_format(image.shape[1], image.shape[0], fps, **kept))
        duration_s = edges_s[index + 1] - edges_s[index]
        observer.frame(picture_of(image, edges_s[index], duration_s, index=index, **shape))
    assert observer is not None
    return observer.finish(edges_s[0], end_s)


def watch_file(
    stage: SignalStage[Any], path: Path
) -> tuple[SourceFormat, Observation, float, float]:
    """A file's format, what a stage leaves behind of it, and its decoded span."""
    source = probe(str(path))
    observer = stage.observer(source)
    span = decode_unit(
        str(path),
        source,
        -math.inf,
        math.inf,
        on_frame=observer.frame,
        on_audio=lambda block: None,
    )
    assert span.start_s is not None and span.end_s is not None
    return source, observer.finish(span.start_s, span.end_s), span.start_s, span.end_s


def summary(stage: SignalStage[Any], observation: Observation, start_s: float, end_s: float) -> Any:
    """The clip's record, through the precision that the table `signals` keeps."""
    signals = observation.signals
    series: Mapping[str, npt.NDArray[np.float64]] = {
        name: values.astype(np.float32).astype(np.float64)
        for name, values in signals.series.items()
    }
    assert set(series) == set(stage.series)
    stored = type(signals)(signals.start_s, signals.rate_hz, series)
    return stage.summarise(stored, start_s, end_s, observation.side_rows)
