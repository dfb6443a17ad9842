"""The parser of answers: what is a caption in the form, and what is said about what is not."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest

from curation.captions.answer import AnswerComplaint, CaptionForm, parse_answer

OVI = (
    "A woman in a red coat looks up and says, <S>Good morning to you all.<E> She smiles and adds,"
    " <S>I'm sorry I'm late.<E> <AUDCAP>A warm, low female voice, calm and slow.<ENDAUDCAP>"
)
OVI_960 = (
    "A woman in a red coat looks up and says, <S>Good morning to you all.<E> She smiles and adds,"
    " <S>I'm sorry I'm late.<E> Audio: A warm, low female voice, calm and slow."
)
OVI_AUDIO = (
    "<S>Good morning to you all.<E> <S>I'm sorry I'm late.<E>"
    " <AUDCAP>A warm, low female voice, calm and slow.<ENDAUDCAP>"
)
VALID: dict[CaptionForm, str] = {"ovi": OVI, "ovi-960": OVI_960, "ovi-audio": OVI_AUDIO}
SAID = ("Good morning to you all.", "I'm sorry I'm late.")


def parse(text: str, form: CaptionForm = "ovi", speech: bool | None = True) -> object:
    return parse_answer(text, form, has_speech=speech, has_sound=True)


@pytest.mark.parametrize("form", VALID)
def test_a_caption_in_the_form_gives_its_parts(form: CaptionForm) -> None:
    answer = parse_answer(VALID[form], form, has_speech=True, has_sound=True)
    assert answer.text == VALID[form]
    assert answer.speech == SAID
    assert answer.audio == "A warm, low female voice, calm and slow."


def test_blanks_and_line_breaks_are_forgiven_and_taken_out() -> None:
    loose = (
        OVI.replace("<S>", "<S> ").replace("<E>", "\n <E>").replace(" <AUDCAP>", "\n\n<AUDCAP> ")
    )
    assert parse(f"  {loose}\n") == parse(OVI)


@pytest.mark.parametrize(
    ("text", "speech", "rule"),
    [
        ("", None, "empty"),
        ("I'm sorry, but I cannot help with that.", None, "refused"),
        ("I can’t describe people.", None, "refused"),
        (f"Here is the caption: {OVI}", True, "preamble"),
        (f"Sure! {OVI}", True, "preamble"),
        (f"```\n{OVI}\n```", True, "markdown"),
        (OVI.replace("red", "**red**"), True, "markdown"),
        (OVI.replace("<S>", "<SPEECH>"), True, "unknown_tag"),
        (OVI.replace("<S>", "<s>"), True, "unknown_tag"),
        (OVI.replace("<E> She", "<E She"), True, "stray_bracket"),
        (OVI.replace("red", "< red"), True, "stray_bracket"),
        (OVI.replace("slow.", "slow > fast."), True, "stray_bracket"),
        (OVI.replace("<E> She", " She"), True, "speech_balance"),
        (
            OVI.replace("<E> She smiles and adds, <S>", "<S> She <E> adds <E>"),
            True,
            "speech_balance",
        ),
        (OVI.replace("Good morning to you all.", " "), True, "speech_empty"),
        (OVI.split("<AUDCAP>", maxsplit=1)[0], True, "audio_count"),
        (OVI.replace("<ENDAUDCAP>", ""), True, "audio_count"),
        (f"{OVI} {OVI}", True, "audio_count"),
        ("A dog. <ENDAUDCAP>Barks.<AUDCAP>", False, "audio_order"),
        (f"{OVI} The end.", True, "audio_last"),
        (OVI.replace("calm", "<S>calm<E>"), True, "audio_tags"),
        ("A dog runs. <AUDCAP> . <ENDAUDCAP>", False, "audio_empty"),
        ("A dog runs. <AUDCAP>Paws.<ENDAUDCAP>", True, "speech_missing"),
        (OVI, False, "speech_invented"),
        ("<S>Hello.<E> <AUDCAP>A voice.<ENDAUDCAP>", True, "nothing_seen"),
        ("<AUDCAP>A voice.<ENDAUDCAP>", False, "nothing_seen"),
        ("... <AUDCAP>A voice.<ENDAUDCAP>", False, "nothing_seen"),
        ("I'm sorry, I see nothing. <AUDCAP>A voice.<ENDAUDCAP>", False, "refused"),
        ("A man. As an AI I name nobody. <AUDCAP>A voice.<ENDAUDCAP>", False, "refused"),
        ("A man. <AUDCAP>I cannot hear it.<ENDAUDCAP>", False, "refused"),
        (f"The caption: {OVI}", True, "preamble"),
        (f"Okay, {OVI}", True, "preamble"),
        (f"1. A street.\n2. {OVI}", True, "markdown"),
        (f"- A street.\n- {OVI}", True, "markdown"),
        (f"## Street\n{OVI}", True, "markdown"),
        (f'"{OVI}"', True, "wrapped"),
        (f'{{"caption": "{OVI}"}}', True, "wrapped"),
        ("A dog. If you need more, ask! <AUDCAP>Barks.<ENDAUDCAP>", False, "parting"),
        (f"<think>A woman.</think> {OVI}", True, "unknown_tag"),
        (f"<{'x' * 5000}> {OVI}", True, "unknown_tag"),
        (OVI.replace("<S>", "＜S＞").replace("<E>", "＜E＞"), None, "lookalike_tag"),
        (OVI.replace("<S>", "[S]").replace("<E>", "[/S]"), None, "lookalike_tag"),
        (OVI.replace("<S>", "&lt;S&gt;").replace("<E>", "&lt;E&gt;"), None, "lookalike_tag"),
        (OVI.replace("slow.", "slow. ENDAUDCAP"), True, "lookalike_tag"),
        (OVI.replace("Good morning to you all.", "..."), True, "speech_empty"),
        (OVI.replace("Good morning to you all.", "\u200b"), True, "speech_empty"),
        (OVI.replace("Good morning to you all.", "[inaudible]"), True, "speech_noted"),
        ("A dog runs. <AUDCAP>—<ENDAUDCAP>", False, "audio_empty"),
        ("A dog runs. <AUDCAP>N/A<ENDAUDCAP>", False, "audio_empty"),
        ("A dog runs. <AUDCAP>Audio description: paws.<ENDAUDCAP>", False, "audio_word"),
        ("A dog runs. <AUDCAP>Sound description: paws.<ENDAUDCAP>", False, "audio_word"),
        (OVI.replace("red", "r\ud83dd"), True, "odd_characters"),
        (OVI.replace("red", "r\ufffdd"), True, "odd_characters"),
        (OVI.replace("red", "r\x00d"), True, "odd_characters"),
    ],
)
def test_every_rule_has_its_complaint(text: str, speech: bool | None, rule: str) -> None:
    with pytest.raises(AnswerComplaint) as caught:
        parse(text, "ovi", speech)
    assert caught.value.rule == rule
    assert caught.value.complaint.endswith(".")
    assert len(caught.value.complaint) < 150
    caught.value.complaint.encode()
    codes = {"empty": "caption_empty", "refused": "caption_refused"}
    assert caught.value.code == codes.get(rule, "caption_malformed")


@pytest.mark.parametrize(
    ("form", "text", "rule"),
    [
        ("ovi-960", OVI, "unknown_tag"),
        ("ovi-960", OVI_960.replace("Audio:", "Sound:"), "audio_count"),
        ("ovi-960", OVI_960.replace("She", "Audio: she"), "audio_count"),
        ("ovi-960", OVI_960.removesuffix(" and slow."), "unfinished"),
        ("ovi-960", OVI_960.replace("calm", "<S>calm<E>"), "audio_tags"),
        ("ovi-960", OVI_960.replace("She", "audio: she"), "audio_count"),
        ("ovi-960", OVI_960.replace("Audio:", "Audio description:"), "audio_count"),
        ("ovi-960", f"{OVI_960} Let me know if you need more.", "parting"),
        ("ovi-960", OVI_960.replace("<S>", "<AUDCAP>"), "unknown_tag"),
        ("ovi-960", OVI_960.replace(" Audio:", " AUDCAP Audio:"), "lookalike_tag"),
        ("ovi-audio", OVI_AUDIO.replace("<E> <S>", "<E>, <S>"), "outside_quotations"),
        ("ovi-audio", OVI, "outside_quotations"),
        ("ovi", OVI_960, "audio_count"),
    ],
)
def test_forms_are_not_mixed(form: CaptionForm, text: str, rule: str) -> None:
    with pytest.raises(AnswerComplaint) as caught:
        parse(text, form)
    assert caught.value.rule == rule


def test_what_is_said_may_be_anything_but_tags() -> None:
    for words in (
        "I'm sorry, I cannot help.",
        "Here is the bill.",
        "Größe — 大小",
        'He said "no".',
    ):
        answer = parse_answer(
            f"A man speaks: <S>{words}<E> <AUDCAP>A voice.<ENDAUDCAP>",
            "ovi", has_speech=True, has_sound=True,
        )  # fmt: skip
        assert answer.speech == (words,)


@pytest.mark.parametrize(
    "seen",
    [
        "Surefooted goats climb.",
        "Certainly the tallest, a crane turns.",
        '"Sorry, we\'re closed", reads a sign on a door.',
        "A poster reads \"I can't. I won't.\"",
        '"Open" glows over a door marked "Exit"',
        "A T-shirt reads f*** and sh**.",
        "A key of 2.5 m hangs at 12. It turns.",
        "A file named my_own_file lies open.",
    ],
)
def test_words_that_only_look_like_talk_or_markdown_are_let_through(seen: str) -> None:
    parse(f"{seen} <AUDCAP>A hum.<ENDAUDCAP>", "ovi", False)


@pytest.mark.parametrize("end", [".", "!", '."', "。", "।", "؟", "…"])
def test_descriptions_end_as_sentences_do_in_their_language(end: str) -> None:
    parse(f"A dog runs. Audio: Paws{end}", "ovi-960", False)


def test_where_speech_is_not_known_either_will_do() -> None:
    parse(OVI, "ovi", None)
    parse("A dog runs. <AUDCAP>Paws.<ENDAUDCAP>", "ovi", None)
    parse("<AUDCAP>Rain on a roof.<ENDAUDCAP>", "ovi-audio", None)


def test_without_sound_nobody_is_quoted() -> None:
    silent = "A dog runs. <AUDCAP>It is silent.<ENDAUDCAP>"
    parse_answer(silent, "ovi", has_speech=None, has_sound=False)
    with pytest.raises(AnswerComplaint) as caught:
        parse_answer(OVI, "ovi", has_speech=None, has_sound=False)
    assert caught.value.rule == "speech_invented"


def well_formed(text: str, form: CaptionForm) -> bool:
    """An independent reading of the form: one expression for the whole."""
    quoted = r"<S>[^<>]*\w[^<>]*<E>"
    tagged = r"<AUDCAP>[^<>]*\w[^<>]*<ENDAUDCAP>"
    description = r"Audio:[^<>]*\w[^<>]*" if form == "ovi-960" else tagged
    told = r"\s*" if form == "ovi-audio" else r"[^<>]*"
    whole = rf"\s*{told}(?:{quoted}{told})+{description}\s*"
    unquoted = text if form == "ovi-960" else re.sub(r"<S>[^<>]*<E>", "", text)
    return bool(re.fullmatch(whole, text)) and unquoted.count("Audio:") == (form == "ovi-960")


@pytest.mark.parametrize("form", VALID)
@pytest.mark.parametrize("speech", [True, None])
def test_no_truncated_caption_passes_for_a_whole_one(
    form: CaptionForm, speech: bool | None
) -> None:
    for length in range(len(VALID[form])):
        with pytest.raises(AnswerComplaint):
            parse(VALID[form][:length], form, speech)


@pytest.mark.parametrize("form", VALID)
@pytest.mark.parametrize("seed", range(8))
def test_damaged_captions_are_refused_or_still_in_the_form(form: CaptionForm, seed: int) -> None:
    rng = random.Random(seed)
    pieces = re.split(r"(<[^<>]*>|Audio:)", VALID[form])
    tags = ["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "<X>", "Audio:"]
    texts = ["".join(damaged(pieces, tags, rng)) for _ in range(300)]
    assert still_in_the_form(texts, form) < 200


@pytest.mark.parametrize("form", VALID)
@pytest.mark.parametrize("seed", range(8))
def test_no_damaged_character_gets_past(form: CaptionForm, seed: int) -> None:
    rng = random.Random(seed)
    texts = ["".join(damaged(VALID[form], "<>SEADNCPUo:/ \n.", rng)) for _ in range(500)]
    assert still_in_the_form(texts, form) > 100


def damaged(pieces: Sequence[str], more: Sequence[str], rng: random.Random) -> list[str]:
    """One or two pieces dropped, doubled, swapped with others, or put in from `more`."""
    changed = list(pieces)
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(len(changed))
        kind = rng.choice(["drop", "double", "swap", "insert"])
        if kind == "drop":
            del changed[place]
        elif kind == "double":
            changed.insert(place, changed[place])
        elif kind == "swap":
            other = rng.randrange(len(changed))
            changed[place], changed[other] = changed[other], changed[place]
        else:
            changed.insert(place, rng.choice(more))
    return changed


def still_in_the_form(texts: Sequence[str], form: CaptionForm) -> int:
    """How many the parser takes: those must be in the form, and their parts be theirs."""
    taken = 0
    for text in texts:
        try:
            answer = parse_answer(text, form, has_speech=True, has_sound=True)
        except AnswerComplaint:
            continue
        taken += 1
        assert well_formed(text, form), text
        again = parse_answer(answer.text, form, has_speech=True, has_sound=True)
        assert again == answer
        assert answer.audio is not None
        for part in (*answer.speech, answer.audio):
            assert part in answer.text
            assert not re.search("[<>]", part)
    return taken
