"""Captions say what was measured and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from curation.captions.attributes import caption

TALKING: dict[str, Any] = {
    "width": 1280,
    "height": 720,
    "picture": {
        "status": "ok",
        "mean_luma": 120.0,
        "contrast": 150.0,
        "active_width_px": 1280,
        "active_height_px": 536,
    },
    "motion": {
        "status": "ok",
        "camera_px_s": 0.5,
        "subject_px_s": 6.0,
        "static_share": 0.1,
        "frozen_share": 0.0,
    },
    "faces": {"status": "ok", "kind": "single", "count": 1, "largest_share": 0.15},
    "loudness": {
        "status": "ok",
        "mean_volume_db": -24.0,
        "integrated_lufs": -23.0,
        "clipping_ratio": 0.0,
        "silence_ratio": 0.1,
        "bandwidth_hz": 12_000.0,
    },
    "speech": {"status": "ok", "speech_ratio": 0.8},
}


def with_(**structs: dict[str, Any] | None) -> dict[str, Any]:
    """The row with some fields of some structs replaced; a struct that is None was not measured."""
    changed = {
        name: None if fields is None else {**TALKING[name], **fields}
        for name, fields in structs.items()
    }
    return {**TALKING, **changed}


def test_a_talking_head_in_ovis_form() -> None:
    words = caption(TALKING, style="ovi")
    assert words.text == (
        "A wide video clip that shows one person's face from close by. "
        "The camera is still and what it films moves slowly. "
        "<AUDCAP>A voice is heard for most of the time. The sound is moderately loud.<ENDAUDCAP>"
    )
    assert words.audio == "A voice is heard for most of the time. The sound is moderately loud."


def test_the_later_style_ends_with_audio() -> None:
    text = caption(TALKING, style="ovi-960").text
    assert text.endswith(
        "Audio: A voice is heard for most of the time. The sound is moderately loud."
    )
    assert "AUDCAP" not in text


@pytest.mark.parametrize("style", ["ovi", "ovi-960"])
def test_words_are_never_made_up(style: Any) -> None:
    words = caption(TALKING, style=style)
    assert words.speech is None
    assert "<S>" not in words.text and "<E>" not in words.text


def test_no_sound_is_said() -> None:
    row = with_(loudness={"status": "not_applicable", "mean_volume_db": None}, speech=None)
    words = caption(row)
    assert words.audio == "There is no sound."
    assert words.text.endswith("<AUDCAP>There is no sound.<ENDAUDCAP>")


def test_digital_silence_is_said() -> None:
    assert caption(with_(loudness={"mean_volume_db": -91.0})).audio == "There is silence."


def test_what_was_not_measured_is_left_out() -> None:
    words = caption(with_(loudness=None, speech=None))
    assert words.audio is None
    assert "AUDCAP" not in words.text
    text = caption(with_(faces=None, motion=None, loudness=None, speech=None)).text
    assert text == "A wide video clip."
    failed = with_(faces={"status": "failed", "kind": None})
    assert "face" not in caption(failed).text
    assert caption({}).text == ""


def test_sound_alone_has_no_picture_sentence() -> None:
    row = {name: TALKING[name] for name in ("loudness", "speech")}
    assert caption(row).text.startswith("<AUDCAP>A voice is heard")


@pytest.mark.parametrize(
    ("structs", "words"),
    [
        ({"faces": {"kind": "none", "count": 0}}, "no face is visible"),
        ({"faces": {"kind": "multi", "count": 3}}, "shows 3 people's faces"),
        ({"faces": {"kind": "multi", "count": 1}}, "shows several people's faces"),
        ({"faces": {"largest_share": 0.005}}, "from far away"),
        ({"motion": {"static_share": 0.95}}, "Hardly anything moves."),
        ({"motion": {"frozen_share": 0.8}}, "The picture stands still"),
        ({"motion": {"camera_px_s": 120.0}}, "The camera moves fast"),
        ({"picture": {"mean_luma": 30.0, "contrast": 20.0}}, "is dark and low in contrast"),
        ({"picture": {"active_width_px": 400, "active_height_px": 720}}, "A tall video clip"),
        ({"speech": {"speech_ratio": 0.0}}, "No voice is heard."),
        ({"speech": {"speech_ratio": 0.3}}, "for part of the time"),
        ({"loudness": {"integrated_lufs": -10.0, "clipping_ratio": 0.2}}, "loud, distorted"),
        ({"loudness": {"bandwidth_hz": 3_400.0}}, "without high frequencies"),
        ({"loudness": {"silence_ratio": 0.6}}, "broken by silence"),
    ],
)
def test_each_measurement_has_its_words(structs: dict[str, Any], words: str) -> None:
    assert words in caption(with_(**structs)).text
