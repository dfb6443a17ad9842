"""The one decode of a source, and decoding a clip again.

`decode_unit` sends every frame (at proxy size) and every block of sound of a stretch past the
observers. `decode_frames` and `read_audio` give a clip at full size to what needs it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame

from manifests.errors import MediaError
from stages.media.audio_decoder import AudioDecoder, has_guessed_audio_times
from stages.media.blocks import AudioBlock, DecodedSpan, Frame, SourceFormat, seconds
from stages.media.frame_clock import FrameClock
from stages.media.heartbeat import beat
from stages.media.open import open_media
from stages.media.sample_clock import SampleClock, StreamStart
from stages.media.video_decoder import VideoDecoder

_SEEK_MARGIN_S = 1.0
"""How far before a stretch decoding starts: its sound may lie before its key frame in the file."""
_SEEK_MARGINS_S = (1.0, 4.0, 16.0, 64.0)
"""How far back a seek goes, one after the other, where it may lead to between two key frames."""
_WITH_INDEX = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers that know their key frames: a seek ends at the last one before its target. In others
it ends wherever a packet begins (MPEG), and the first times after it may be guesses."""


def decode_unit(
    uri: str,
    source: SourceFormat,
    start_s: float,
    end_s: float,
    *,
    on_frame: Callable[[Frame], None],
    on_audio: Callable[[AudioBlock], None],
    thread_count: int = 1,
) -> DecodedSpan:
    """Decode a stretch once: frames whose time is in `start_s` <= t < `end_s`, and its sound.

    Args:
        uri: the file.
        source: its format, as `probe` found it.
        start_s: -inf for the source's first stretch.
        end_s: inf for its last.
        on_frame: called with every frame, in order.
        on_audio: called with every block of sound, in order, cut to the stretch.
        thread_count: of the video decoder.

    Raises:
        MediaError: the file cannot be opened, or `no_decodable_frames`.
    """
    shows = source.video_index is not None and source.modality == "video"
    with _open_at(uri, source, start_s, frames=shows) as container:
        video = container.streams[source.video_index] if source.video_index is not None else None
        audio = _audio_stream(container, source)
        if video is not None:
            video.codec_context.thread_count = thread_count
            video.codec_context.thread_type = "AUTO" if thread_count > 1 else "NONE"
        video_decoder = (
            VideoDecoder(source, start_s, end_s, on_frame) if video is not None and shows else None
        )
        audio_decoder = (
            AudioDecoder(source, start_s, end_s, on_audio, _clock(audio, source, start_s))
            if audio is not None
            else None
        )
        streams = [
            stream
            for stream, watcher in ((video, video_decoder), (audio, audio_decoder))
            if stream is not None and watcher is not None
        ]
        for packet in _packets(container, streams):
            if video_decoder is not None and packet.stream is video:
                video_decoder.decode(packet)
            elif audio_decoder is not None and packet.stream is audio:
                audio_decoder.decode(packet)
            if all(
                watcher.done for watcher in (video_decoder, audio_decoder) if watcher is not None
            ):
                break
        if audio_decoder is not None:
            audio_decoder.finish()
        if video_decoder is not None:
            span = video_decoder.finish()
        else:
            assert audio_decoder is not None
            span = DecodedSpan(audio_decoder.start_s, audio_decoder.end_s, 0, audio_decoder.damaged)
    if span.start_s is None:
        raise MediaError(
            "no_decodable_frames",
            "Nothing in this stretch decodes.",
            subject=uri,
            remedy="It is probably truncated: upload it again.",
        )
    return span


def decode_frames(
    uri: str,
    source: SourceFormat,
    start_s: float,
    end_s: float,
    *,
    thread_count: int = 1,
) -> Iterator[tuple[float, VideoFrame]]:
    """The frames on show during a span, at full size, as the codec stores them.

    The first is the one shown at `start_s`, which may have begun before it; its own time is given.

    Raises:
        MediaError: the file cannot be opened, or `no_decodable_frames`.
    """
    if source.video_index is None:
        raise MediaError("no_video", "It holds no pictures.", subject=uri)
    shown = False
    with _open_at(uri, source, start_s, frames=True) as container:
        stream = container.streams[source.video_index]
        stream.codec_context.thread_count = thread_count
        stream.codec_context.thread_type = "AUTO" if thread_count > 1 else "NONE"
        clock = FrameClock(source)
        before: tuple[float, VideoFrame] | None = None
        for packet in _packets(container, [stream]):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    if not isinstance(frame, VideoFrame):
                        continue
                    time_s = clock.time_s(frame)
                    if time_s is None:
                        continue
                    if time_s >= end_s:
                        if before is not None and not shown:
                            yield before
                        return
                    if time_s <= start_s:
                        before = (time_s, frame)
                        continue
                    if before is not None and not shown:
                        yield before
                    shown = True
                    yield time_s, frame
        if before is not None and not shown:
            shown = True
            yield before
    if not shown:
        raise MediaError("no_decodable_frames", "Nothing in this span decodes.", subject=uri)


def read_audio(uri: str, source: SourceFormat, start_s: float, end_s: float) -> AudioBlock:
    """The sound of a span on the source's own time axis: float32 [samples, channels].

    Contiguous; where the source has no sound there is silence. The first sample lies at the
    returned `start_s`, which is within half a sample of the one asked for.

    Raises:
        MediaError: the file cannot be opened, or it has no sound (`no_audio`).
    """
    if source.audio_index is None or not source.audio_rate_hz or not source.audio_channels:
        raise MediaError("no_audio", "It holds no sound.", subject=uri)
    rate_hz = source.audio_rate_hz
    first = round(start_s * rate_hz)
    samples = np.zeros((round(end_s * rate_hz) - first, source.audio_channels), np.float32)

    def place(block: AudioBlock) -> None:
        offset = round(block.start_s * rate_hz) - first
        source_from = max(0, -offset)
        length = min(len(block.samples) - source_from, len(samples) - max(0, offset))
        if length > 0:
            into = max(0, offset)
            samples[into : into + length] = block.samples[source_from : source_from + length]

    with _open_at(uri, source, start_s, frames=False) as container:
        stream = _audio_stream(container, source)
        assert stream is not None
        clock = _clock(stream, source, start_s)
        audio_decoder = AudioDecoder(
            source, start_s - 1.0 / rate_hz, end_s + 1.0 / rate_hz, place, clock
        )
        for packet in _packets(container, [stream]):
            audio_decoder.decode(packet)
            if audio_decoder.done:
                break
        audio_decoder.finish()
    return AudioBlock(first / rate_hz, rate_hz, samples)


def _audio_stream(container: InputContainer, source: SourceFormat) -> AudioStream | None:
    stream = None if source.audio_index is None else container.streams[source.audio_index]
    assert stream is None or isinstance(stream, AudioStream)
    return stream


def _clock(stream: AudioStream, source: SourceFormat, start_s: float) -> SampleClock:
    """The clock of a sound stream that is decoded for a stretch from `start_s` on."""
    assert source.audio_rate_hz and stream.time_base
    start = None
    if source.audio_start_s is not None and source.audio_first_samples is not None:
        is_whole = source.audio_codec == "vorbis"
        start = StreamStart(source.audio_start_s, source.audio_first_samples, is_whole)
    return SampleClock(
        source.audio_rate_hz,
        float(stream.time_base),
        start=start,
        from_start=not _must_seek(source, start_s),
    )


def _must_seek(source: SourceFormat, start_s: float) -> bool:
    return (
        math.isfinite(start_s) and start_s > _SEEK_MARGIN_S and not has_guessed_audio_times(source)
    )


@contextlib.contextmanager
def _open_at(
    uri: str, source: SourceFormat, start_s: float, *, frames: bool
) -> Iterator[InputContainer]:
    """A container that stands where decoding has to begin for a stretch from `start_s` on.

    With `frames`, that is no later than a key frame from which those of the stretch decode.

    Raises:
        MediaError: the file cannot be opened.
    """
    if _must_seek(source, start_s):
        with open_media(uri) as container:
            if _seek(container, source, start_s, frames=frames):
                yield container
                return
    # Some containers cannot seek, and a try leads to their end: they are read from their start, and
    # what comes too early is passed over.
    with open_media(uri) as container:
        yield container


def _seek(container: InputContainer, source: SourceFormat, start_s: float, *, frames: bool) -> bool:
    """Whether a place was found that lies early enough."""
    for margin_s in _SEEK_MARGINS_S:
        if margin_s >= start_s:
            break
        if not _go_to(container, source, start_s - margin_s):
            return False
        if not frames or source.container in _WITH_INDEX:
            return True
        if _meets_key_frame(container, source, start_s - _SEEK_MARGIN_S):
            return _go_to(container, source, start_s - margin_s)
    return False


def _go_to(container: InputContainer, source: SourceFormat, time_s: float) -> bool:
    target = int((time_s + source.container_start_s) * av.time_base)
    try:
        container.seek(target, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _meets_key_frame(container: InputContainer, source: SourceFormat, until_s: float) -> bool:
    """Whether a key frame comes that is on show by `until_s`; reads no further than that."""
    assert source.video_index is not None
    for packet in _packets(container, [container.streams[source.video_index]]):
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None or not packet.time_base:
            continue
        is_early = seconds(ticks, packet.time_base) - source.container_start_s <= until_s
        if packet.is_keyframe or not is_early:
            return is_early
    return False


def _packets(container: InputContainer, streams: list[av.stream.Stream]) -> Iterator[Packet[Any]]:
    """Packets of the streams, then the empty ones that flush the decoders; ends at a read error.

    Every packet is a sign of life.
    """
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            # The rest of the file is unreadable; what was decoded so far stands.
            return
        beat()
        yield packet
