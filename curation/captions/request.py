"""What a model is asked: one conversation for a clip, the same over HTTP and inside vLLM.

The parts follow the OpenAI chat protocol: text, pictures as data URLs, and sound either as OpenAI's
`input_audio` or as vLLM's `audio_url` (docs.vllm.ai, "Multimodal inputs", online serving).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curation.captions.answer import AnswerComplaint, CaptionForm
from curation.captions.prompt import ClipFacts, complaint_prompt, system_prompt, user_prompt
from curation.captions.settings import AudioFormat
from stages.media.caption_media import ClipMedia

Message = dict[str, Any]
"""One message of a chat: `role` and `content`."""

_NO_ANSWER = "(no answer)"
"""Stands for an empty answer when it is complained about: templates refuse empty messages."""


def first_messages(
    media: ClipMedia,
    facts: ClipFacts,
    form: CaptionForm,
    *,
    audio_format: AudioFormat = "input_audio",
    prompts: Path | None = None,
) -> list[Message]:
    """The system's prompt, then one message with the text, the pictures and the sound of a clip.

    Args:
        media: JPEG pictures in order, and WAV bytes where the clip has sound.
        facts: what is known of the clip already.
        form: what a caption looks like.
        audio_format: how the sound is carried.
        prompts: a folder of prompts over the built-in ones.
    """
    parts = [{"type": "text", "text": user_prompt(form, facts, prompts)}]
    parts += [_picture(jpeg) for jpeg in media.jpegs]
    if media.wav is not None:
        parts.append(_sound(media.wav, audio_format))
    return [
        {"role": "system", "content": system_prompt(form, prompts)},
        {"role": "user", "content": parts},
    ]


def messages_again(
    messages: Sequence[Message],
    answer: str,
    complaint: AnswerComplaint,
    form: CaptionForm,
    *,
    prompts: Path | None = None,
) -> list[Message]:
    """The conversation so far, the model's answer, and what is wrong with it."""
    # Half a character, which some endpoints send, could not be sent back.
    whole = answer.encode("utf-8", "replace").decode()
    return [
        *messages,
        {"role": "assistant", "content": whole if whole.strip() else _NO_ANSWER},
        {"role": "user", "content": complaint_prompt(form, complaint, prompts)},
    ]


def _picture(jpeg: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(jpeg)}"}}


def _sound(wav: bytes, audio_format: AudioFormat) -> dict[str, Any]:
    if audio_format == "audio_url":
        return {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{_base64(wav)}"}}
    return {"type": "input_audio", "input_audio": {"data": _base64(wav), "format": "wav"}}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
