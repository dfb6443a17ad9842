"""Reading what a model answered: a caption in the form, or one sentence on what is wrong with it.

A caption tells what is to be seen in its order, with speech where it happens between `<S>` and
`<E>`, and ends with one description of what is to be heard (Ovi, section 3.2): between `<AUDCAP>`
and `<ENDAUDCAP>` (form `ovi`), or after `Audio:` (form `ovi-960`, of the later models). The form
`ovi-audio` (section 3.3) has no pictures: nothing but quotations and the description.

Only this is forgiven: blanks around the answer and inside tags, and line breaks, which become
blanks. Everything else a model trained on the caption would learn. Refusals and talk about the task
are recognised by English phrases, outside of quotations. An answer in the form `ovi-960` that was
cut at the end of a sentence looks whole here: only the caller knows why the model stopped.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

CaptionForm = Literal["ovi", "ovi-960", "ovi-audio"]
"""Tags at the end, `Audio: ...` at the end, or sound alone."""

SPEECH_TAGS = ("<S>", "<E>")
AUDIO_TAGS = ("<AUDCAP>", "<ENDAUDCAP>")
AUDIO_WORD = "Audio:"

_TAG = re.compile(r"<[^<>]*>")
_LONGEST_SHOWN_TAG = 40
_LOOKALIKE = re.compile(
    r"(?i)audcap|[＜〈⟨‹《【\[{]\s*/?\s*[se]\s*[＞〉⟩›》】\]}]|&(?:lt|gt|amp|quot|nbsp|#\d+);"
)
"""What a model writes in a tag's stead: other brackets, or a tag's name without any."""
_AUDIO_LABEL = re.compile(r"(?i)(?<!\w)audio(?:\s+(?:description|caption))?\s*[:：]")
_DESCRIPTION_LABEL = re.compile(r"(?i)^\W*(?:\w+\s+){0,2}(?:description|caption)\s*[:：]")
_NOTHING_DESCRIBED = re.compile(r"(?i)^\W*(?:n/?a|none|null|nil|unknown)\W*$")
_WORD = re.compile(r"[^\W_]")
_NOTE = re.compile(r"^\s*(?:\[[^\]]*\]|\([^)]*\))\W*$")
_SENTENCE_END = re.compile(r"[.!?…。！？｡؟۔।॥።][\"'”’»」』)\]]*$")
_QUOTED = re.compile(r"\"[^\"<>]*\"|“[^”<>]*”|«[^»<>]*»")
"""What is to be read in the picture, mostly."""
_REFUSAL = re.compile(
    r"(?i)(^|[.!?])\W*(?:i(?:['’]?m| am) (?:very |so |really )?(?:sorry|unable|not able)"
    r"|sorry, (?:but )?i|i apologi[sz]e|as an ai|as a (?:large )?language model"
    r"|i (?:cannot|can['’]?t|can not|won['’]?t|do not have|don['’]?t have))\b"
)
_PREAMBLE = re.compile(
    r"(?i)^\W*(?:(?:sure|sure thing|certainly|of course|absolutely|okay|ok|alright|great)\s*[,.!:]"
    r"|here(?:['’]s| is| are)\b|(?:let me|i['’]ll|i will)\b"
    r"|(?:this|below|following) is (?:the|a|my|your)\b[^.]{0,30}\bcaption\b"
    r"|(?:(?:the|my|a|your|full|final|long|video|revised|corrected|new)\s+)*"
    r"(?:caption|answer|transcript(?:ion)?)\s*[:：])"
)
_PARTING = re.compile(
    r"(?i)\b(?:let me know|feel free|(?:i )?hope this|would you like me|if you (?:need|want|would))"
    r"\b[^.!?]*[.!?]?\s*$"
)
_MARKDOWN = re.compile(
    # Paired stars and underlines only: a word may be masked with stars.
    r"```|`[^`\n]+`|(?<![\w*])(?:\*\*(?=\S)[^*]+\*\*|\*\w[^*\n]*\w\*(?![\w*]))"
    r"|(?<!\w)__(?=\S)[^_]+__|^\s*#{1,6}\s|^\s*(?:[-*•]|\d{1,2}[.)])\s|\]\(https?:",
    re.MULTILINE,
)
_WRAPPINGS = ('""', "“”", "«»", "[]", "()")


@dataclasses.dataclass(frozen=True)
class Answer:
    """A caption as training uses it, with its parts.

    `speech` is what stands between `<S>` and `<E>`, in order; `audio` the audio description alone.
    """

    text: str
    speech: tuple[str, ...]
    audio: str | None


class AnswerComplaint(Exception):  # noqa: N818 - not an error of this program
    """An answer that is not a caption in the form.

    Args:
        code: `caption_malformed`, `caption_refused`, `caption_truncated` (said by who sees where an
            answer was cut) or `caption_empty`.
        complaint: one sentence to say to the model when it is asked once more.
        rule: the rule that is broken, a stable word.
    """

    def __init__(self, code: str, complaint: str, rule: str = "") -> None:
        super().__init__(complaint)
        self.code = code
        self.complaint = complaint
        self.rule = rule


def parse_answer(
    text: str, form: CaptionForm, *, has_speech: bool | None, has_sound: bool
) -> Answer:
    """The caption that an answer is.

    Args:
        text: what the model wrote.
        form: what a caption looks like.
        has_speech: whether somebody speaks in the clip; None if that is not known.
        has_sound: whether anything is to be heard in it.

    Raises:
        AnswerComplaint: it is none.
    """
    _check_manner(text)
    plain = " ".join(text.split())
    told, audio = _split_960(plain) if form == "ovi-960" else _split_tagged(plain)
    quotations = _quotations(told)
    if form != "ovi-960" and _AUDIO_LABEL.search(f"{_outside(told, quotations)} {audio}"):
        raise _malformed("audio_word", f"Do not write {AUDIO_WORD}, the tags say what it is.")
    speech = tuple(told[start:end].strip() for start, end in quotations)
    _check_speech(speech, has_speech if has_sound else False)
    _check_told(told, quotations, form)
    _check_words(_outside(told, quotations))
    _check_words(audio)
    quoted = re.sub(r"<S>\s*(.*?)\s*<E>", r"<S>\1<E>", told).strip()
    description = f"{AUDIO_WORD} {audio}" if form == "ovi-960" else audio.join(AUDIO_TAGS)
    return Answer(f"{quoted} {description}".strip(), speech, audio)


def _check_manner(text: str) -> None:
    """It is a caption at all: neither a refusal, nor talk about a caption."""
    if not text.strip():
        raise AnswerComplaint("caption_empty", "The answer is empty.", "empty")
    if any(_is_odd(character) for character in text):
        raise _malformed(
            "odd_characters", "The text holds characters that are none: write it anew."
        )
    if _REFUSAL.match(_QUOTED.sub(" ", text)):
        raise _refused()
    if _MARKDOWN.search(text):
        raise _malformed("markdown", "Write plain text without Markdown and without a list.")
    if _is_wrapped(text.strip()):
        raise _malformed("wrapped", "Write the caption itself, without quotation marks around it.")
    if _PREAMBLE.match(text):
        raise _malformed("preamble", "Begin with the caption itself, without any words before it.")


def _is_wrapped(text: str) -> bool:
    """The whole of it stands in quotation marks or brackets, or is JSON."""
    first, last = text[0], text[-1]
    # More marks than two are those of words to be read in the picture.
    marks = sum(text.count(mark) for mark in {first, last})
    return (first + last in _WRAPPINGS and marks == 2) or first == "{"


def _check_words(words: str) -> None:
    """No talk about the task inside of the caption either."""
    own_words = _QUOTED.sub(" ", words)
    if _REFUSAL.search(own_words):
        raise _refused()
    if _PARTING.search(own_words):
        raise _malformed("parting", "End with the caption itself, without any words after it.")


def _is_odd(character: str) -> bool:
    """Half a character, a replaced one, or a control: no table and no tokeniser takes them well."""
    category = unicodedata.category(character)
    return (
        category == "Cs" or character == "\ufffd" or (category == "Cc" and not character.isspace())
    )


def _split_tagged(text: str) -> tuple[str, str]:
    """What comes before the audio description, and the description: forms with tags."""
    tags = _TAG.findall(text)
    _check_tags(text, tags, (*SPEECH_TAGS, *AUDIO_TAGS))
    opening, closing = AUDIO_TAGS
    if tags.count(opening) != 1 or tags.count(closing) != 1:
        raise _malformed(
            "audio_count", f"Write exactly one audio description between {opening} and {closing}."
        )
    told, _, rest = text.partition(opening)
    audio, found, after = rest.partition(closing)
    if not found:
        raise _malformed("audio_order", f"{opening} has to come before {closing}.")
    if after.strip():
        raise _malformed("audio_last", f"Nothing may follow {closing}: it ends the caption.")
    if _TAG.search(audio):
        raise _malformed("audio_tags", "The audio description must not hold speech tags.")
    return told, _described(audio)


def _split_960(text: str) -> tuple[str, str]:
    """The same of the form that ends with `Audio: ...`."""
    _check_tags(text, _TAG.findall(text), SPEECH_TAGS)
    labels = [label.group() for label in _AUDIO_LABEL.finditer(text)]
    if labels != [AUDIO_WORD]:
        raise _malformed(
            "audio_count",
            f"Write exactly one audio description, after the word {AUDIO_WORD} and nothing else.",
        )
    told, _, audio = text.partition(AUDIO_WORD)
    if _TAG.search(audio):
        raise _malformed("audio_tags", "The audio description must not hold speech tags.")
    described = _described(audio)
    if not _SENTENCE_END.search(described):
        raise _malformed("unfinished", "The caption breaks off: end it with a whole sentence.")
    return told, described


def _described(audio: str) -> str:
    if not _WORD.search(audio) or _NOTHING_DESCRIBED.match(audio):
        raise _malformed("audio_empty", "The audio description is empty.")
    if _DESCRIPTION_LABEL.match(audio):
        raise _malformed("audio_word", "Begin the audio description itself, without a heading.")
    return audio.strip()


def _check_tags(text: str, tags: Sequence[str], known: Sequence[str]) -> None:
    for tag in tags:
        if tag not in known:
            shown = tag[:_LONGEST_SHOWN_TAG]
            raise _malformed(
                "unknown_tag", f"There is no tag {shown}; use {', '.join(known)} only."
            )
    bare = _TAG.sub("", text)
    if re.search(r"[<>]", bare):
        raise _malformed("stray_bracket", "A tag is broken: a < or > belongs to none.")
    if _LOOKALIKE.search(bare):
        raise _malformed("lookalike_tag", f"Write tags exactly like this: {', '.join(known)}.")


def _quotations(told: str) -> list[tuple[int, int]]:
    """Where the quotations lie: start and end of every text between speech tags."""
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    for tag in _TAG.finditer(told):
        opens = tag.group() == SPEECH_TAGS[0]
        if opens == (opened is not None):
            raise _malformed(
                "speech_balance", "Every <S> needs its <E> after it, and quotations must not nest."
            )
        if opened is not None:
            _check_quotation(told[opened : tag.start()])
            spans.append((opened, tag.start()))
        opened = tag.end() if opens else None
    if opened is not None:
        raise _malformed("speech_balance", "An <S> has no <E> after it.")
    return spans


def _check_quotation(words: str) -> None:
    if not _WORD.search(words):
        raise _malformed("speech_empty", "There are no words between <S> and <E>.")
    if _NOTE.match(words):
        raise _malformed("speech_noted", "Write words that are said between <S> and <E>, no notes.")


def _check_speech(speech: Sequence[str], has_speech: bool | None) -> None:
    if has_speech is True and not speech:
        raise _malformed("speech_missing", "Somebody speaks: quote it between <S> and <E>.")
    if has_speech is False and speech:
        raise _malformed("speech_invented", "Nobody speaks: there must be no <S> and <E>.")


def _check_told(told: str, quotations: Sequence[tuple[int, int]], form: CaptionForm) -> None:
    """What stands outside of quotations: the visual events, or nothing if there are no pictures."""
    seen = _outside(told, quotations)
    if form == "ovi-audio" and seen.strip():
        raise _malformed(
            "outside_quotations",
            "There are no pictures: write quotations and the audio description and nothing else.",
        )
    if form != "ovi-audio" and not _WORD.search(seen):
        raise _malformed("nothing_seen", "Tell what is to be seen before what is to be heard.")


def _outside(told: str, quotations: Sequence[tuple[int, int]]) -> str:
    """The text without its quotations and tags."""
    outside, last = [], 0
    for start, end in quotations:
        outside.append(told[last:start])
        last = end
    return _TAG.sub("", "".join([*outside, told[last:]]))


def _malformed(rule: str, complaint: str) -> AnswerComplaint:
    return AnswerComplaint("caption_malformed", complaint, rule)


def _refused() -> AnswerComplaint:
    return AnswerComplaint(
        "caption_refused",
        "Describe what is to be seen and heard; nothing else is asked for.",
        "refused",
    )
