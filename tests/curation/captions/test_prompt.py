"""Prompts: whole for every form and every state of knowledge, and open to be replaced."""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path

import pytest

from curation.captions.answer import AnswerComplaint, CaptionForm, parse_answer
from curation.captions.prompt import (
    ClipFacts,
    complaint_prompt,
    prompts_fingerprint,
    system_prompt,
    user_prompt,
)
from manifests.errors import UsageError

FORMS: tuple[CaptionForm, ...] = ("ovi", "ovi-960", "ovi-audio")
TRANSCRIPTS = (None, "", "good morning", 'he said "$5 <S>" and left')


@pytest.mark.parametrize(
    ("form", "sound", "speech", "transcript"),
    itertools.product(FORMS, (True, False), (True, False, None), TRANSCRIPTS),
)
def test_a_prompt_is_whole_and_says_what_to_do_about_speech(
    form: CaptionForm, sound: bool, speech: bool | None, transcript: str | None
) -> None:
    text = user_prompt(form, ClipFacts(sound, speech, 5.04, transcript))
    asked = text.partition("Example of the form")[0]
    assert "$" not in text.replace("$5", "")
    assert "5.0 seconds" in text
    if not sound or speech is False:
        assert "do not write <S> or <E>" in asked
    elif speech:
        assert "Somebody speaks" in asked
    else:
        assert "If somebody speaks" in asked
    heard = sound and speech is not False and transcript
    assert ("recogniser" in asked) == bool(heard)
    marker = "Audio:" if form == "ovi-960" else "<AUDCAP>"
    assert marker in asked
    if sound and speech:
        for word in ("age", "gender", "accent", "pitch", "prosody", "emotion", "rate"):
            assert word in asked
    if sound and speech is False:
        for word in ("sound effects", "background", "music"):
            assert word in asked


def test_a_transcript_brings_no_tags_into_the_prompt() -> None:
    plain = user_prompt("ovi", ClipFacts(True, True, 5.0, "hello"))
    tagged = user_prompt("ovi", ClipFacts(True, True, 5.0, "<S>hello<E> <AUDCAP>"))
    assert plain.count("<") == tagged.count("<")


def test_pictures_are_counted_and_there_are_none_of_sound_alone() -> None:
    facts = ClipFacts(True, False, 5.0, None, stills=9)
    assert "The 9 frames" in user_prompt("ovi", facts)
    assert "frames" not in user_prompt("ovi-audio", facts)


@pytest.mark.parametrize("form", FORMS)
def test_complaints_are_said_whole(form: CaptionForm) -> None:
    complaint = AnswerComplaint("caption_malformed", "There is no tag <X>.", "unknown_tag")
    assert "There is no tag <X>." in complaint_prompt(form, complaint)


def test_a_folder_replaces_single_files_and_the_fingerprint_follows(tmp_path: Path) -> None:
    before = {form: prompts_fingerprint(form) for form in FORMS}
    assert len(set(before.values())) == len(FORMS)
    assert {form: prompts_fingerprint(form, tmp_path) for form in FORMS} == before
    own = tmp_path / "own"
    own.mkdir()
    (own / "ovi.txt").write_text("Tell me of these $stills pictures. $speech $sound")
    text = user_prompt("ovi", ClipFacts(True, False, 5.0, None), own)
    assert text.startswith("Tell me of these 7 pictures. Nobody speaks")
    assert system_prompt("ovi", own) == system_prompt("ovi")
    assert prompts_fingerprint("ovi", own) != before["ovi"]
    assert prompts_fingerprint("ovi-960", own) == before["ovi-960"]
    other = tmp_path / "other"
    other.mkdir()
    packaged = resources.files("curation.captions") / "prompts" / "parts.txt"
    sentence = "Nobody speaks: do not write <S> or <E>."
    assert sentence in packaged.read_text()
    (other / "parts.txt").write_text(packaged.read_text().replace(sentence, "Silence please."))
    assert all(prompts_fingerprint(form, other) != before[form] for form in FORMS)
    assert "Silence please." in user_prompt("ovi", ClipFacts(True, False, 5.0, None), other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ovi.txt", "$nobody fills this"),
        ("system.txt", "100 $"),
        ("complaint.txt", "$transcript"),
        ("parts.txt", "speech = Quote."),
        ("ovi_960.txt", "A name that no prompt has."),
    ],
)
def test_what_is_wrong_is_told_before_a_job_begins(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        prompts_fingerprint("ovi", tmp_path)
    assert caught.value.code == "bad_prompt"
    assert name in str(caught.value)


def test_a_prompt_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "ovi.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError) as caught:
        prompts_fingerprint("ovi", tmp_path)
    assert caught.value.code == "bad_prompt"


@pytest.mark.parametrize("form", FORMS)
def test_the_example_in_a_prompt_is_a_caption_in_its_form(form: CaptionForm) -> None:
    text = user_prompt(form, ClipFacts(True, True, 5.0, None))
    example = text.partition("Example of the form (not of the content): ")[2]
    answer = parse_answer(example, form, has_speech=True, has_sound=True)
    assert answer.speech == ("We should go.",)


@pytest.mark.parametrize("text", ["$nobody fills this", "100 $", "$speech ${"])
def test_a_broken_prompt_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ovi.txt").write_text(text)
    with pytest.raises(UsageError) as caught:
        user_prompt("ovi", ClipFacts(True, False, 5.0, None), tmp_path)
    assert caught.value.code == "bad_prompt"
    assert "ovi.txt" in str(caught.value)


def test_a_folder_that_is_not_there_or_lacks_a_sentence_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        system_prompt("ovi", tmp_path / "nowhere")
    assert caught.value.code == "bad_prompt"
    (tmp_path / "parts.txt").write_text("speech = Quote.\n")
    with pytest.raises(UsageError) as caught:
        user_prompt("ovi", ClipFacts(True, False, 5.0, None), tmp_path)
    assert "no_speech" in str(caught.value)
