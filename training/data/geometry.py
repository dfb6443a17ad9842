"""What becomes of a sample: its shape in pixels, in latents and in tokens."""

from __future__ import annotations

import dataclasses
import math

from training.data.order import Shape
from training.data.samples import KeptSample
from training.models.registry import find_family
from training.recipe import AudioSettings, Recipe, VideoSettings


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes that follow from the settings of video and audio and from the model's patches.

    Attributes:
        video: size, rate and codec of the frames.
        audio: codec of the audio.
        patch: video latents a token along time, rows and columns.
    """

    video: VideoSettings
    audio: AudioSettings
    patch: tuple[int, int, int]

    def shape_of(self, sample: KeptSample) -> Shape:
        """The shape that a sample is brought to; a part that cannot be used counts as 0."""
        video = self.video
        frames = height = width = 0
        if sample.frames and abs(sample.fps - video.fps) < 1e-3:
            frames = video.codec.used_frames(min(sample.frames, video.frames))
            width, height = self.frame_size(sample.width, sample.height)
        # Not its own length: waveforms that differ by less than a latent are of one shape.
        latents = self._audio_latents(sample)
        audio_samples = self.audio.codec.longest(latents) if latents else 0
        return Shape(frames, height, width, audio_samples)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows that frames of this aspect are brought to, in whole tokens."""
        _, rows, columns = self.video.codec.stride
        multiples = (columns * self.patch[2], rows * self.patch[1])
        return fit_size(width, height, area_px=self.video.area_px, multiples=multiples)

    def clip(self, width: int, height: int) -> Shape:
        """The shape of a generated clip of this aspect, with as many frames as the recipe has."""
        columns, rows = self.frame_size(width, height)
        frames = self.video.codec.used_frames(self.video.frames)
        return Shape(frames, rows, columns, self._samples_of(self.video.frames))

    def video_latent(self, shape: Shape) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of the video latent."""
        return self.video.codec.latent_shape(shape.frames, shape.height, shape.width)

    def audio_latent(self, shape: Shape) -> tuple[int, int]:
        """Length and channels of the audio latent."""
        codec = self.audio.codec
        return codec.latent_length(shape.audio_samples), codec.channels

    def video_tokens(self, shape: Shape) -> int:
        """Tokens of the video."""
        _, frames, rows, columns = self.video_latent(shape)
        f, h, w = self.patch
        return (frames // f) * (rows // h) * (columns // w)

    def audio_tokens(self, shape: Shape) -> int:
        """Tokens of the audio: one a latent."""
        return self.audio_latent(shape)[0]

    def latent_rate_ratio(self) -> float:
        """Latent frames of a whole clip for each of its audio latents: 31 / 157.55 for Ovi."""
        codec = self.audio.codec
        audio_latents = self.video.frames / self.video.fps * codec.rate_hz / codec.stride
        return self.video.codec.latent_frames(self.video.frames) / audio_latents

    def _audio_latents(self, sample: KeptSample) -> int:
        """Audio latents that are used: none at another rate, no more than the frames last."""
        codec = self.audio.codec
        if not sample.audio_samples or sample.audio_rate_hz != codec.rate_hz:
            return 0
        samples = sample.audio_samples
        if sample.frames:
            frames = min(sample.frames, self.video.frames)
            samples = min(samples, self._samples_of(frames))
        return codec.latent_length(samples)

    def _samples_of(self, frames: int) -> int:
        seconds = frames / self.video.fps
        return math.ceil(seconds * self.audio.codec.rate_hz - 1e-6)


def geometry_of(recipe: Recipe) -> Geometry:
    """The sizes that follow from a recipe."""
    patch = find_family(recipe.model.family).patch(recipe.model)
    return Geometry(recipe.video, recipe.audio, patch)


def fit_size(
    width: int, height: int, *, area_px: int, multiples: tuple[int, int]
) -> tuple[int, int]:
    """Width and height, each a multiple of its own, nearest to an area at a frame's aspect.

    As Ovi's released code rounds them: 720 x 720 becomes 704 x 704 for multiples of 32.
    """
    aspect = width / height
    sides = ((area_px * aspect) ** 0.5, (area_px / aspect) ** 0.5)
    fitted = [
        max(multiple, round(side / multiple) * multiple)
        for side, multiple in zip(sides, multiples, strict=True)
    ]
    return fitted[0], fitted[1]
