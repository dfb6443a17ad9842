"""Small playable copies of clips, for the report: video and audio in one mp4."""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.video.frame import VideoFrame

from stages.media.blocks import SourceFormat
from stages.media.decode import decode_frames, read_audio
from stages.media.proxy import ProxyScaler

_FRAMES_PER_SECOND = 15
_TIME_BASE = Fraction(1, 90000)
_AUDIO_RATE_HZ = 24000
_AUDIO_FRAME_SAMPLES = 1024


@dataclasses.dataclass(frozen=True)
class PreviewTask:
    """A clip to make a small copy of."""

    uri: str
    source: SourceFormat
    start_s: float
    end_s: float


def render_preview(task: PreviewTask) -> bytes:
    """The clip as a small mp4 (288 px on its short side, at most 15 frames a second).

    Raises:
        MediaError: the clip cannot be decoded.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        has_video = task.source.video_index is not None
        video = _add_video(container, task) if has_video else None
        has_audio = task.source.audio_index is not None
        audio = container.add_stream("aac", rate=_AUDIO_RATE_HZ) if has_audio else None
        if audio is not None:
            audio.codec_context.layout = "stereo"
            audio.codec_context.bit_rate = 64_000
        if video is not None:
            _encode_frames(container, video, task)
        if audio is not None:
            _encode_audio(container, audio, task)
    return buffer.getvalue()


def _add_video(container: OutputContainer, task: PreviewTask) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=_FRAMES_PER_SECOND)
    stream.codec_context.options = {"crf": "30", "preset": "veryfast"}
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = _TIME_BASE
    return stream


def _encode_frames(
    container: OutputContainer,
    stream: av.VideoStream,
    task: PreviewTask,
) -> None:
    scaler = ProxyScaler(task.source)
    due_s = task.start_s
    for time_s, frame in decode_frames(task.uri, task.source, task.start_s, task.end_s):
        shown_s = max(time_s, task.start_s)
        if shown_s < due_s - 1e-6:
            continue
        due_s = shown_s + 1.0 / _FRAMES_PER_SECOND
        luma, chroma_u, chroma_v = scaler.planes(frame)
        small = VideoFrame.from_ndarray(_planar(luma, chroma_u, chroma_v), format="yuv420p")
        small.color_range = 2
        small.pts = round((shown_s - task.start_s) / _TIME_BASE)
        small.time_base = _TIME_BASE
        if not stream.width:
            stream.width, stream.height = small.width, small.height
            stream.codec_context.color_range = 2
        container.mux(stream.encode(small))
    container.mux(stream.encode(None))


def _planar(*planes: np.ndarray) -> np.ndarray:
    """The three planes one below the other, as PyAV takes 4:2:0: uint8 [height * 3 / 2, width]."""
    height, width = planes[0].shape
    stacked = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes])
    return stacked.reshape(height * 3 // 2, width)


def _encode_audio(container: OutputContainer, stream: av.AudioStream, task: PreviewTask) -> None:
    block = read_audio(task.uri, task.source, task.start_s, task.end_s)
    channels = block.samples.shape[1]
    samples = block.samples if channels <= 2 else block.samples[:, :2]
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    resampler = AudioResampler("fltp", "stereo", _AUDIO_RATE_HZ, _AUDIO_FRAME_SAMPLES)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
    frame.sample_rate = block.rate_hz
    frame.pts = 0
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))
