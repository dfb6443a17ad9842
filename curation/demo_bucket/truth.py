"""What is known of a rendered bucket: one record per file, and the JSON it is kept in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.media.blocks import Margins

TRUTH_FILE = "truth.json"
_NO_MARGINS = Margins()


@dataclass(frozen=True, kw_only=True)
class EventTruth:
    """Something that is seen and heard at once.

    Attributes:
        kind: ball, lamp or speaker.
        colour: red, yellow, green or blue.
        setting: first or second: on grass or sand, in a dark or a grey room, with dark or fair
            hair.
        tempo: slow or fast; of a speaker a low or a high voice.
        caption: what the file beside the clip says.
        moments_s: when the ball bounces, the lamp begins to light up, or a spoken phrase begins.
    """

    kind: str
    colour: str
    setting: str
    tempo: str
    caption: str
    moments_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ClipTruth:
    """Everything that is known of one file; None where a question does not apply.

    Times are presentation times in seconds from the zero of the file. A cut, a flash or a
    fade happens at the time of the first frame that shows it.

    Attributes:
        file: path within the bucket, with forward slashes.
        what: one sentence for a person.
        modality: video, audio or none (not media).
        expected: `ok`, or the reason why the file cannot be read whole: `empty_file`, `truncated`,
            `no_frames`, `not_media` or `corrupt_bitstream`.
        duration_s: from the start of the file to the end of the longest track.
        width: stored picture width in px, before rotation.
        height: stored picture height in px, before rotation.
        fps: nominal frames per second; None where the rate varies.
        frames: number of frames in the file.
        variable_frame_rate: whether frame steps differ.
        video_start_s: presentation time of the first frame.
        rotation_deg: counter-clockwise turn that shows the picture upright.
        pixel_aspect: width / height of one pixel.
        full_range: luma spans 0-255.
        video_codec: encoder of the pictures.
        has_audio: whether there is a sound track.
        audio_codec: encoder of the sound.
        audio_rate_hz: sample rate.
        audio_start_s: presentation time of the first sample.
        mean_volume_db: RMS of the samples in dBFS as given to the encoder; None for digital silence
            (see `silent`) and without audio.
        silent: whether every sample is zero; None without audio.
        speech_segments_s: (start, end) of every spoken phrase.
        cut_times_s: hard cuts.
        fade_span_s: (start, end) of a fade to black and back up into another picture.
        pan_px_s: how fast the camera moves to the right, in px of the stored picture.
        frozen_share: frames that repeat the one before, as a share of all frames.
        dropped_share: frames missing from a constant rate, as a share of those expected.
        margins_px: black bars.
        face_kind: none, single or multi.
        sync: synced, swapped (the mouth follows another sound) or still (it never moves).
        offset_frames: 25 fps frames by which the sound is early; only where `sync` is synced.
        flash_s: when the picture turns white.
        beep_s: when the beep starts.
        event: what happens in an event clip.
    """

    file: str
    what: str
    modality: str = "video"
    expected: str = "ok"
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    variable_frame_rate: bool = False
    video_start_s: float | None = None
    rotation_deg: int = 0
    pixel_aspect: float = 1.0
    full_range: bool = False
    video_codec: str | None = None
    has_audio: bool = False
    audio_codec: str | None = None
    audio_rate_hz: int | None = None
    audio_start_s: float | None = None
    mean_volume_db: float | None = None
    silent: bool | None = None
    speech_segments_s: tuple[tuple[float, float], ...] = ()
    cut_times_s: tuple[float, ...] = ()
    fade_span_s: tuple[float, float] | None = None
    pan_px_s: float | None = None
    frozen_share: float = 0.0
    dropped_share: float = 0.0
    margins_px: Margins = _NO_MARGINS
    face_kind: str = "none"
    sync: str | None = None
    offset_frames: int | None = None
    flash_s: float | None = None
    beep_s: float | None = None
    event: EventTruth | None = None


@dataclass(frozen=True)
class BucketTruth:
    """What is known of a bucket: its seed and a record per file, in the order of their names."""

    seed: int
    clips: tuple[ClipTruth, ...]

    def __iter__(self) -> Iterator[ClipTruth]:
        return iter(self.clips)

    def clip(self, file: str) -> ClipTruth:
        """Return the record of a file, by its path within the bucket.

        Raises:
            KeyError: the bucket has no such file.
        """
        for clip in self.clips:
            if clip.file == file:
                return clip
        raise KeyError(file)

    def to_json(self) -> str:
        """Return the truth as JSON text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BucketTruth:
        """Read what `to_json` wrote."""
        stored = json.loads(text)
        return cls(stored["seed"], tuple(_clip_from(record) for record in stored["clips"]))

    @classmethod
    def load(cls, directory: Path) -> BucketTruth:
        """Read the truth of the bucket in a directory."""
        return cls.from_json((directory / TRUTH_FILE).read_text(encoding="utf-8"))


def _clip_from(record: dict[str, Any]) -> ClipTruth:
    segments = tuple((start_s, end_s) for start_s, end_s in record["speech_segments_s"])
    fade, event = record["fade_span_s"], record["event"]
    return ClipTruth(
        **{
            **record,
            "margins_px": Margins(**record["margins_px"]),
            "speech_segments_s": segments,
            "cut_times_s": tuple(record["cut_times_s"]),
            "fade_span_s": None if fade is None else (fade[0], fade[1]),
            "event": None
            if event is None
            else EventTruth(**{**event, "moments_s": tuple(event["moments_s"])}),
        }
    )
