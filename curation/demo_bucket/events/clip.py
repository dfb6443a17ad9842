"""One event as a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from curation.demo_bucket.clips import Shape, write_clip
from curation.demo_bucket.events.ball import stage_ball
from curation.demo_bucket.events.design import EVENT_SHAPE, Event
from curation.demo_bucket.events.lamp import stage_lamp
from curation.demo_bucket.events.speaker import stage_speaker
from curation.demo_bucket.events.stage import Staged
from curation.demo_bucket.render import AudioTrack
from curation.demo_bucket.scenes import Grain
from curation.demo_bucket.truth import ClipTruth, EventTruth

_GRAIN = 1.5  # of 255: so that a still camera does not repeat a picture to the bit

_STAGES = {"ball": stage_ball, "lamp": stage_lamp, "speaker": stage_speaker}


def stage_event(event: Event, *, seed: int = 0, shape: Shape = EVENT_SHAPE) -> Staged:
    """Return what is to be seen, heard and said of an event.

    Args:
        event: what happens.
        seed: chooses when exactly it happens, and what its words leave open.
        shape: size and length.
    """
    end_s = shape.video_start_s + shape.duration_s
    return _STAGES[event.kind](event, shape.width, shape.height, end_s, seed)


def event_clip(path: Path, event: Event, *, seed: int = 0, shape: Shape = EVENT_SHAPE) -> ClipTruth:
    """Render an event; its caption is in its truth.

    Args:
        path: file to write.
        event: what happens.
        seed: chooses when exactly it happens, and what its words leave open.
        shape: size, rate and encoder of the clip.
    """
    staged = stage_event(event, seed=seed, shape=shape)
    grain = Grain(shape.width, shape.height, seed=seed, deviation=_GRAIN)
    frames = (
        (float(time_s), grain.over(staged.draw(float(time_s)))) for time_s in shape.times_s(seed)
    )
    truth = ClipTruth(
        file="",
        what="",
        face_kind=staged.face_kind,
        sync="synced" if staged.speech_segments_s else None,
        offset_frames=0 if staged.speech_segments_s else None,
        speech_segments_s=staged.speech_segments_s,
        event=EventTruth(**asdict(event), caption=staged.caption, moments_s=staged.moments_s),
    )
    audio = AudioTrack(staged.samples)
    return write_clip(path, staged.seen, frames, shape, audio=audio, truth=truth)
