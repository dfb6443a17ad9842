"""Captions that came with their files: a table's column `caption`, or a text file beside each."""

from __future__ import annotations

from collections.abc import Mapping

from curation.captions.answer import AUDIO_TAGS, SPEECH_TAGS, Answer

COLUMN = "caption"
"""Of an input table, and of `sources.carried`."""
CARRIED_VERSION = 1
"""Raise whenever equal words beside a file may give another caption."""


def carried_caption(carried: Mapping[str, str]) -> Answer | None:
    """The caption that a file brought with it, as it is but for its blanks; None if it has none.

    What stands between `<S>` and `<E>` is told apart as speech, and what between `<AUDCAP>` and
    `<ENDAUDCAP>` as sound. Other people's words need have neither, and are not asked for them.

    Args:
        carried: what was listed with the file, `sources.carried`.
    """
    text = " ".join(carried.get(COLUMN, "").split())
    if not text:
        return None
    audio = _between(text, *AUDIO_TAGS)
    return Answer(text, tuple(_between(text, *SPEECH_TAGS)), audio[0] if len(audio) == 1 else None)


def _between(text: str, opening: str, closing: str) -> list[str]:
    """What stands between each opening tag and the closing one that follows it."""
    parts = (part.partition(closing) for part in text.split(opening)[1:])
    return [words.strip() for words, found, _ in parts if found]
