"""What is in a file: streams, sizes, times. Decodes one frame and one block of sound at most."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction

import av
import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from manifests.errors import MediaError
from stages.media.blocks import SourceFormat
from stages.media.formats import STILL_FORMATS
from stages.media.heartbeat import beat
from stages.media.open import open_media

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_PROBE_PACKETS = 2000
"""How many packets are tried before a stream counts as undecodable."""
_LATE_PACKETS = 50_000
"""How many are read to find a stream that has not begun: about ten minutes of video and sound."""
_LEAST_VIDEO_BYTES_PER_S = 4096
_LEAST_AUDIO_BYTES_PER_S = 512
"""With fewer bytes for every second that its header claims, a file's packets are asked."""
_MOST_OVERSTATED = 2.0
_MOST_OVERSTATED_S = 60.0
"""How much longer than its packets a header may call a file: a last frame may stay on show."""
_FARTHEST_SEEK = 1 << 62


def probe(uri: str) -> SourceFormat:
    """Read a file's format, and make sure that each stream used really decodes.

    The first real video stream and the first audio stream are used; attached pictures (cover art)
    are not video.

    Raises:
        MediaError: what `open_media` raises, `no_media_streams`, or `no_decodable_frames`.
    """
    with open_media(uri) as container:
        video = next(
            (
                stream
                for stream in container.streams.video
                if not Disposition.attached_pic & stream.disposition
            ),
            None,
        )
        audio = next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise MediaError(
                "no_media_streams", "It holds neither pictures nor sound.", subject=uri
            )
        frames = _first_frames(container, [part for part in (video, audio) if part is not None])
        video_frame = frames.get(video.index) if video is not None else None
        audio_frame = frames.get(audio.index) if audio is not None else None
        if video_frame is None and audio_frame is None:
            raise MediaError(
                "no_decodable_frames",
                "Its header is there but nothing in it decodes.",
                subject=uri,
                remedy="It is probably truncated: upload it again.",
            )
        if not isinstance(video_frame, VideoFrame):
            video = None
        if not isinstance(audio_frame, AudioFrame):
            audio = None
        origin_s = (container.start_time or 0) / av.time_base
        duration_s = _duration_s(container, video, audio, origin_s)
        still = container.format.name in STILL_FORMATS or (
            video is not None and audio is None and video.frames == 1 and not duration_s
        )
        aspect = 1.0
        rotation_deg = 0
        width = height = None
        if video is not None and isinstance(video_frame, VideoFrame):
            aspect = float(video.sample_aspect_ratio or 1) or 1.0
            rotation_deg = _rotation_deg(video_frame)
            width, height = _displayed_size(
                video_frame.width, video_frame.height, aspect, rotation_deg
            )
        return SourceFormat(
            modality="audio" if video is None else "image" if still else "video",
            container=container.format.name,
            duration_s=duration_s,
            container_start_s=origin_s,
            video_index=video.index if video is not None else None,
            video_codec=video.codec_context.name if video is not None else None,
            coded_width=video_frame.width if isinstance(video_frame, VideoFrame) else None,
            coded_height=video_frame.height if isinstance(video_frame, VideoFrame) else None,
            width=width,
            height=height,
            fps=_rate(video.average_rate or video.guessed_rate) if video is not None else None,
            rotation_deg=rotation_deg,
            sample_aspect_ratio=aspect,
            interlaced=isinstance(video_frame, VideoFrame) and bool(video_frame.interlaced_frame),
            full_range=isinstance(video_frame, VideoFrame) and is_full_range(video_frame),
            video_start_s=_start_s(video, video_frame, origin_s),
            audio_index=audio.index if audio is not None else None,
            audio_codec=audio.codec_context.name if audio is not None else None,
            audio_start_s=_start_s(audio, audio_frame, origin_s),
            # From the decoded frame: a header may state the core rate of a spectrally extended AAC.
            audio_rate_hz=audio_frame.sample_rate if isinstance(audio_frame, AudioFrame) else None,
            audio_channels=audio_frame.layout.nb_channels
            if isinstance(audio_frame, AudioFrame)
            else None,
            audio_first_samples=audio_frame.samples
            if isinstance(audio_frame, AudioFrame)
            else None,
        )


def is_full_range(frame: VideoFrame) -> bool:
    """Whether luma runs from 0 to 255 (JPEG range) rather than from 16 to 235."""
    return int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")


def _first_frames(
    container: InputContainer, streams: list[av.stream.Stream]
) -> dict[int, VideoFrame | AudioFrame]:
    """Every stream's first frame that decodes, by stream index."""
    found: dict[int, VideoFrame | AudioFrame] = {}
    met = _look_for_frames(container, streams, _PROBE_PACKETS, found)
    for stream in streams:
        if stream.index in met:
            continue
        # It begins late: where its header says (Matroska's says 0), or somewhere behind.
        if stream.start_time:
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(stream.start_time, stream=stream)
            _look_for_frames(container, [stream], _PROBE_PACKETS, found)
        else:
            _look_for_frames(container, streams, _LATE_PACKETS, found)
    return found


def _look_for_frames(
    container: InputContainer,
    streams: list[av.stream.Stream],
    most_packets: int,
    found: dict[int, VideoFrame | AudioFrame],
) -> set[int]:
    """Add first frames to `found` until every stream has one; the streams that packets came of."""
    met: set[int] = set()
    with contextlib.suppress(av.error.FFmpegError):
        for count, packet in enumerate(container.demux(streams)):
            if count > most_packets:
                break
            if packet.size:
                met.add(packet.stream.index)
            if packet.stream.index in found:
                continue
            # A damaged packet is no reason to give up: the next one may decode.
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    if isinstance(frame, VideoFrame | AudioFrame):
                        found.setdefault(packet.stream.index, frame)
            if all(stream.index in found for stream in streams):
                break
    return met


def _rotation_deg(frame: VideoFrame) -> int:
    """Clockwise degrees that make the frame upright: 0, 90, 180 or 270."""
    with contextlib.suppress(ValueError, OverflowError):
        # The display matrix's angle is counted counterclockwise.
        return int(round(-frame.rotation / 90.0) * 90) % 360
    return 0


def _displayed_size(
    coded_width: int, coded_height: int, aspect: float, rotation_deg: int
) -> tuple[int, int]:
    width = round(coded_width * aspect)
    return (coded_height, width) if rotation_deg in (90, 270) else (width, coded_height)


def _rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate else None


def _start_s(
    stream: av.stream.Stream | None,
    frame: VideoFrame | AudioFrame | None,
    origin_s: float,
) -> float | None:
    if stream is None or frame is None:
        return None
    if frame.pts is not None and frame.time_base:
        return float(frame.pts * frame.time_base) - origin_s
    return 0.0


def _duration_s(
    container: InputContainer, video: VideoStream | None, audio: AudioStream | None, origin_s: float
) -> float:
    """When the file's frames (or, without any, its sound) end, in source time.

    A header's word is taken if the file has the bytes for it. Otherwise, and where there is no
    word, the packets tell.
    """
    stream = video if video is not None else audio
    claimed_s = _claimed_duration_s(container, stream, origin_s)
    if claimed_s is None:
        return _last_packet_s(container, [stream], origin_s, seek_to=0)
    least = _LEAST_VIDEO_BYTES_PER_S if video is not None else _LEAST_AUDIO_BYTES_PER_S
    size = container.size
    if size <= 0 or claimed_s * least <= size:
        return claimed_s
    streams = [part for part in (video, audio) if part is not None]
    end_s = _last_packet_s(container, streams, origin_s, seek_to=_FARTHEST_SEEK)
    if end_s <= 0.0:
        end_s = _last_packet_s(container, streams, origin_s, seek_to=0)
    if claimed_s <= _MOST_OVERSTATED * end_s + _MOST_OVERSTATED_S:
        return claimed_s
    # A packet's time may be damaged too, but no file has more seconds than bytes.
    return min(end_s, float(size))


def _claimed_duration_s(
    container: InputContainer, stream: av.stream.Stream | None, origin_s: float
) -> float | None:
    """What the headers say; None if they say nothing that can be true."""
    if stream is not None and stream.duration and stream.time_base:
        start_s = float((stream.start_time or 0) * stream.time_base) - origin_s
        claimed_s = start_s + float(stream.duration * stream.time_base)
        if claimed_s > 0.0:
            return claimed_s
    if container.duration and container.duration > 0:
        return float(container.duration) / av.time_base
    return None


def _last_packet_s(
    container: InputContainer,
    streams: Sequence[av.stream.Stream | None],
    origin_s: float,
    *,
    seek_to: int,
) -> float:
    """When the last packet after a point (in microseconds) ends; 0 if there is none."""
    end_s = 0.0
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(seek_to, backward=True)
        for packet in container.demux(*streams):
            beat()
            if packet.pts is not None and packet.time_base:
                length = packet.duration or 0
                end_s = max(end_s, float((packet.pts + length) * packet.time_base) - origin_s)
                if container.format.name in STILL_FORMATS:
                    # What follows are other views of it (MPO, gain maps), which take no time.
                    break
    return end_s
