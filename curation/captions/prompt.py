"""The prompts: text files, filled in with what is known of a clip.

A user's own folder may hold any of the files under the same names; those it does not hold are the
packaged ones. Files are read once a process, so that one edited under way does not split a job.
Placeholders are `$stills`, `$duration`, `$speech`, `$sound`, `$transcript` and `$complaint`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import string
from importlib import resources
from pathlib import Path
from typing import get_args

from curation.captions.answer import AnswerComplaint, CaptionForm
from manifests.errors import UsageError
from manifests.fingerprint import fingerprint

_SYSTEM, _PARTS, _COMPLAINT = "system.txt", "parts.txt", "complaint.txt"
_NAMES = (_SYSTEM, _PARTS, _COMPLAINT, *(f"{form}.txt" for form in get_args(CaptionForm)))


@dataclasses.dataclass(frozen=True)
class ClipFacts:
    """What the measurements know of a clip before it is captioned.

    `has_speech` is None where that is not known, `transcript` where no recogniser was asked;
    `stills` is how many frames the model is shown.
    """

    has_sound: bool
    has_speech: bool | None
    duration_s: float
    transcript: str | None
    stills: int = 7


def system_prompt(form: CaptionForm, folder: Path | None = None) -> str:
    """What a model is told once, before anything of a clip.

    Raises:
        UsageError: `bad_prompt`.
    """
    return _fill(_SYSTEM, folder)


def user_prompt(form: CaptionForm, facts: ClipFacts, folder: Path | None = None) -> str:
    """What is asked of one clip.

    Raises:
        UsageError: `bad_prompt`: a file cannot be read or has a placeholder that nothing fills.
    """
    return _fill(
        f"{form}.txt",
        folder,
        stills=str(facts.stills),
        duration=f"{facts.duration_s:.1f}",
        speech=_speech(facts, folder),
        sound=_sound(facts, folder),
    )


def complaint_prompt(
    form: CaptionForm, complaint: AnswerComplaint, folder: Path | None = None
) -> str:
    """What is said about an answer that is not in the form, when it is asked for once more.

    Raises:
        UsageError: `bad_prompt`.
    """
    return _fill(_COMPLAINT, folder, complaint=complaint.complaint)


def prompts_fingerprint(form: CaptionForm, folder: Path | None = None) -> str:
    """Hash of all the texts that a form's prompts are made of.

    What is wrong with any of them is told here, before a job has begun.

    Raises:
        UsageError: `bad_prompt`.
    """
    if folder is not None:
        _check_names(folder)
    _rehearse(form, folder)
    return fingerprint(
        [_text(name, folder) for name in (_SYSTEM, f"{form}.txt", _PARTS, _COMPLAINT)]
    )


def _check_names(folder: Path) -> None:
    """A text under a wrong name would be left unread without a word."""
    for path in sorted(folder.glob("*.txt")):
        if path.name not in _NAMES:
            raise _bad(
                path.name, folder, f"No prompt has this name; there are {', '.join(_NAMES)}."
            )


def _rehearse(form: CaptionForm, folder: Path | None) -> None:
    """Make every prompt once."""
    system_prompt(form, folder)
    complaint_prompt(form, AnswerComplaint("caption_malformed", "A complaint."), folder)
    for sound, speech in itertools.product((True, False), (True, False, None)):
        user_prompt(form, ClipFacts(sound, speech, 1.0, "a word"), folder)


def _speech(facts: ClipFacts, folder: Path | None) -> str:
    """What to do about speech, with what the recogniser heard as a hint."""
    if not facts.has_sound:
        return _part("silent", folder)
    names = {True: "speech", False: "no_speech", None: "maybe_speech"}
    asked = _part(names[facts.has_speech], folder)
    if facts.has_speech is False or not (facts.transcript or "").strip():
        return asked
    # Brackets that a recogniser writes must not look like tags.
    heard = re.sub(r"[<>]", " ", facts.transcript or "").strip()
    return f"{asked} {_part('heard', folder, transcript=heard)}"


def _sound(facts: ClipFacts, folder: Path | None) -> str:
    if not facts.has_sound:
        return _part("sound_of_silence", folder)
    names = {
        True: "sound_of_speech",
        False: "sound_without_speech",
        None: "sound_of_maybe_speech",
    }
    return _part(names[facts.has_speech], folder)


def _part(name: str, folder: Path | None, **values: str) -> str:
    for line in _text(_PARTS, folder).splitlines():
        found, _, sentence = line.partition("=")
        if found.strip() == name:
            return _substitute(sentence.strip(), _PARTS, folder, values)
    raise _bad(_PARTS, folder, f"It has no line '{name} = ...'.")


def _fill(name: str, folder: Path | None, **values: str) -> str:
    return _substitute(_text(name, folder).strip(), name, folder, values)


def _substitute(text: str, name: str, folder: Path | None, values: dict[str, str]) -> str:
    try:
        return string.Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        raise _bad(name, folder, f"It has a placeholder that nothing fills ({error}).") from error


@functools.lru_cache(maxsize=32)
def _text(name: str, folder: Path | None) -> str:
    try:
        if folder is not None and (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError("there is no such folder")
        packaged = resources.files("curation.captions") / "prompts" / name
        return packaged.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(name, folder, f"It cannot be read ({error}).") from error


def _bad(name: str, folder: Path | None, message: str) -> UsageError:
    return UsageError(
        "bad_prompt",
        message,
        subject=str(folder / name) if folder is not None else name,
        remedy="Look at the packaged prompts in curation/captions/prompts; write $$ for a $.",
    )
