"""Clips with one known property each: render a file, return its truth.

Every function takes the path to write, whose suffix names the container, and is deterministic in
its arguments. Sides are in px of the stored picture; times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curation.demo_bucket.faces import FacePainter, face_painter
from curation.demo_bucket.render import AudioTrack, VideoFormat, render_audio, render_video
from curation.demo_bucket.scenes import (
    Grain,
    Picture,
    drifting,
    faceless_picture,
    faded,
    frame_times_s,
    panned,
    variable_frame_times_s,
    with_margins,
)
from curation.demo_bucket.sounds import (
    FloatArray,
    SpeechSound,
    beep,
    mean_volume_db,
    room_noise,
    speech_like_sound,
    stereo,
)
from curation.demo_bucket.truth import ClipTruth
from stages.media.blocks import Margins

SYNC_FRAME_S = 1 / 25  # audio-visual offsets are counted in frames of 25 fps
CINEMA_BARS = Margins(top=70, bottom=70)  # 2.4:1 within 960x540

SyncKind = Literal["synced", "swapped", "still"]


@dataclass(frozen=True)
class Shape:
    """Size, rate and length of a clip, and how it is encoded.

    Attributes:
        width: stored picture width in px, even.
        height: stored picture height in px, even.
        fps: frames per second; None for a rate that varies as a phone's does.
        duration_s: time that the pictures span.
        video_start_s: presentation time of the first frame.
        video: encoder settings; its frame rate is replaced by `fps`.
    """

    width: int = 960
    height: int = 540
    fps: float | None = 24
    duration_s: float = 6.0
    video_start_s: float = 0.0
    video: VideoFormat = field(default_factory=VideoFormat)

    def times_s(self, seed: int) -> NDArray[np.float64]:
        """Return the presentation times of the frames, float64 `[frames]`."""
        if self.fps is None:
            return variable_frame_times_s(self.duration_s, seed=seed, start_s=self.video_start_s)
        return frame_times_s(self.duration_s, self.fps, start_s=self.video_start_s)

    def on_frame(self, time_s: float, seed: int = 0) -> float:
        """Return the presentation time of the first frame at or after `time_s`."""
        times_s = self.times_s(seed)
        return float(times_s[np.searchsorted(times_s, time_s - 1e-6)])

    def video_format(self) -> VideoFormat:
        """Return the encoder settings at this clip's rate."""
        rate = Fraction(30 if self.fps is None else self.fps).limit_denominator(1001)
        return replace(self.video, frame_rate=rate)


def write_clip(
    path: Path,
    what: str,
    frames: Iterable[tuple[float, Picture]],
    shape: Shape,
    *,
    audio: AudioTrack | None,
    truth: ClipTruth | None = None,
) -> ClipTruth:
    """Render frames and return `truth` filled in with what every video has.

    Args:
        path: file to write.
        what: one sentence for a person.
        frames: (presentation time in seconds, RGB uint8 `[height, width, 3]`).
        shape: size, rate and encoder of the clip.
        audio: the sound track, or None.
        truth: what is special to this clip.
    """
    video = shape.video_format()
    count = render_video(path, frames, video=video, audio=audio)
    truth = truth or ClipTruth(file="", what="")
    end_s = shape.video_start_s + shape.duration_s
    if audio is not None:
        end_s = max(end_s, audio.start_s + len(audio.samples) / audio.rate_hz)
        truth = _with_sound(truth, audio)
    return replace(
        truth,
        file=path.name,
        what=what,
        duration_s=round(end_s, 6),
        width=shape.width,
        height=shape.height,
        fps=shape.fps,
        frames=count,
        variable_frame_rate=shape.fps is None,
        video_start_s=shape.video_start_s,
        rotation_deg=video.rotation_deg,
        pixel_aspect=float(video.pixel_aspect),
        full_range=video.full_range,
        video_codec=video.codec,
    )


def _with_sound(truth: ClipTruth, audio: AudioTrack) -> ClipTruth:
    silent = not bool(np.any(audio.samples))
    return replace(
        truth,
        has_audio=True,
        audio_codec=audio.codec,
        audio_rate_hz=audio.rate_hz,
        audio_start_s=audio.start_s,
        mean_volume_db=None if silent else round(mean_volume_db(audio.samples), 3),
        silent=silent,
    )


def audio_clip(
    path: Path,
    what: str,
    audio: AudioTrack,
    *,
    speech_segments_s: tuple[tuple[float, float], ...] = (),
) -> ClipTruth:
    """Render samples without pictures (.wav, .flac, .m4a, .ogg)."""
    render_audio(path, audio)
    truth = ClipTruth(
        file=path.name,
        what=what,
        modality="audio",
        duration_s=round(audio.start_s + len(audio.samples) / audio.rate_hz, 6),
        speech_segments_s=speech_segments_s,
    )
    return _with_sound(truth, audio)


def scenery_clip(
    path: Path,
    *,
    seed: int = 0,
    shape: Shape = Shape(),
    audio: AudioTrack | Literal["room"] | None = "room",
    what: str = "A hand-held camera over one scene.",
    upright_turn: int = 0,
) -> ClipTruth:
    """Render one slowly drifting shot.

    Args:
        path: file to write.
        seed: chooses the scene.
        shape: size, rate and encoder of the clip.
        audio: a track, `"room"` for quiet noise, or None for no track at all.
        what: the sentence in the truth.
        upright_turn: quarter turns clockwise by which stored pictures differ from upright ones.
    """
    times_s = shape.times_s(seed)
    pictures = (np.rot90(picture, -upright_turn) for picture in _scene(shape, times_s, seed))
    track = _room(shape, seed) if audio == "room" else audio
    return write_clip(path, what, zip(times_s, pictures, strict=True), shape, audio=track)


def still_clip(path: Path, *, seed: int = 0, shape: Shape = Shape()) -> ClipTruth:
    """Render a scene in which nothing moves but the sensor's noise."""
    picture = faceless_picture(shape.width, shape.height, seed=seed)
    grain = Grain(shape.width, shape.height, seed=seed, deviation=4.0)
    frames = ((float(time_s), grain.over(picture)) for time_s in shape.times_s(seed))
    what = "A camera on a tripod before a scene in which nothing moves."
    truth = ClipTruth(file="", what="", pan_px_s=0.0)
    return write_clip(path, what, frames, shape, audio=_room(shape, seed), truth=truth)


def pan_clip(
    path: Path, *, speed_px_s: float = 120.0, seed: int = 0, shape: Shape = Shape()
) -> ClipTruth:
    """Render a camera that turns right at a steady `speed_px_s` (left if negative)."""
    times_s = shape.times_s(seed)
    reach_px = int(np.ceil(abs(speed_px_s) * shape.duration_s))
    canvas = faceless_picture(shape.width + reach_px, shape.height, seed=seed)
    pictures = panned(canvas, shape.width, times_s, speed_px_s)
    what = f"A horizontal pan at {speed_px_s:g} px/s."
    truth = ClipTruth(file="", what="", pan_px_s=speed_px_s)
    frames = zip(times_s, pictures, strict=True)
    return write_clip(path, what, frames, shape, audio=_room(shape, seed), truth=truth)


def cuts_clip(
    path: Path,
    *,
    cut_times_s: Sequence[float] = (5.5, 11.0),
    seed: int = 0,
    shape: Shape = Shape(duration_s=16.5),
) -> ClipTruth:
    """Render shots of different scenes with hard cuts; each falls on the next frame."""
    cuts_s = tuple(shape.on_frame(cut_s, seed) for cut_s in cut_times_s)
    times_s = shape.times_s(seed)
    hues = np.random.default_rng((seed, 907)).random() + 0.37 * np.arange(len(cuts_s) + 1)

    def frames() -> Iterator[tuple[float, Picture]]:
        shots = np.split(times_s, np.searchsorted(times_s, np.array(cuts_s) - 1e-6))
        for number, shot_times_s in enumerate(shots):
            hue = float(hues[number] % 1.0)
            brightness = 0.8 if number % 2 else 1.15
            shot = _scene(shape, shot_times_s, seed * 31 + number, hue=hue, brightness=brightness)
            yield from zip(shot_times_s, shot, strict=True)

    what = f"{len(cuts_s) + 1} shots joined by hard cuts."
    truth = ClipTruth(file="", what="", cut_times_s=tuple(round(cut_s, 6) for cut_s in cuts_s))
    return write_clip(path, what, frames(), shape, audio=_room(shape, seed), truth=truth)


def fade_clip(
    path: Path,
    *,
    fade_span_s: tuple[float, float] = (5.5, 7.0),
    seed: int = 0,
    shape: Shape = Shape(duration_s=12.5),
) -> ClipTruth:
    """Render two shots joined by a fade: black in the middle of the span."""
    times_s = shape.times_s(seed)
    start_s, end_s = (shape.on_frame(time_s, seed) for time_s in fade_span_s)
    middle_s = (start_s + end_s) / 2
    # Black for a tenth of the span on both sides of the middle, as an editor would leave it.
    half_s = 0.8 * (end_s - start_s) / 2

    def brightness(time_s: float) -> float:
        distance_s = abs(time_s - middle_s) - 0.2 * (end_s - start_s) / 2
        return float(np.clip(distance_s / half_s, 0.0, 1.0))

    def frames() -> Iterator[tuple[float, Picture]]:
        shots = np.split(times_s, [int(np.searchsorted(times_s, middle_s))])
        for number, shot_times_s in enumerate(shots):
            scene = _scene(shape, shot_times_s, seed * 31 + number)
            for time_s, picture in zip(shot_times_s, scene, strict=True):
                yield time_s, faded(picture, brightness(time_s))

    what = "Two shots joined by a fade through black."
    truth = ClipTruth(file="", what="", fade_span_s=(round(start_s, 6), round(end_s, 6)))
    return write_clip(path, what, frames(), shape, audio=_room(shape, seed), truth=truth)


def frozen_clip(
    path: Path, *, frozen_share: float = 0.3, seed: int = 0, shape: Shape = Shape(duration_s=8.0)
) -> ClipTruth:
    """Render a moving scene that stops: a third of the way in, one picture is repeated."""
    # Encoders refine a picture that stays; without B frames and finely quantised they do so least.
    options = {"bf": "0", "crf": "17", **shape.video.options}
    shape = replace(shape, video=replace(shape.video, options=options))
    times_s = shape.times_s(seed)
    repeats = round(frozen_share * len(times_s))
    first = len(times_s) // 3

    def frames() -> Iterator[tuple[float, Picture]]:
        # The motion goes on where it stopped: a jump could be taken for a cut.
        pictures = _scene(shape, times_s[: len(times_s) - repeats], seed, speed_px_s=40.0)
        held = next(pictures)
        for number, time_s in enumerate(times_s):
            if number > 0 and not first < number <= first + repeats:
                held = next(pictures)
            yield time_s, held

    what = f"{repeats} of {len(times_s)} frames repeat the one before."
    truth = ClipTruth(file="", what="", frozen_share=round(repeats / len(times_s), 6))
    return write_clip(path, what, frames(), shape, audio=_room(shape, seed), truth=truth)


def dropped_clip(
    path: Path, *, dropped_share: float = 0.2, seed: int = 0, shape: Shape = Shape(duration_s=8.0)
) -> ClipTruth:
    """Render a drifting scene from which frames are missing: their times are gaps."""
    times_s = shape.times_s(seed)
    rng = np.random.default_rng((seed, 911))
    # The first and the last frame stay: the clip keeps its length.
    missing = rng.choice(
        np.arange(1, len(times_s) - 1), round(dropped_share * len(times_s)), replace=False
    )
    kept_s = np.delete(times_s, missing)
    frames = zip(kept_s, _scene(shape, kept_s, seed), strict=True)
    what = f"{len(missing)} of {len(times_s)} frames are missing."
    truth = ClipTruth(file="", what="", dropped_share=round(len(missing) / len(times_s), 6))
    return write_clip(path, what, frames, shape, audio=_room(shape, seed), truth=truth)


def letterbox_clip(
    path: Path,
    *,
    margins: Margins = CINEMA_BARS,
    seed: int = 0,
    shape: Shape = Shape(),
) -> ClipTruth:
    """Render a drifting scene within black bars of known width."""
    times_s = shape.times_s(seed)
    sides = {
        "top": margins.top,
        "bottom": margins.bottom,
        "left": margins.left,
        "right": margins.right,
    }
    pictures = (with_margins(picture, **sides) for picture in _scene(shape, times_s, seed))
    what = "A scene within black bars."
    truth = ClipTruth(file="", what="", margins_px=margins)
    frames = zip(times_s, pictures, strict=True)
    return write_clip(path, what, frames, shape, audio=_room(shape, seed), truth=truth)


def flash_beep_clip(
    path: Path,
    *,
    flash_s: float = 3.0,
    beep_late_s: float = 0.0,
    seed: int = 0,
    shape: Shape = Shape(fps=25),
    upright_turn: int = 0,
) -> ClipTruth:
    """Render a clapperboard: the picture turns white for 80 ms at the instant a beep starts.

    Args:
        path: file to write.
        flash_s: when; moved to the next frame.
        beep_late_s: delay of the beep after the flash.
        seed: chooses the scene, and the frame times of a variable rate.
        shape: size, rate, start and encoder of the clip; the sound always starts at zero.
        upright_turn: quarter turns clockwise by which stored pictures differ from upright ones.
    """
    times_s = shape.times_s(seed)
    flash_s = shape.on_frame(flash_s, seed)
    white = np.full((shape.height, shape.width, 3), 255, np.uint8)

    def frames() -> Iterator[tuple[float, Picture]]:
        for time_s, picture in zip(times_s, _scene(shape, times_s, seed), strict=True):
            bright = flash_s - 1e-6 <= time_s < flash_s + 0.08 - 1e-6
            yield time_s, white if bright else np.rot90(picture, -upright_turn)

    end_s = shape.video_start_s + shape.duration_s
    beep_s = flash_s + beep_late_s
    samples = stereo(beep(end_s, beep_s) + room_noise(end_s, level_db=-62.0, seed=seed))
    truth = ClipTruth(file="", what="", flash_s=round(flash_s, 6), beep_s=round(beep_s, 6))
    what = "A white flash and a beep at one instant."
    return write_clip(path, what, frames(), shape, audio=AudioTrack(samples), truth=truth)


def talking_face_clip(
    path: Path,
    offset_frames: int = 0,
    kind: SyncKind = "synced",
    *,
    seed: int = 0,
    shape: Shape = Shape(fps=25, duration_s=8.0),
    face_height_share: float = 0.52,
    audio_codec: str = "aac",
    upright_turn: int = 0,
) -> ClipTruth:
    """Render a drawn face and a voice.

    Args:
        path: file to write.
        offset_frames: frames of 25 fps by which the sound is EARLY; the mouth follows it so much
            later. Negative: the sound is late.
        kind: `synced`, `swapped` (the mouth follows another voice) or `still` (it stays shut).
        seed: the person, the scene and the voice.
        shape: size, rate and encoder of the clip.
        face_height_share: hairline to chin as a share of the upright picture's height.
        audio_codec: encoder of the voice.
        upright_turn: quarter turns clockwise by which stored pictures differ from upright ones.
    """
    voice, segments_s, mouth_at = _voice_and_mouth(shape, offset_frames, kind, seed)
    upright = (shape.height, shape.width) if upright_turn % 2 else (shape.width, shape.height)
    painter = face_painter(seed, round(face_height_share * upright[1]))
    person = _Person(painter, (0.5 * upright[0], 0.47 * upright[1]), seed, mouth_at)
    frames = _portrait(upright, shape, seed, [person], upright_turn)
    what = {
        "synced": f"One face speaks; the sound is {offset_frames:+d} frames of 25 fps early.",
        "swapped": "One face whose mouth follows another voice.",
        "still": "One face that keeps its mouth shut while a voice speaks.",
    }[kind]
    truth = ClipTruth(
        file="",
        what="",
        face_kind="single",
        sync=kind,
        offset_frames=offset_frames if kind == "synced" else None,
        speech_segments_s=segments_s,
    )
    audio = AudioTrack(stereo(voice), codec=audio_codec)
    return write_clip(path, what, frames, shape, audio=audio, truth=truth)


def two_faces_clip(
    path: Path,
    offset_frames: int = 0,
    *,
    seed: int = 0,
    shape: Shape = Shape(width=1280, height=720, fps=25, duration_s=7.0),
) -> ClipTruth:
    """Render two faces: the left one speaks in the known offset, the right one listens."""
    voice, segments_s, mouth_at = _voice_and_mouth(shape, offset_frames, "synced", seed)
    height_px = round(0.40 * shape.height)
    centres = [(share * shape.width, 0.48 * shape.height) for share in (0.27, 0.73)]
    speaker = _Person(face_painter(seed, height_px), centres[0], seed, mouth_at)
    listener = _Person(face_painter(seed + 1, height_px), centres[1], seed + 1, lambda _: 0.0)
    frames = _portrait((shape.width, shape.height), shape, seed, [speaker, listener], 0)
    truth = ClipTruth(
        file="",
        what="",
        face_kind="multi",
        sync="synced",
        offset_frames=offset_frames,
        speech_segments_s=segments_s,
    )
    what = "Two faces; the left one speaks, the right one listens."
    return write_clip(path, what, frames, shape, audio=AudioTrack(stereo(voice)), truth=truth)


@dataclass(frozen=True)
class _Person:
    """Who is painted where, and the opening of the mouth as a function of presentation time."""

    painter: FacePainter
    centre_px: tuple[float, float]
    seed: int
    mouth_at: Callable[[float], float]


def _voice_and_mouth(
    shape: Shape, offset_frames: int, kind: SyncKind, seed: int
) -> tuple[FloatArray, tuple[tuple[float, float], ...], Callable[[float], float]]:
    """Return the sound from time zero, its phrases, and the mouth at a presentation time."""
    shift_s = offset_frames * SYNC_FRAME_S
    # Both are windows of a longer voice, so that neither has a gap where the other still speaks.
    lead_s = 0.5 + abs(shift_s)
    end_s = shape.video_start_s + shape.duration_s
    sound = speech_like_sound(end_s + 2 * lead_s, seed=seed)
    first = round(lead_s * sound.rate_hz)
    samples = sound.samples[first : first + round(end_s * sound.rate_hz)]
    segments_s = tuple(
        (round(max(0.0, start_s - lead_s), 4), round(min(end_s, stop_s - lead_s), 4))
        for start_s, stop_s in sound.segments_s
        if stop_s > lead_s and start_s < end_s + lead_s
    )
    watched: SpeechSound = sound
    if kind == "swapped":
        watched = speech_like_sound(end_s + 2 * lead_s, seed=seed + 5003)

    def mouth_at(time_s: float) -> float:
        return 0.0 if kind == "still" else watched.opening_at(lead_s + time_s - shift_s)

    return samples, segments_s, mouth_at


def _portrait(
    upright: tuple[int, int], shape: Shape, seed: int, persons: Sequence[_Person], turn: int
) -> Iterator[tuple[float, Picture]]:
    """Yield persons who sway and blink before a blurred background."""
    width, height = upright
    # Out of focus, as behind a portrait.
    background = faceless_picture(
        width, height, seed=seed + 77, shapes=260, brightness=0.9, blur_px=height / 24
    )
    # Neither dark nor stark: a dark surround makes cascades see a second face in hair or collar.
    lift = max(0.0, 122.0 - 0.6 * float(background.mean()))
    background = np.clip(0.6 * background + lift, 0, 255).astype(np.uint8)
    grain = Grain(width, height, seed=seed, deviation=1.5)
    for time_s in shape.times_s(seed):
        picture = background.copy()
        for person in persons:
            centre_px, tilt_deg = _sway(person, float(time_s), height)
            opening, blink = person.mouth_at(float(time_s)), _blink(person.seed, float(time_s))
            person.painter.paint(picture, centre_px, opening, blink=blink, tilt_deg=tilt_deg)
        yield time_s, np.rot90(grain.over(picture), -turn)


def _sway(person: _Person, time_s: float, height: int) -> tuple[tuple[float, float], float]:
    """Return where the face is, and its tilt in degrees."""
    phase = 2.1 * person.seed + np.array([0.0, 1.3, 2.9])
    wave = np.sin(2 * np.pi * np.array([0.21, 0.17, 0.13]) * time_s + phase)
    x, y = person.centre_px
    return (x + 0.012 * height * wave[0], y + 0.006 * height * wave[1]), 1.8 * float(wave[2])


def _blink(seed: int, time_s: float) -> float:
    """Return how far the lids are closed, in [0, 1]: for 0.24 s, about every 3 s."""
    rng = np.random.default_rng((seed, 919))
    moments_s = np.cumsum(rng.uniform(1.8, 4.2, 40))
    distance_s = float(np.min(np.abs(moments_s - time_s)))
    return float(np.clip(1.0 - distance_s / 0.12, 0.0, 1.0))


def _scene(
    shape: Shape,
    times_s: NDArray[np.float64],
    seed: int,
    *,
    hue: float | None = None,
    brightness: float = 1.0,
    speed_px_s: float = 18.0,
) -> Iterator[Picture]:
    """Yield upright pictures of one hand-held shot (sides swapped for a quarter turn)."""
    width, height = shape.width, shape.height
    if shape.video.rotation_deg % 180:
        width, height = height, width
    canvas = faceless_picture(
        width * 5 // 4, height * 5 // 4, seed=seed, hue=hue, brightness=brightness
    )
    return drifting(canvas, width, height, times_s, seed=seed, speed_px_s=speed_px_s)


def _room(shape: Shape, seed: int) -> AudioTrack:
    samples = room_noise(shape.video_start_s + shape.duration_s, level_db=-38.0, seed=seed)
    return AudioTrack(stereo(samples, balance=0.1))
