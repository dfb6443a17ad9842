"""A renderer of small raw buckets with exactly known truth, for demonstrations and tests.

`render_bucket` writes a whole bucket; the clip functions write one file each and return its truth;
`render_video` encodes any pictures and samples with exact presentation times.
"""

from curation.demo_bucket.bucket import render_bucket
from curation.demo_bucket.clips import (
    Shape,
    audio_clip,
    cuts_clip,
    dropped_clip,
    fade_clip,
    flash_beep_clip,
    frozen_clip,
    letterbox_clip,
    pan_clip,
    scenery_clip,
    still_clip,
    talking_face_clip,
    two_faces_clip,
    write_clip,
)
from curation.demo_bucket.events import EVENT_SHAPE, Event, event_clip, event_design, stage_event
from curation.demo_bucket.faces import FacePainter, draw_face, face_painter
from curation.demo_bucket.render import AudioTrack, VideoFormat, render_audio, render_video
from curation.demo_bucket.scenes import frame_times_s, textured_picture, variable_frame_times_s
from curation.demo_bucket.sounds import (
    SpeechSound,
    beep,
    mean_volume_db,
    room_noise,
    silence,
    speech_like_sound,
    stereo,
    tone,
)
from curation.demo_bucket.truth import TRUTH_FILE, BucketTruth, ClipTruth, EventTruth
from stages.media.blocks import Margins

__all__ = [
    "EVENT_SHAPE",
    "TRUTH_FILE",
    "AudioTrack",
    "BucketTruth",
    "ClipTruth",
    "Event",
    "EventTruth",
    "FacePainter",
    "Margins",
    "Shape",
    "SpeechSound",
    "VideoFormat",
    "audio_clip",
    "beep",
    "cuts_clip",
    "draw_face",
    "dropped_clip",
    "event_clip",
    "event_design",
    "face_painter",
    "fade_clip",
    "flash_beep_clip",
    "frame_times_s",
    "frozen_clip",
    "letterbox_clip",
    "mean_volume_db",
    "pan_clip",
    "render_audio",
    "render_bucket",
    "render_video",
    "room_noise",
    "scenery_clip",
    "silence",
    "speech_like_sound",
    "stage_event",
    "stereo",
    "still_clip",
    "talking_face_clip",
    "textured_picture",
    "tone",
    "two_faces_clip",
    "variable_frame_times_s",
    "write_clip",
]
