"""A run's newest checkpoint as a sampler: from a request to a clip with video and audio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests.fingerprint import fingerprint
from training.checkpoint import latest_checkpoint, load_weights, missing_checkpoint, read_record
from training.codecs.codec import AudioCodec, VideoCodec
from training.codecs.fit import load_fit
from training.data.encoders import Encoders
from training.data.geometry import geometry_of
from training.data.order import Shape
from training.data.sample_table import most_common_size
from training.generate.clip import Clip
from training.generate.given import displayed_size, read_audio, read_image, read_video
from training.generate.guidance import guided
from training.generate.request import Request, task_of
from training.generate.solver import SOLVERS, Latents
from training.models.generator import Generator, build_generator
from training.objective.flow import sigma_grid
from training.objective.keys import generator as keyed
from training.objective.loss import given_latents, given_tokens
from training.objective.tasks import MODALITIES, TASKS, Modality, Task
from training.recipe import SamplingSettings
from training.run import read_dataset, read_recipe
from training.text.encoder import TextEncoder


class Sampler:
    """A run's newest checkpoint, ready to generate.

    Args:
        run: the run's folder.
        sampling: how; as the recipe says if not given.

    Attributes:
        fingerprint: of the checkpoint and of how it is sampled.

    Raises:
        UsageError: `not_a_run`, `no_checkpoint`, `missing_package`, `missing_weights` or
            `bad_weights`.
        StorageError: `checkpoint_unreadable` or `codecs_unreadable`.
    """

    def __init__(self, run: Path, sampling: SamplingSettings | None = None) -> None:
        recipe = read_recipe(run)
        self.sampling = sampling or recipe.sampling
        self.geometry = geometry_of(recipe)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        checkpoint = latest_checkpoint(run)
        if checkpoint is None:
            raise missing_checkpoint(run)
        self.fingerprint = fingerprint(
            [read_record(checkpoint).to_json(), self.sampling.model_dump(mode="json")]
        )
        self.generator: Generator = build_generator(recipe)
        load_weights(checkpoint, self.generator)
        self.generator.to(self.device).eval()
        self.text_encoder: TextEncoder = (
            self.generator.text_encoder or recipe.text.build().to(self.device).eval()
        )
        encoders = load_fit(Encoders.of(recipe, self.device), run)
        self.video_codec: VideoCodec = encoders.video_codec
        self.audio_codec: AudioCodec = encoders.audio_codec
        self._trained_aspect = most_common_size(read_dataset(run).train)

    @torch.no_grad()
    def generate(self, request: Request, on_step: Callable[[int], None] | None = None) -> Clip:
        """Generate a clip as long as those trained on.

        Raises:
            UsageError: `task_needs`: the task needs an image, a video or audio that is not given.
            MediaError: `image_unreadable`, `video_unreadable` or `sound_unreadable`.
        """
        task = TASKS[task_of(request)]
        shape = self.geometry.clip(*self._aspect(request))
        video, audio = self._given(request, shape, task)
        latents = self._sample(request, task, video, audio, on_step)
        if task.video is not None:
            video, *latents = latents
        if task.audio is not None:
            audio = latents[0]
        return Clip(
            None if task.video is None or video is None else self._frames(video),
            None if task.audio is None or audio is None else self._audio(audio, shape, request),
            self.geometry.video.fps,
            self.audio_codec.rate_hz,
        )

    def _aspect(self, request: Request) -> tuple[int, int]:
        if request.aspect is not None:
            return request.aspect
        seen = request.image or request.video
        if seen is not None:
            return displayed_size(seen)
        return self._trained_aspect or (16, 9)

    def _given(
        self, request: Request, shape: Shape, task: Task
    ) -> tuple[Tensor | None, Tensor | None]:
        """Clean latents [1, ...] of both modalities, zeros where nothing is given."""
        video = audio = None
        size = {"width": shape.width, "height": shape.height}
        if task.video is not None:
            video = torch.zeros(1, *self.geometry.video_latent(shape), device=self.device)
            if request.image is not None:
                image = read_image(request.image, **size)
                video[:, :, :1] = self.video_codec.encode(image.to(self.device)[None])
            if request.video is not None:
                fps = self.geometry.video.fps
                frames = read_video(request.video, frames=shape.frames, fps=fps, **size)
                video = self.video_codec.encode(frames.to(self.device)[None])
        if task.audio is not None:
            audio = torch.zeros(1, *self.geometry.audio_latent(shape), device=self.device)
            if request.audio is not None:
                waveform = self._given_audio(request.audio, shape)
                audio = self.audio_codec.encode(waveform.to(self.device)[None])
        return video, audio

    def _given_audio(self, path: Path, shape: Shape) -> Tensor:
        return read_audio(path, samples=shape.audio_samples, rate_hz=self.audio_codec.rate_hz)

    def _sample(
        self,
        request: Request,
        task: Task,
        video: Tensor | None,
        audio: Tensor | None,
        on_step: Callable[[int], None] | None,
    ) -> list[Tensor]:
        """Integrate from noise; given latents stay as they are."""
        sides: list[Modality] = []
        clean, masks, noises = [], [], []
        given: dict[str, Tensor | None] = {}
        parts = (task.video, video), (task.audio, audio)
        for side, (part, data) in zip(MODALITIES, parts, strict=True):
            if part is None or data is None:
                continue
            sides.append(side)
            clean.append(data)
            masks.append(given_latents(part, data, side))
            noise = torch.randn(data.shape, generator=keyed("sample", side, request.seed))
            noises.append(noise.to(self.device))
            given[f"{side}_given"] = given_tokens(part, data, side, self.generator.patch)
        start = tuple(
            torch.where(mask, data, noise)
            for mask, data, noise in zip(masks, clean, noises, strict=True)
        )

        settings = self.sampling
        if request.negative is not None:
            negatives = {"video_negative": request.negative, "audio_negative": request.negative}
            settings = settings.model_copy(update=negatives)
        guided_velocity = guided(
            self.generator, self.text_encoder, settings, request.prompt, tuple(sides), given
        )

        def velocity_of(latents: Latents, sigma: float) -> Latents:
            """Nothing moves what is given."""
            return tuple(
                velocity.masked_fill(mask, 0.0)
                for velocity, mask in zip(guided_velocity(latents, sigma), masks, strict=True)
            )

        found = SOLVERS[settings.solver](
            start,
            velocity_of,
            sigma_grid(settings.steps, settings.shift),
            None if on_step is None else lambda done, _: on_step(done),
        )
        # As given, whatever the solver's sums round to.
        return [
            torch.where(mask, data, latent)
            for mask, data, latent in zip(masks, clean, found, strict=True)
        ]

    def _frames(self, latent: Tensor) -> np.ndarray:
        pixels = self.video_codec.decode(latent)[0].permute(1, 2, 3, 0)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()

    def _audio(self, latent: Tensor, shape: Shape, request: Request) -> np.ndarray:
        if request.audio is not None:
            return self._given_audio(request.audio, shape).numpy()
        waveform = self.audio_codec.decode(latent)[0].cpu().numpy()[: shape.audio_samples]
        return np.pad(waveform, (0, shape.audio_samples - len(waveform)))
