"""Captions held against transcript and tagger."""

from __future__ import annotations

import functools
import random

import pytest

from curation.captions.answer import Answer
from curation.captions.verify import audio_agrees, edit_distance, verify, words_of


def caption(*speech: str, audio: str = "A calm voice.") -> Answer:
    return Answer("", speech, audio)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Good morning, TO you!", ["good", "morning", "to", "you"]),
        ("It's — don’t", ["its", "dont"]),
        ("Größe: 5,5 m", ["grösse", "5", "5", "m"]),
        ("well-known", ["well", "known"]),
        ("你好，世界", ["你", "好", "世", "界"]),
        ("こんにちは", ["こ", "ん", "に", "ち", "は"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("ＡＢＣ １２", ["abc", "12"]),
        ("rock ʼn’ roll_over", ["rock", "n", "roll", "over"]),
        ("iPhone手机 𠮷々", ["iphone", "手", "机", "𠮷", "々"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("... !?", []),
    ],
)
def test_words_are_told_apart(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("", "", 0), ("a b c", "a b c", 0), ("a b c", "", 3), ("", "a b", 2), ("a b c", "a x c", 1),
     ("a b c d", "b c d e", 2), ("a b", "b a", 2)],
)  # fmt: skip
def test_edit_distances(one: str, other: str, edits: int) -> None:
    assert edit_distance(one.split(), other.split()) == edits


@pytest.mark.parametrize("seed", range(20))
def test_edit_distances_are_those_of_the_definition(seed: int) -> None:
    rng = random.Random(seed)

    @functools.cache
    def distance(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        replaced = distance(one[1:], other[1:]) + (one[0] != other[0])
        return min(replaced, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)

    one, other = ("".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in range(2))
    assert edit_distance(one, other) == distance(one, other)


def test_quotations_are_counted_against_the_transcript() -> None:
    found = verify(
        caption("Good morning, everyone.", "See you!"),
        transcript="good morning to you see you",
        audio_class=None,
    )
    assert found.spoken_words == 6
    assert (found.invented_words, found.missed_words) == (1, 2)
    assert found.word_error_rate == pytest.approx(2 / 6)
    assert found.audio_agrees is None


def test_words_where_nobody_speaks_are_all_invented() -> None:
    found = verify(caption("Hello there"), transcript="", audio_class=None)
    assert (found.spoken_words, found.invented_words, found.word_error_rate) == (0, 2, 2.0)
    silent = verify(caption(), transcript="", audio_class=None)
    assert (silent.word_error_rate, silent.invented_words, silent.missed_words) == (0.0, 0, 0)


def test_without_a_transcript_nothing_is_said_of_words() -> None:
    found = verify(caption("Hello"), transcript=None, audio_class=None)
    assert (found.word_error_rate, found.spoken_words, found.missed_words) == (None, None, None)


@pytest.mark.parametrize(
    ("description", "kind", "agrees"),
    [
        ("A hoarse old man speaks slowly.", "speech", True),
        ("Elderly, British accent, high pitch.", "speech", True),
        ("A man's footsteps on gravel.", "speech", False),
        ("No human voice is heard.", "speech", False),
        ("Nobody speaks; rain.", "speech", False),
        ("A violin, without any speech or singing.", "speech", False),
        ("There is no music and a man speaks softly.", "speech", True),
        ("There is no speech or music, only rain.", "music", False),
        ("No speech, music or singing; an engine idles.", "music", False),
        ("No speech, music, or singing.", "singing", False),
        ("No voice can be heard over the music.", "music", True),
        ("No one speaks while a violin plays.", "music", True),
        ("No speech, a guitar is strummed.", "music", True),
        ("A heartbeat, a synthesised voice, rain drumming rhythmically.", "music", False),
        ("The machine operates rapidly in humid air, a human coughs.", "singing", False),
        ("Bird song.", "singing", False),
        ("A woman hums a tune.", "singing", True),
        ("Rain falls on a tin roof.", "speech", False),
        ("Rain falls; no voice is heard.", "speech", False),
        ("A slow piano melody.", "music", True),
        ("Wind, without any music.", "music", False),
        ("A choir sings in a large hall.", "singing", True),
        ("An engine idles.", "singing", False),
        ("Waves and gulls.", "sound_effect", True),
        ("It is silent.", "sound_effect", False),
        ("Complete silence, no speech, music or effects.", "sound_effect", False),
        ("The clip is completely silent; no sound is heard.", "sound_effect", False),
        ("Silence, then a loud bang.", "sound_effect", True),
        ("The silence is broken by a bang.", "sound_effect", True),
        ("A still pond, water drips quietly.", "sound_effect", True),
        ("No voice is heard.", "sound_effect", True),
        ("No sound can be made out.", "silence", True),
        ("The faint hiss of a quiet room.", "silence", True),
        ("It is silent.", "silence", True),
        ("A loud crash.", "silence", False),
    ],
)
def test_descriptions_are_held_against_the_tagger(
    description: str, kind: str, agrees: bool
) -> None:
    assert audio_agrees(description, {"kind": kind, kind: 0.9}) is agrees


def test_where_nothing_can_be_said_nothing_is() -> None:
    assert audio_agrees("A voice.", None) is None
    assert audio_agrees(None, {"kind": "speech", "speech": 0.9}) is None
    assert audio_agrees("A voice.", {"kind": "speech", "speech": 0.1}) is None
    assert audio_agrees("一个女人在说话", {"kind": "speech", "speech": 0.9}) is None
