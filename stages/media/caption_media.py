"""What a request for a caption carries of a clip: a few frames, and its whole sound.

Mostly below 1 MB a clip, at most 4.2 MB: seven JPEG frames of up to 768 x 768 pixels have some
100 kB each (530 kB if they are nothing but noise), 12 s of 16 kHz mono sound 384 kB.
"""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import soundfile

from manifests.errors import MediaError
from stages.media.audio import mono_audio
from stages.media.blocks import ByteImage, Margins, SourceFormat
from stages.media.sampled_frames import sampled_frames

_JPEG_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class ClipMediaTask:
    """A clip to show a model: how many frames, how large, and at what rate its sound."""

    clip_id: str
    uri: str
    source: SourceFormat
    start_s: float
    end_s: float
    margins_px: Margins
    frames: int = 7
    long_side_px: int = 768
    audio_rate_hz: int = 16_000
    with_video: bool = True


@dataclasses.dataclass(frozen=True)
class ClipMedia:
    """JPEG frames in order, and a WAV file (mono, 16 bits), or None without sound."""

    jpegs: tuple[bytes, ...]
    wav: bytes | None
    duration_s: float


def clip_media(task: ClipMediaTask) -> ClipMedia:
    """Decode what a request carries. Runs in the killable child.

    Raises:
        MediaError: the clip cannot be decoded, or it has neither video nor audio (`no_media`).
    """
    jpegs: tuple[bytes, ...] = ()
    if task.with_video and task.source.video_index is not None:
        frames = sampled_frames(
            task.uri,
            task.source,
            task.start_s,
            task.end_s,
            sample_times_s(task.start_s, task.end_s, task.frames),
            margins_px=task.margins_px,
            max_long_side_px=task.long_side_px,
        )
        jpegs = tuple(_jpeg(frame, task.uri) for frame in frames)
    wav = None
    if task.source.audio_index is not None:
        wav = _wav(task)
    if not jpegs and wav is None:
        raise MediaError("no_media", "It has neither pictures nor sound to show.", subject=task.uri)
    return ClipMedia(jpegs, wav, task.end_s - task.start_s)


def sample_times_s(start_s: float, end_s: float, count: int) -> list[float]:
    """Evenly spaced points in time: the middles of `count` equal parts of the span.

    The paper says no more than "evenly spaced" (Ovi, section 3.2). The middles keep clear of the
    ends, where a frame of the neighbouring shot may hang over, and each stands for its part.
    """
    part_s = (end_s - start_s) / count
    return [start_s + (index + 0.5) * part_s for index in range(count)]


def _jpeg(frame: ByteImage, uri: str) -> bytes:
    done, encoded = cv2.imencode(
        ".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise MediaError("unencodable_picture", "A picture cannot be made a JPEG.", subject=uri)
    return bytes(np.asarray(encoded).tobytes())


def _wav(task: ClipMediaTask) -> bytes:
    audio = mono_audio(task.uri, task.source, task.start_s, task.end_s, task.audio_rate_hz)
    peak = float(np.max(np.abs(audio), initial=0.0))
    # A mix may pass full scale: turned down as a whole it is not distorted.
    buffer = io.BytesIO()
    soundfile.write(
        buffer, audio / max(1.0, peak), task.audio_rate_hz, format="WAV", subtype="PCM_16"
    )
    return buffer.getvalue()
