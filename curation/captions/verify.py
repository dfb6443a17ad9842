"""Holding a caption against what was measured: its quotations, and its audio description.

Quotations are compared with the transcript word by word, case, punctuation and the like left out;
in scripts that put no blanks between words, character by character. The audio description is
compared with the tagger's class by words that speak of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from curation.captions.answer import Answer
from manifests.records import VerifiedRecord

_LEAST_SCORE = 0.3
"""Below this the tagger is not sure enough of its class to contradict anybody."""
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
"""Kana, Han, Thai, Lao, Burmese and Khmer."""
_SPEAKS_OF: dict[str, re.Pattern[str]] = {
    "speech": re.compile(
        r"\b(voices?|speak\w*|spoken|speech|says?|said|talk\w*|narrat\w*|accent\w*|whisper\w*|shout\w*"
        r"|conversation\w*|dialogues?|man|woman|male|female|boy|girl|child|children|people|crowd)\b"
    ),
    "music": re.compile(
        r"\b(music\w*|melod\w+|instrument\w*|guitars?|pianos?|drum\w*|orchestr\w*|violins?|strings"
        r"|synth\w*|beats?|songs?|chords?|bass|flutes?|trumpets?|tunes?|rhythm\w*)\b"
    ),
    "singing": re.compile(
        r"\b(sing|sings|singing|singers?|sung|vocals?|choirs?|chorus|songs?|rap\w*|chant\w*|hum\w*)\b"
    ),
    "silence": re.compile(r"\b(silen\w+|quiet\w*|no sounds?|nothing is heard|still(ness)?)\b"),
}
_LACKS = re.compile(
    r"\b(no|without( any)?|neither|nor|free of|absen(t|ce of)|lacks?( any)?)\s+(\w+\s+){0,3}?"
)


def verify(
    answer: Answer, *, transcript: str | None, audio_class: Mapping[str, Any] | None
) -> VerifiedRecord:
    """What the caption's words come to beside the measurements.

    Args:
        answer: the caption.
        transcript: what the recogniser heard; empty if nobody speaks, None if it was not asked.
        audio_class: the struct of the stage `audio_class` (`kind`, and a score a class), if any.
    """
    agrees = audio_agrees(answer.audio, audio_class)
    if transcript is None:
        return VerifiedRecord(None, None, None, None, agrees)
    spoken, quoted = words_of(transcript), words_of(" ".join(answer.speech))
    edits = edit_distance(spoken, quoted)
    shared = Counter(spoken) & Counter(quoted)
    return VerifiedRecord(
        # Without a word in the transcript every quoted one is an error: a rate over 1 at least.
        word_error_rate=edits / max(1, len(spoken)),
        spoken_words=len(spoken),
        invented_words=len(quoted) - shared.total(),
        missed_words=len(spoken) - shared.total(),
        audio_agrees=agrees,
    )


def words_of(text: str) -> list[str]:
    """The words of a text without case, punctuation and apostrophes (NFKC, case folded).

    A character of a script without blanks is a word of its own.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    joined = re.sub(r"['’`]", "", folded)
    spaced = _UNSPACED.sub(lambda match: f" {match.group()} ", joined)
    # Combining marks belong to their letters: Devanagari and Arabic would fall apart without.
    kept = (
        character if unicodedata.category(character)[0] in "LNM" else " " for character in spaced
    )
    return "".join(kept).split()


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Fewest words to replace, insert or remove (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for index, word in enumerate(one, start=1):
        diagonal, row[0] = row[0], index
        for place, counterpart in enumerate(other, start=1):
            changed = diagonal + (word != counterpart)
            diagonal = row[place]
            row[place] = min(changed, diagonal + 1, row[place - 1] + 1)
    return row[-1]


def audio_agrees(description: str | None, audio_class: Mapping[str, Any] | None) -> bool | None:
    """Whether a description speaks of what the tagger heard; None where that cannot be said.

    It cannot where there is no description, no tagger or no certain class, and for descriptions
    that hold no Latin letters: the word lists are English. Of a sound effect nothing particular has
    to be said, but not that all is silent.
    """
    if not description or not audio_class or not re.search(r"[a-z]{3}", description.casefold()):
        return None
    kind = audio_class.get("kind")
    score = audio_class.get(str(kind))
    if kind is None or (score is not None and score < _LEAST_SCORE):
        return None
    text = _LACKS.sub("lacking_", description.casefold())
    if kind == "sound_effect":
        heard = [name for name in ("speech", "music", "singing") if _SPEAKS_OF[name].search(text)]
        return bool(heard) or not _SPEAKS_OF["silence"].search(text)
    pattern = _SPEAKS_OF.get(str(kind))
    return None if pattern is None else bool(pattern.search(text))
