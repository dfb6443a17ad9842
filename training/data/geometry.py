"""What a recipe makes of a sample: its shape in pixels, in latents and in tokens."""

from __future__ import annotations

import dataclasses
import math

from training.codecs.codec import latent_frames
from training.codecs.log_mel import latent_length
from training.data.media import fit_size
from training.data.order import Shape
from training.data.samples import KeptSample
from training.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes that follow from a recipe."""

    recipe: Recipe

    def shape_of(self, sample: KeptSample) -> Shape:
        """The shape that a sample is brought to; a part that the recipe cannot use counts as 0."""
        video = self.recipe.video
        frames = height = width = 0
        if sample.frames and abs(sample.fps - video.fps) < 1e-3:
            groups = (min(sample.frames, video.frames) - 1) // video.codec.stride[0]
            frames = 1 + groups * video.codec.stride[0]
            width, height = self.picture_size(sample.width, sample.height)
        return Shape(frames, height, width, self._audio_samples(sample))

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows that pictures of this aspect are brought to."""
        video, patch = self.recipe.video, self.recipe.model.patch
        multiple = math.lcm(video.codec.stride[1] * patch[1], video.codec.stride[2] * patch[2])
        return fit_size(width, height, area_px=video.area_px, multiple=multiple)

    def clip(self, width: int, height: int) -> Shape:
        """The shape of a generated clip of this aspect, with as many frames as the recipe has."""
        video = self.recipe.video
        frames = 1 + (video.frames - 1) // video.codec.stride[0] * video.codec.stride[0]
        columns, rows = self.picture_size(width, height)
        return Shape(frames, rows, columns, self._samples_of(video.frames))

    def video_latent(self, shape: Shape) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of the video latent."""
        codec = self.recipe.video.codec
        frames = latent_frames(shape.frames, codec.stride[0]) if shape.frames else 0
        rows, columns = shape.height // codec.stride[1], shape.width // codec.stride[2]
        return codec.channels, frames, rows, columns

    def audio_latent(self, shape: Shape) -> tuple[int, int]:
        """Length and channels of the audio latent."""
        codec = self.recipe.audio.codec
        return latent_length(shape.audio_samples, codec.stride), codec.channels

    def video_tokens(self, shape: Shape) -> int:
        """Tokens of the video tower."""
        _, frames, rows, columns = self.video_latent(shape)
        f, h, w = self.recipe.model.patch
        return (frames // f) * (rows // h) * (columns // w)

    def audio_tokens(self, shape: Shape) -> int:
        """Tokens of the audio tower."""
        return self.audio_latent(shape)[0]

    def rope_scale(self) -> float:
        """Factor of the sound's rotary frequencies: 31 / 157.55 = 0.19676 for Ovi."""
        scale = self.recipe.model.rope_scale
        if scale != "auto":
            return scale
        video, audio = self.recipe.video, self.recipe.audio.codec
        tokens = video.frames / video.fps * audio.rate_hz / audio.stride
        return latent_frames(video.frames, video.codec.stride[0]) / tokens

    def _audio_samples(self, sample: KeptSample) -> int:
        """Samples of sound that are used: none at another rate, no more than the pictures last."""
        codec = self.recipe.audio.codec
        if not sample.audio_samples or sample.audio_rate_hz != codec.rate_hz:
            return 0
        samples = sample.audio_samples
        if sample.frames:
            frames = min(sample.frames, self.recipe.video.frames)
            samples = min(samples, self._samples_of(frames))
        return samples if latent_length(samples, codec.stride) else 0

    def _samples_of(self, frames: int) -> int:
        seconds = frames / self.recipe.video.fps
        return math.ceil(seconds * self.recipe.audio.codec.rate_hz - 1e-6)
