"""Captions without a model: what was measured of a clip, in plain sentences.

The form is that of Ovi (section 3, "captioning"): what is to be seen, then at the end what is to be
heard, between `<AUDCAP>` and `<ENDAUDCAP>` or, as the later 960x960 models have it, after `Audio:`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from curation.captions.answer import CaptionForm

ATTRIBUTES_VERSION = 1
"""Raise whenever equal measurements may give other words."""

_CLOSE_FACE_SHARE = 0.10
_SMALL_FACE_SHARE = 0.01
_STATIC_SHARE = 0.9
_FROZEN_SHARE = 0.5
_STILL_PX_S = 2.0
_SLOW_PX_S = 15.0
_FAST_PX_S = 80.0
_DARK_LUMA = 60.0
_BRIGHT_LUMA = 180.0
_FLAT_CONTRAST = 60.0
_NO_VOICE_RATIO = 0.05
_MOSTLY_VOICE_RATIO = 0.6
_SILENT_DB = -75.0
_LOUD_LUFS = -16.0
_QUIET_LUFS = -35.0
_PAUSES_RATIO = 0.4
_CLIPPED_RATIO = 0.01
_NARROW_BAND_HZ = 4500.0


@dataclasses.dataclass(frozen=True)
class Caption:
    """A clip's words: the whole prompt, the audio description in it, and what is said.

    `speech` is always None here: measurements know when somebody speaks but not a word of it, and
    words made up between `<S>` and `<E>` would teach a model that its text need not be spoken.
    """

    text: str
    audio: str | None
    speech: str | None


def caption(row: Mapping[str, Any], *, style: CaptionForm = "ovi") -> Caption:
    """Say of a clip what was measured, and nothing else.

    Args:
        row: a row of the view `dataset`: the stages' structs `picture`, `motion`, `faces`,
            `loudness`, `speech` and the source's `width` and `height`. Any may be missing or null;
            what was not measured is left out. Where `loudness` does not apply there is no sound.
        style: how the audio description is set off.
    """
    sentences = [_faces(row), _motion(row), _picture(row)]
    visual = " ".join(sentence for sentence in sentences if sentence)
    audio = _audio(row)
    if audio is None:
        return Caption(visual, None, None)
    marked = f"Audio: {audio}" if style == "ovi-960" else f"<AUDCAP>{audio}<ENDAUDCAP>"
    return Caption(f"{visual} {marked}".strip(), audio, None)


def _struct(row: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """A stage's struct where it was measured, else nothing."""
    struct = row.get(stage) or {}
    return struct if struct.get("status", "ok") == "ok" else {}


def _shape(row: Mapping[str, Any]) -> str:
    picture = _struct(row, "picture")
    width = picture.get("active_width_px") or row.get("width")
    height = picture.get("active_height_px") or row.get("height")
    if not width or not height:
        return "A video clip"
    if width > 1.1 * height:
        return "A wide video clip"
    return "A tall video clip" if height > 1.1 * width else "A square video clip"


def _faces(row: Mapping[str, Any]) -> str:
    """What the clip is of; a clip without pictures has no such sentence."""
    faces = _struct(row, "faces")
    kind = faces.get("kind")
    if kind is None:
        return f"{_shape(row)}." if _struct(row, "picture") or _struct(row, "motion") else ""
    if kind == "none":
        return f"{_shape(row)} in which no face is visible."
    share = faces.get("largest_share")
    how = ""
    if share is not None and share >= _CLOSE_FACE_SHARE:
        how = " from close by"
    elif share is not None and share < _SMALL_FACE_SHARE:
        how = " from far away"
    if kind == "single":
        return f"{_shape(row)} that shows one person's face{how}."
    count = faces.get("count")
    many = f"{count} people's faces" if count and count > 1 else "several people's faces"
    return f"{_shape(row)} that shows {many}{how}."


def _motion(row: Mapping[str, Any]) -> str:
    motion = _struct(row, "motion")
    frozen, static = motion.get("frozen_share"), motion.get("static_share")
    if frozen is not None and frozen >= _FROZEN_SHARE:
        return "The picture stands still for most of the time."
    if static is not None and static >= _STATIC_SHARE:
        return "Hardly anything moves."
    parts = []
    camera, subject = motion.get("camera_px_s"), motion.get("subject_px_s")
    if camera is not None:
        parts.append(f"the camera {_pace(camera, 'is still', 'moves {}')}")
    if subject is not None:
        parts.append(f"what it films {_pace(subject, 'is almost still', 'moves {}')}")
    sentence = " and ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _pace(speed_px_s: float, still: str, moving: str) -> str:
    if speed_px_s < _STILL_PX_S:
        return still
    if speed_px_s < _SLOW_PX_S:
        return moving.format("slowly")
    return moving.format("fast" if speed_px_s >= _FAST_PX_S else "steadily")


def _picture(row: Mapping[str, Any]) -> str:
    picture = _struct(row, "picture")
    parts = []
    luma, contrast = picture.get("mean_luma"), picture.get("contrast")
    if luma is not None and luma < _DARK_LUMA:
        parts.append("dark")
    if luma is not None and luma > _BRIGHT_LUMA:
        parts.append("bright")
    if contrast is not None and contrast < _FLAT_CONTRAST:
        parts.append("low in contrast")
    return f"The picture is {' and '.join(parts)}." if parts else ""


def _audio(row: Mapping[str, Any]) -> str | None:
    """What is to be heard, or None where that was not measured."""
    loudness_status = (row.get("loudness") or {}).get("status")
    if loudness_status == "not_applicable":
        return "There is no sound."
    loudness, speech = _struct(row, "loudness"), _struct(row, "speech")
    mean_volume_db = loudness.get("mean_volume_db")
    if mean_volume_db is not None and mean_volume_db < _SILENT_DB:
        return "There is silence."
    sentences = [_voice(speech.get("speech_ratio")), _level(loudness)]
    heard = " ".join(sentence for sentence in sentences if sentence)
    return heard or None


def _voice(speech_ratio: float | None) -> str:
    if speech_ratio is None:
        return ""
    if speech_ratio <= _NO_VOICE_RATIO:
        return "No voice is heard."
    much = "most" if speech_ratio >= _MOSTLY_VOICE_RATIO else "part"
    return f"A voice is heard for {much} of the time."


def _level(loudness: Mapping[str, Any]) -> str:
    parts = []
    level = loudness.get("integrated_lufs")
    if level is not None:
        loud = "loud" if level >= _LOUD_LUFS else "quiet" if level < _QUIET_LUFS else None
        parts.append(loud or "moderately loud")
    bandwidth_hz = loudness.get("bandwidth_hz")
    if bandwidth_hz is not None and bandwidth_hz < _NARROW_BAND_HZ:
        parts.append("without high frequencies")
    if (loudness.get("clipping_ratio") or 0.0) >= _CLIPPED_RATIO:
        parts.append("distorted")
    if (loudness.get("silence_ratio") or 0.0) >= _PAUSES_RATIO:
        parts.append("broken by silence")
    return f"The sound is {', '.join(parts)}." if parts else ""
