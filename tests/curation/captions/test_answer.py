"""The parser of answers: what is a caption in the form, and what is said about what is not."""

from __future__ import annotations

import random
import re

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
    ],
)
def test_every_rule_has_its_complaint(text: str, speech: bool | None, rule: str) -> None:
    with pytest.raises(AnswerComplaint) as caught:
        parse(text, "ovi", speech)
    assert caught.value.rule == rule
    assert caught.value.complaint.endswith((".", ":"))
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
def test_no_truncated_caption_passes_for_a_whole_one(form: CaptionForm) -> None:
    for length in range(len(VALID[form])):
        cut = VALID[form][:length]
        try:
            parse(cut, form)
        except AnswerComplaint:
            continue
        assert well_formed(cut, form) and cut.rstrip().endswith((".", "!", "?")), cut


@pytest.mark.parametrize("form", VALID)
@pytest.mark.parametrize("seed", range(8))
def test_damaged_captions_are_refused_or_still_in_the_form(form: CaptionForm, seed: int) -> None:
    rng = random.Random(seed)
    pieces = re.split(r"(<[^<>]*>|Audio:)", VALID[form])
    passed = 0
    for _ in range(300):
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
                tags = ["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "<X>", "Audio:"]
                changed.insert(place, rng.choice(tags))
        text = "".join(changed)
        try:
            parse(text, form)
        except AnswerComplaint:
            continue
        passed += 1
        assert well_formed(text, form), text
    assert passed < 200
