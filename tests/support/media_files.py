"""Files of many containers and codecs with known pictures and sound, and an independent decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_LAYOUTS = {1: "mono", 2: "stereo"}
_EXPERIMENTAL = {"vorbis": {"strict": "-2"}}
_WITH_BIT_RATE = frozenset(
    {"aac", "libmp3lame", "libopus", "ac3", "mp2", "wmav1", "wmav2", "vorbis"}
)


@dataclasses.dataclass(frozen=True)
class Film:
    """What a file shows: a bar that moves, white while `flash_s` (start, end) lasts.

    `options` are the encoder's; `times` gives every frame's time where they lie unevenly.
    """

    codec: str
    fps: int = 25
    duration_s: float = 8.0
    width: int = 128
    height: int = 96
    b_frames: int = 0
    pixel_format: str | None = None
    flash_s: tuple[float, float] | None = None
    times_s: tuple[float, ...] | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def frames(self) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """Time and RGB picture [height, width, 3] of every frame."""
        count = round(self.duration_s * self.fps)
        times_s = self.times_s or tuple(index / self.fps for index in range(count))
        for time_s in times_s:
            yield time_s, self.picture(time_s)

    def picture(self, time_s: float) -> npt.NDArray[np.uint8]:
        """What is to be seen at a time."""
        picture = np.full((self.height, self.width, 3), 40, np.uint8)
        left = round(time_s * 40) % (self.width - 16)
        picture[:, left : left + 16] = 160
        if self.flash_s is not None and self.flash_s[0] <= time_s + 1e-6 < self.flash_s[1]:
            picture[:] = 255
        return picture


@dataclasses.dataclass(frozen=True)
class Track:
    """What is to be heard: float32 [samples, channels] from `start_s` on.

    Everything from `gap_at_s` (of the samples) on comes `gap_s` later.
    """

    codec: str
    samples: Samples
    rate_hz: int
    start_s: float = 0.0
    gap_at_s: float = np.inf
    gap_s: float = 0.0


def write_media(
    path: Path,
    container: str,
    *,
    film: Film | None = None,
    track: Track | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode pictures and sound, interleaved by time, into a container of FFmpeg's."""
    with av.open(str(path), "w", format=container, options=dict(options or {})) as file:
        packets = []
        if film is not None:
            packets.append(_film_packets(file, film))
        if track is not None:
            packets.append(_track_packets(file, track))
        waiting = [next(stream, None) for stream in packets]
        while any(entry is not None for entry in waiting):
            _, first = min((entry[0], index) for index, entry in enumerate(waiting) if entry)
            entry = waiting[first]
            assert entry is not None
            file.mux(entry[1])
            waiting[first] = next(packets[first], None)
    return path


def _film_packets(
    file: av.container.OutputContainer, film: Film
) -> Iterator[tuple[float, list[av.Packet]]]:
    stream = file.add_stream(film.codec, rate=film.fps, options=dict(film.options))
    stream.width, stream.height = film.width, film.height
    stream.pix_fmt = film.pixel_format or "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = 50
    stream.codec_context.max_b_frames = film.b_frames
    base = Fraction(1, film.fps)
    if film.times_s is not None:
        base = Fraction(1, 90_000)
        stream.codec_context.time_base = base
    # MPEG encoders need the same quantiser everywhere to leave nothing out of small pictures.
    stream.codec_context.bit_rate = 1_000_000
    # Opens the encoder, so that the container knows all streams before the first packet.
    stream.codec_context.open()

    def encoded() -> Iterator[tuple[float, list[av.Packet]]]:
        last_s = 0.0
        for last_s, picture in film.frames():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(Fraction(last_s) / base), base
            yield last_s, stream.encode(frame)
        yield last_s, stream.encode(None)

    return encoded()


def _track_packets(
    file: av.container.OutputContainer, track: Track
) -> Iterator[tuple[float, list[av.Packet]]]:
    layout = _LAYOUTS[track.samples.shape[1]]
    options = _EXPERIMENTAL.get(track.codec, {})
    stream = file.add_stream(track.codec, rate=track.rate_hz, layout=layout, options=options)
    if track.codec in _WITH_BIT_RATE:
        stream.codec_context.bit_rate = 192_000 if track.rate_hz >= 32_000 else 96_000
    stream.codec_context.open()
    sample_format = stream.codec_context.format.name
    resampler = av.AudioResampler(format=sample_format, layout=layout, rate=track.rate_hz)
    step = stream.codec_context.frame_size or 1024

    def encoded() -> Iterator[tuple[float, list[av.Packet]]]:
        time_s = 0.0
        for first in range(0, len(track.samples), step):
            planes = np.ascontiguousarray(track.samples[first : first + step].T)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = track.rate_hz, Fraction(1, track.rate_hz)
            late_s = track.start_s + track.gap_s * (first / track.rate_hz >= track.gap_at_s)
            frame.pts = first + round(late_s * track.rate_hz)
            time_s = frame.pts / track.rate_hz
            packets = []
            for part in resampler.resample(frame):
                part.pts, part.time_base = frame.pts, frame.time_base
                packets += stream.encode(part)
            yield time_s, packets
        yield time_s, stream.encode(None)

    return encoded()


def sweep(rate_hz: int, duration_s: float, channels: int = 1) -> Samples:
    """Tones that glide up and down: every moment sounds different, and codecs keep it well."""
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    top_hz = min(6_000.0, rate_hz / 4)
    phase = 2 * np.pi * (300 * time_s + (top_hz - 300) / 2 * (time_s - np.sin(time_s * 1.7) / 1.7))
    wave = 0.4 * np.sin(phase) + 0.1 * np.sin(2 * np.pi * 233.0 * time_s)
    return np.repeat(wave.astype(np.float32)[:, None], channels, axis=1)


def beep(rate_hz: int, duration_s: float, at_s: float, length_s: float = 0.3) -> Samples:
    """Silence but for a tone of 1 kHz that begins at a moment: float32 [samples, 1]."""
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    sounding = (time_s >= at_s) & (time_s < at_s + length_s)
    wave = np.where(sounding, 0.6 * np.sin(2 * np.pi * 1_000.0 * (time_s - at_s)), 0.0)
    return wave.astype(np.float32)[:, None]


@dataclasses.dataclass(frozen=True)
class OnePiece:
    """A whole file's sound as FFmpeg decodes it from the start, blocks put behind each other.

    `start_s` is the first block's presentation time, counted from the container's start.
    """

    start_s: float
    rate_hz: int
    samples: Samples

    def span(self, start_s: float, end_s: float) -> Samples:
        """The samples of a span of the source's time, silence where there are none."""
        first, end = round(start_s * self.rate_hz), round(end_s * self.rate_hz)
        own = round(self.start_s * self.rate_hz)
        found = np.zeros((end - first, self.samples.shape[1]), np.float32)
        low, high = max(first, own), min(end, own + len(self.samples))
        if high > low:
            found[low - first : high - first] = self.samples[low - own : high - own]
        return found


def decode_in_one_piece(path: Path) -> OnePiece:
    """Decode the first audio stream with FFmpeg's own conversion to float."""
    parts: list[Samples] = []
    start_s: float | None = None
    with av.open(str(path)) as container:
        origin_s = (container.start_time or 0) / av.time_base
        resampler: av.AudioResampler | None = None
        rate_hz = 0
        for frame in container.decode(audio=0):
            if resampler is None:
                rate_hz = frame.sample_rate
                resampler = av.AudioResampler("fltp", frame.layout.name, rate_hz)
                start_s = 0.0 if frame.pts is None else float(frame.pts * frame.time_base)
            parts += [part.to_ndarray().T for part in resampler.resample(frame)]
    assert start_s is not None
    return OnePiece(start_s - origin_s, rate_hz, np.concatenate(parts))


def decibels_apart(samples: Samples, reference: Samples) -> float:
    """How far the difference lies below the reference, in dB; infinite where they are equal."""
    error = float(np.square(samples - reference, dtype=np.float64).sum())
    power = float(np.square(reference, dtype=np.float64).sum())
    return float("inf") if error == 0 else float(10 * np.log10(max(power, 1e-20) / error))
