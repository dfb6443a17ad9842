"""A recipe's codecs and frozen text encoder, each built when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from training.codecs.codec import AudioCodec, VideoCodec
from training.recipe import Recipe
from training.text.encoder import FrozenTextEncoder, TextEncoder

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Encoders:
    """Frames, waveforms and captions to what a model is given; safe to use from several threads.

    Latents come back on the CPU, wherever they were made.

    Args:
        video: builds the video codec.
        audio: builds the audio codec.
        text: builds the text encoder, if it is a frozen one.
        audio_rate_hz: sample rate of the audio codec.
        device: where they encode.
    """

    def __init__(
        self,
        video: Callable[[], VideoCodec],
        audio: Callable[[], AudioCodec],
        text: Callable[[], TextEncoder] | None = None,
        *,
        audio_rate_hz: int,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.audio_rate_hz = audio_rate_hz
        self._video = _Lazy(video, self.device)
        self._audio = _Lazy(audio, self.device)
        self._text = None if text is None else _Lazy(text, self.device)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> Encoders:
        """Those of a recipe."""
        return cls(
            recipe.video.codec.build,
            recipe.audio.codec.build,
            recipe.text.build if recipe.text.is_frozen else None,
            audio_rate_hz=recipe.audio.codec.rate_hz,
            device=device,
        )

    @property
    def has_text(self) -> bool:
        """Whether captions are encoded here, and not by the model's own encoder."""
        return self._text is not None

    def build(self) -> Encoders:
        """Build what is not built, so that what is missing is said now.

        Raises:
            UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        """
        for lazy in (self._video, self._audio, self._text):
            if lazy is not None:
                lazy.get()
        return self

    @property
    def video_codec(self) -> VideoCodec:
        """The codec itself, on its device."""
        return self._video.get()

    @property
    def audio_codec(self) -> AudioCodec:
        """The codec itself, on its device."""
        return self._audio.get()

    @torch.no_grad()
    def video(self, frames: Tensor) -> Tensor:
        """Latents [B, channels, F, H, W] of frames [B, 3, frames, rows, columns] in [-1, 1]."""
        return self._video.get().encode(frames.to(self.device)).cpu()

    @torch.no_grad()
    def audio(self, waveform: Tensor) -> Tensor:
        """Latents [B, length, channels] of waveforms [B, samples] in [-1, 1]."""
        return self._audio.get().encode(waveform.to(self.device)).cpu()

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> list[Tensor]:
        """Each caption's tokens [tokens, dim], without padding."""
        assert self._text is not None
        encoder = self._text.get()
        assert isinstance(encoder, FrozenTextEncoder)
        return [text.cpu() for text in encoder.encode(captions)]


class _Lazy(Generic[ModuleT]):
    """A module that is built once."""

    def __init__(self, build: Callable[[], ModuleT], device: torch.device) -> None:
        self._build = build
        self._device = device
        self._lock = threading.Lock()
        self._module: ModuleT | None = None

    def get(self) -> ModuleT:
        with self._lock:
            if self._module is None:
                self._module = self._build().to(self._device).eval()
            return self._module
