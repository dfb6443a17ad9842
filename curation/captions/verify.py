"""Holding a caption against what was measured: its quotations, and its audio description.

Quotations are compared with the transcript word by word, case, punctuation and the like left out;
in scripts that put no blanks between words, character by character. Figures are not spelled out: 5
and five differ. The audio description is compared with the tagger's class by English words that
speak of it, words that are denied ("no music or speech") left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from curation.captions.answer import Answer
from manifests.store.records import VerifiedRecord

_LEAST_SCORE = 0.3
"""Below this the tagger is not sure enough of its class to contradict anybody."""
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
    "\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff]"
)
"""Kana, Han, Thai, Lao, Burmese and Khmer."""
_SPEECH = r"""
voices?; voiced; voice-?overs?; speak\w*; spoken; speech; says?; said; saying; talk\w*; narrat\w*;
monologues?; dialogues?; conversation\w*; accent; accented; whisper\w*; shout\w*; yell(s|ed|ing)?;
murmur\w*; mutter\w*; chatter\w*; announc\w*; lectur\w*; recit(es?|ed|ing); intonation; prosody;
pronunciation; utter(s|ed|ing|ances?); exclaim\w*; babbl\w*
"""
"""Not men and women as such, whose steps are heard too."""
_MUSIC = r"""
music\w*; melod\w+; instrumentals?; instruments?; orchestr\w*; strings; chords?; (?<!bird )songs?;
tunes?; soundtrack; synths?; synthesi[sz]ers?; bass ?line; percussion; drums?; drummers?;
drumbeats?; (drum|electronic|hip[- ]hop|dance|musical) beats?; guitars?; pianos?; violins?; cellos?;
harps?; flutes?; trumpets?; saxophones?; clarinets?; accordions?; banjos?; ukuleles?; jazz; techno;
hip[- ]hop
"""
_SINGING = r"""
sing; sings; singing; singers?; sung; vocals; vocalists?; choirs?; choral; (?<!bird )songs?;
lullab(y|ies); rap; rapp(ed|ers?|ing); chant(s|ed|ing)?; hum(s|med|ming)? (a|the|his|her|along);
yodel\w*; a ?cappella; operas?; operatic
"""
_SILENCE = r"""
silen(t|ce|tly); soundless\w*; noiseless\w*; inaudible; no (\w+ )?(sounds?|audio|noises?);
nothing (is|can be|to be) heard
"""
_NEARLY_SILENT = r"quiet\w*; faint\w*; hush\w*; barely; nothing"
_DENIAL = r"""
no one; nobody; no; not; never; without; neither; nor; lacks?; lacking; absence of; devoid of;
free of; \w+n['’]t
"""
_ENDS_DENIAL = """
and; but; only; just; except; besides; while; whereas; over; under; above; beneath; with; then;
instead; although; though; yet; a; an; the; he; she; they; somebody; someone
"""


def _any_of(phrases: str) -> str:
    """An expression for whole words out of a list with semicolons."""
    return rf"\b(?:{'|'.join(' '.join(phrase.split()) for phrase in phrases.split(';'))})\b"


_SPEAKS_OF = {
    "speech": re.compile(_any_of(_SPEECH)),
    "music": re.compile(_any_of(_MUSIC)),
    "singing": re.compile(_any_of(_SINGING)),
    "silence": re.compile(_any_of(f"{_SILENCE};{_NEARLY_SILENT}")),
}
_SILENT = re.compile(_any_of(_SILENCE))
_DENIED_WORD = rf"(?!{_any_of(_ENDS_DENIAL)})[\w'’-]+"
_DENIED = re.compile(
    rf"{_any_of(_DENIAL)}(?:\s+(?:a|an|the|any|single)\b)*(?:\s+{_DENIED_WORD}){{0,5}}"
    # A list goes on, "no speech, music or singing"; "no speech, wind blows" is none.
    rf"(?:\s*,\s+(?:n?or\s+)?{_DENIED_WORD}(?=\s*[,.;]|\s*$|\s+n?or\b)"
    r"(?:\s+n?or\s+[\w'’-]+)?)*"
)
_CLAUSE_END = re.compile(
    r"[.,;:!?]|\b(?:but|then|except|until|before|after|and|broken|interrupted|apart)\b"
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
    joined = re.sub(r"['’‘ʼ`]", "", folded)
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
    text = description.casefold()
    if kind == "sound_effect":
        return not _is_silence_alone(text)
    pattern = _SPEAKS_OF.get(str(kind))
    if pattern is None:
        return None
    # Silence is described by denials: no speech, no music.
    return bool(pattern.search(text if kind == "silence" else _DENIED.sub(" ", text)))


def _is_silence_alone(text: str) -> bool:
    """It speaks of silence, and every clause does or denies something."""
    if not _SILENT.search(text):
        return False
    clauses = _CLAUSE_END.split(_DENIED.sub(" silence ", text))
    return all(_SILENT.search(clause) for clause in clauses if clause.strip())
