"""Offset and confidence by SyncNet: face crops and cepstra of a clip, and the model over many.

Tracks become crops as in joonson/syncnet_python's pipeline (run_pipeline.py, `crop_video`), from
the boxes of the stage `faces`, which looks a few times a second instead of at every frame.
Published numbers were measured over boxes of S3FD, which frame a face otherwise than YuNet or the
Haar cascade; the crops follow the boxes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import scipy.signal

from stages.base.clip import ClipTask
from stages.media.audio import conformed_audio
from stages.media.blocks import ByteImage, FloatArray, Margins
from stages.media.conform import conformed_frames
from stages.models.mfcc import mfcc
from stages.weights.find import find_weights
from stages.weights.load import load_into, load_state_dict

if TYPE_CHECKING:
    from stages.models.syncnet import Distances, Mode, SyncNet

MAX_CROPS = 1000
"""Crops handed on of a clip, 150 MB: 40 s of one face, or six faces through 6.6 s."""

_FPS = 25
_RATE_HZ = 16_000
_SAMPLES_A_FRAME = _RATE_HZ // _FPS
_CROP_PX = 224
_CROP_SCALE = 0.40
_PAD_VALUE = 110
_MEDIAN_FRAMES = 13
_SHORT_CLIP_S = 6.0
_LONGEST_REACH_S = 0.25
_CONVERTED_WEIGHTS = "syncnet_v2.safetensors"


@dataclasses.dataclass(frozen=True)
class FaceChoice:
    """Which tracks are looked at; see the settings of the same names in `SyncParameters`."""

    min_track_frames: int
    min_track_frames_short: int
    min_side_px: float
    max_tracks: int


@dataclasses.dataclass(frozen=True)
class FaceAndVoice:
    """One face track with the sound of the same span.

    `track` is its index in its unit; `frames_bgr` uint8 [frames, 224, 224, 3] at 25 fps; `cepstra`
    float32 [columns, 13], four columns a frame less the last.
    """

    track: int
    frames_bgr: npt.NDArray[np.uint8]
    cepstra: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class ClipFaces:
    """What SyncNet has to see and hear of a clip: at least one face."""

    faces: tuple[FaceAndVoice, ...]


def find_converted() -> Path | None:
    """SyncNet's weights as `syncnet_v2.safetensors`, where a user has converted them.

    That helps where torch's restricted reader refuses the published file: unpickle it on a machine
    you trust it on, and save its state dict with `safetensors.torch.save_file`.
    """
    return find_weights(_CONVERTED_WEIGHTS)


def load_syncnet(path: Path, device: str) -> SyncNet:
    """The model with weights from a file, on a device.

    Raises:
        UsageError: `bad_weights`.
    """
    from stages.models.syncnet import SyncNet  # noqa: PLC0415 - needs torch

    model = SyncNet()
    # Old versions of torch saved no such counters; evaluation does not use them.
    counters = {
        name: value
        for name, value in model.state_dict().items()
        if name.endswith("num_batches_tracked")
    }
    load_into(model, {**counters, **load_state_dict(path)}, path)
    return model.to(device)


def best_faces(
    model: SyncNet, batch: Sequence[ClipFaces], mode: Mode
) -> list[tuple[int, Distances]]:
    """Of every clip the track of the highest confidence, and its distances.

    The face that speaks stands out; a mean over faces would say nothing of any.
    """
    from stages.models.syncnet import (  # noqa: PLC0415 - needs torch
        distances,
        lip_features,
        voice_features,
        window_count,
    )

    faces = [face for clip in batch for face in clip.faces]
    frames = [len(face.frames_bgr) for face in faces]
    windows = [window_count(count, count * _SAMPLES_A_FRAME) for count in frames]
    lips = lip_features(model, [face.frames_bgr for face in faces], windows)
    voices = voice_features(model, [face.cepstra for face in faces], windows)
    found = iter(distances(*pair, mode=mode) for pair in zip(lips, voices, strict=True))
    return [
        max(((face.track, next(found)) for face in clip.faces), key=lambda one: one[1].confidence)
        for clip in batch
    ]


def faces_of(clip: ClipTask, choice: FaceChoice) -> ClipFaces | None:
    """The crops and cepstra of a clip's usable tracks, from one decode; None without any.

    Args:
        clip: it has video and audio.
        choice: which tracks are usable.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    paths = _usable_paths(clip, choice)
    if not paths:
        return None
    samples = _samples(clip)
    return ClipFaces(
        tuple(
            FaceAndVoice(path.track, crops, _cepstra(samples, path))
            for path, crops in zip(paths, _crops(clip, paths), strict=True)
        )
    )


@dataclasses.dataclass(frozen=True)
class _FacePath:
    """A face's centre and half its size in displayed pixels, float64 [frames].

    Frame i is tick `first_tick + i` of the grid of 25 fps that begins where the clip does.
    """

    track: int
    first_tick: int
    x_px: FloatArray
    y_px: FloatArray
    half_px: FloatArray
    mean_side_px: float

    @property
    def ticks(self) -> range:
        return range(self.first_tick, self.first_tick + len(self.x_px))

    def cut(self, frames: int) -> _FacePath:
        """Its first frames."""
        x_px, y_px, half_px = (values[:frames] for values in (self.x_px, self.y_px, self.half_px))
        return dataclasses.replace(self, x_px=x_px, y_px=y_px, half_px=half_px)


def _ticks(clip: ClipTask) -> int:
    return int((clip.end_s - clip.start_s) * _FPS + 1e-6)


def _usable_paths(clip: ClipTask, choice: FaceChoice) -> list[_FacePath]:
    """Faces followed for long enough and large enough, largest first, `MAX_CROPS` frames in all."""
    short = clip.end_s - clip.start_s < _SHORT_CLIP_S
    more_than = choice.min_track_frames_short if short else choice.min_track_frames
    paths = [
        path
        for row in clip.side_rows.get("face_tracks", ())
        if (path := _face_path(row, clip)) is not None
        and len(path.ticks) > more_than
        and path.mean_side_px > choice.min_side_px
    ]
    paths.sort(key=lambda path: -path.mean_side_px)
    kept: list[_FacePath] = []
    room = MAX_CROPS
    for path in paths[: choice.max_tracks]:
        if room > more_than:
            kept.append(path.cut(room))
            room -= len(kept[-1].ticks)
    return kept


def _face_path(row: Mapping[str, Any], clip: ClipTask) -> _FacePath | None:
    """A track's part in the clip, or None if it has none.

    Boxes are interpolated linearly; centre and size are smoothed by a median over 13 frames with
    zeros beyond the ends, as in the reference.
    """
    assert clip.source.width and clip.source.height
    sampled_s = np.asarray(row["times_s"], dtype=np.float64)
    ticks_s = clip.start_s + np.arange(_ticks(clip)) / _FPS
    reach_s = _reach_s(sampled_s)
    first, end = np.searchsorted(ticks_s, [sampled_s[0] - reach_s, sampled_s[-1] + reach_s])
    if end - first < _MEDIAN_FRAMES:
        return None
    left, top, width, height = (
        np.interp(ticks_s[first:end], sampled_s, np.asarray(row[name], dtype=np.float64)) * side_px
        for name, side_px in (
            ("left", clip.source.width),
            ("top", clip.source.height),
            ("width", clip.source.width),
            ("height", clip.source.height),
        )
    )
    return _FacePath(
        int(row["track_index"]),
        int(first),
        _median(left + width / 2),
        _median(top + height / 2),
        _median(np.maximum(width, height) / 2),
        float(max(width.mean(), height.mean())),
    )


def _reach_s(sampled_s: FloatArray) -> float:
    """How far a track reaches beyond its ends: half way to the next sample without it."""
    if len(sampled_s) < 2:
        return _LONGEST_REACH_S
    return min(_LONGEST_REACH_S, float(np.median(np.diff(sampled_s))) / 2)


def _median(values: FloatArray) -> FloatArray:
    return np.asarray(scipy.signal.medfilt(values, _MEDIAN_FRAMES), dtype=np.float64)


def _crops(clip: ClipTask, paths: Sequence[_FacePath]) -> list[npt.NDArray[np.uint8]]:
    """Every path's crops, uint8 BGR [frames, 224, 224, 3], from one decode of the clip."""
    assert clip.source.width and clip.source.height
    crops = [np.empty((len(path.ticks), _CROP_PX, _CROP_PX, 3), np.uint8) for path in paths]
    first = min(path.ticks[0] for path in paths)
    shown = conformed_frames(
        clip.uri,
        clip.source,
        clip.start_s + first / _FPS,
        margins_px=Margins(),
        area_px=clip.source.width * clip.source.height,
        frames=max(path.ticks[-1] for path in paths) - first + 1,
        fps=_FPS,
        pixel_format="rgb24",
    )
    before: object = None
    image: ByteImage = np.empty((0, 0, 3), np.uint8)
    for tick, frame in enumerate(shown, start=first):
        if frame is not before:
            before, image = frame, np.asarray(frame.to_ndarray(), np.uint8)
        for path, own in zip(paths, crops, strict=True):
            if tick in path.ticks:
                own[tick - path.first_tick] = _crop(image, path, tick - path.first_tick)
    return crops


def _crop(image: ByteImage, path: _FacePath, frame: int) -> ByteImage:
    """The square from the top of the box to 0.4 of its size below it: uint8 BGR [224, 224, 3].

    Args:
        image: uint8 RGB [height, width, 3], as displayed.
        path: the face's.
        frame: which of its frames.
    """
    x_px, y_px, half_px = (float(values[frame]) for values in (path.x_px, path.y_px, path.half_px))
    below_px, beside_px = half_px * (1 + 2 * _CROP_SCALE), half_px * (1 + _CROP_SCALE)
    top, bottom = math.floor(y_px - half_px), math.floor(y_px + below_px)
    left, right = math.floor(x_px - beside_px), math.floor(x_px + beside_px)
    height, width = image.shape[:2]
    crop = np.full((max(1, bottom - top), max(1, right - left), 3), _PAD_VALUE, np.uint8)
    rows, columns = _inside(top, bottom, height), _inside(left, right, width)
    crop[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = image[
        rows, columns
    ]
    return np.asarray(cv2.resize(crop, (_CROP_PX, _CROP_PX))[:, :, ::-1], dtype=np.uint8)


def _inside(start: int, stop: int, length: int) -> slice:
    """The part of a range inside `length`; empty, at one end, where there is none."""
    start, stop = max(start, 0), min(stop, length)
    return slice(start, max(start, stop))


def _samples(clip: ClipTask) -> npt.NDArray[np.int16]:
    """The clip's sound in mono at 16 kHz, 640 samples for every tick."""
    samples = conformed_audio(
        clip.uri,
        clip.source,
        clip.start_s,
        clip.end_s,
        samples=_ticks(clip) * _SAMPLES_A_FRAME,
        rate_hz=_RATE_HZ,
        channels=1,
    )[:, 0]
    return np.asarray(np.clip(np.rint(samples * 32768.0), -32768, 32767), dtype=np.int16)


def _cepstra(samples: npt.NDArray[np.int16], path: _FacePath) -> npt.NDArray[np.float32]:
    start, end = (tick * _SAMPLES_A_FRAME for tick in (path.ticks[0], path.ticks[-1] + 1))
    return mfcc(samples[start:end]).astype(np.float32)
