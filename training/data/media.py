"""A sample's bytes as pictures and sound of the size that a model trains on, and clips as files."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from av.video.reformatter import Interpolation
from torch import Tensor

from manifests.errors import MediaError
from stages.media.open import open_container


def fit_size(width: int, height: int, *, area_px: int, multiple: int) -> tuple[int, int]:
    """Width and height, multiples of `multiple`, nearest to an area at a picture's aspect.

    As Ovi's released code rounds them: 720 x 720 becomes 704 x 704 for multiples of 32.
    """
    aspect = width / height
    sides = ((area_px * aspect) ** 0.5, (area_px / aspect) ** 0.5)
    fitted = [max(multiple, round(side / multiple) * multiple) for side in sides]
    return fitted[0], fitted[1]


def read_pictures(
    data: bytes, extension: str, *, frames: int, width: int, height: int, subject: str
) -> Tensor:
    """The first `frames` pictures, scaled to cover width x height and cropped at the middle.

    Args:
        data: an `mp4`, or a `video.npy` of uint8 [frames, rows, columns, 3].
        extension: which of the two.
        frames: how many.
        width: columns to come to.
        height: rows to come to.
        subject: what an error names.

    Returns:
        float32 [3, frames, height, width], RGB in [-1, 1].

    Raises:
        MediaError: `sample_unreadable`.
    """
    try:
        if extension == "video.npy":
            stored = np.load(io.BytesIO(data))[:frames]
            video = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in stored]
            pictures = [fit_picture(picture, width, height) for picture in video]
        else:
            with open_container(io.BytesIO(data), subject) as container:
                pictures = []
                for picture in container.decode(video=0):
                    pictures.append(fit_picture(picture, width, height))
                    if len(pictures) == frames:
                        break
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise _unreadable(subject, str(error)) from error
    if len(pictures) < frames:
        raise _unreadable(subject, f"{len(pictures)} pictures instead of {frames}")
    return torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def fit_picture(picture: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """One picture scaled to cover width x height and cropped at the middle, uint8 RGB."""
    scale = max(width / picture.width, height / picture.height)
    columns = max(width, round(picture.width * scale))
    rows = max(height, round(picture.height * scale))
    scaled = picture.reformat(columns, rows, format="rgb24", interpolation=Interpolation.AREA)
    left, top = (columns - width) // 2, (rows - height) // 2
    return scaled.to_ndarray()[top : top + height, left : left + width]


def read_picture(path: Path, *, width: int | None = None, height: int | None = None) -> np.ndarray:
    """An image file's (or a video's first) picture, uint8 RGB [rows, columns, 3].

    Args:
        path: the file.
        width: columns to come to, cropped at the middle; as it is if not given.
        height: rows to come to.

    Raises:
        MediaError: `image_unreadable`.
    """
    try:
        with path.open("rb") as file, open_container(file, str(path)) as container:
            picture = next(container.decode(video=0))
        return fit_picture(picture, width or picture.width, height or picture.height)
    except (av.FFmpegError, OSError, StopIteration, IndexError) as error:
        raise MediaError(
            "image_unreadable",
            f"It cannot be read as a picture ({error}).",
            subject=str(path),
            remedy="Give a PNG, JPEG or WebP file, or a video whose first picture is wanted.",
        ) from error


def read_sound(data: bytes, *, samples: int, rate_hz: int, subject: str) -> Tensor:
    """The first `samples` of a `flac` or `wav`, channels averaged: float32 [samples] in [-1, 1].

    Raises:
        MediaError: `sample_unreadable`.
    """
    try:
        sound, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise _unreadable(subject, str(error)) from error
    if rate != rate_hz:
        raise _unreadable(subject, f"sound at {rate} Hz instead of {rate_hz} Hz")
    if len(sound) < samples:
        raise _unreadable(subject, f"{len(sound)} samples of sound instead of {samples}")
    return torch.from_numpy(sound[:samples].mean(axis=1))


def read_video_file(path: Path, *, frames: int, fps: float, width: int, height: int) -> Tensor:
    """A video file's pictures at a constant rate, from its start, scaled and cropped to a size.

    Each tick shows the last picture whose time has come; a video that is shorter holds its last.

    Returns:
        float32 [3, frames, height, width], RGB in [-1, 1].

    Raises:
        MediaError: `video_unreadable`.
    """
    pictures: list[np.ndarray] = []
    try:
        with path.open("rb") as file, open_container(file, str(path)) as container:
            shown: np.ndarray | None = None
            start_s: float | None = None
            for picture in container.decode(video=0):
                time_s = picture.time or 0.0
                start_s = time_s if start_s is None else start_s
                # Ticks before this picture's time still show the one before it.
                while shown is not None and (len(pictures) + 0.5) / fps < time_s - start_s:
                    pictures.append(shown)
                if len(pictures) >= frames:
                    break
                shown = fit_picture(picture, width, height)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise _no_video(path, str(error)) from error
    if shown is None:
        raise _no_video(path, "it has no picture")
    pictures += [shown] * (frames - len(pictures))
    return torch.from_numpy(np.stack(pictures[:frames])).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def _no_video(path: Path, why: str) -> MediaError:
    return MediaError(
        "video_unreadable",
        f"It cannot be read as a video ({why}).",
        subject=str(path),
        remedy="Give any video file with at least one picture.",
    )


def read_sound_file(path: Path, *, rate_hz: int) -> Tensor:
    """Any media file's sound, channels averaged, resampled: float32 [samples].

    Raises:
        MediaError: `sound_unreadable`.
    """
    try:
        with path.open("rb") as file, open_container(file, str(path)) as container:
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
            parts = [
                resampled.to_ndarray()[0]
                for frame in [*container.decode(audio=0), None]
                for resampled in resampler.resample(frame)
            ]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise MediaError(
            "sound_unreadable",
            f"It cannot be read as sound ({error}).",
            subject=str(path),
            remedy="Give a WAV, FLAC, MP3 or any media file with a sound track.",
        ) from error
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0)


def write_clip(
    path: Path,
    pictures: np.ndarray | None,
    sound: np.ndarray | None,
    *,
    fps: float,
    rate_hz: int,
) -> None:
    """Write an mp4 that any player plays: H.264 and AAC, whichever of the two there is.

    Args:
        path: the file; its folder is made, the file overwritten.
        pictures: uint8 RGB [frames, rows, columns, 3], sides even.
        sound: float32 [samples] in [-1, 1].
        fps: pictures a second.
        rate_hz: of the sound.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = audio = None
        if pictures is not None:
            video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            video.height, video.width = pictures.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.options = {"crf": "16", "preset": "veryfast"}
        if sound is not None:
            audio = container.add_stream("aac", rate=rate_hz, layout="mono")
        if video is not None and pictures is not None:
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            wave = np.ascontiguousarray(sound[None], dtype=np.float32)
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.sample_rate = rate_hz
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))


def _unreadable(subject: str, what: str) -> MediaError:
    return MediaError(
        "sample_unreadable",
        f"The sample does not hold what its row says ({what}).",
        subject=subject,
        remedy="Check it with `twinreel verify`, and pack it again.",
    )
