"""From a trained run and a prompt to a clip with picture and sound."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests.errors import MediaError, UsageError
from training.checkpoint import latest_checkpoint, load_weights, missing_checkpoint
from training.codecs import AudioCodec, VideoCodec
from training.data.geometry import Geometry
from training.data.media import read_picture, read_sound_file, read_video_file, write_clip
from training.data.order import Shape
from training.models.generator import Generator, build_codecs, build_generator
from training.models.ovi.model import TIMESTEPS
from training.objective.flow import integrate, sigma_grid
from training.objective.keys import generator as keyed
from training.objective.loss import MODALITIES, given_latents, given_tokens
from training.objective.tasks import TASKS, Task, TaskName
from training.recipe import Recipe, SamplingSettings
from training.run import read_dataset, read_recipe


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be generated.

    Attributes:
        prompt: what is seen and heard, in the words of the captions trained on.
        image: a picture that the clip begins with.
        video: a video that sound is made for, or that is extended or filled in.
        audio: a sound file that pictures are made for.
        task: None for the one that follows from what is given.
        aspect: columns and rows in any unit; None for that of the image or the video, else the
            run's most common shape.
        seed: of the noise.
    """

    prompt: str
    image: Path | None = None
    video: Path | None = None
    audio: Path | None = None
    task: TaskName | None = None
    aspect: tuple[int, int] | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Clip:
    """What came out: uint8 RGB [frames, rows, columns, 3] and float32 [samples], if asked for."""

    pictures: np.ndarray | None
    sound: np.ndarray | None
    fps: float
    rate_hz: int


class Sampler:
    """A run's newest checkpoint, ready to generate.

    Args:
        run: the run's folder.
        sampling: how; as the recipe says if not given.

    Raises:
        UsageError: `not_a_run`, `no_checkpoint` or `part_unavailable`.
        StorageError: `checkpoint_unreadable`.
    """

    def __init__(self, run: Path, sampling: SamplingSettings | None = None) -> None:
        self.recipe: Recipe = read_recipe(run)
        self.sampling = sampling or self.recipe.sampling
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        checkpoint = latest_checkpoint(run)
        if checkpoint is None:
            raise missing_checkpoint(run)
        self.generator: Generator = build_generator(self.recipe)
        load_weights(checkpoint, self.generator)
        self.generator.to(self.device).eval()
        video_codec, audio_codec = build_codecs(self.recipe)
        self.video_codec: VideoCodec = video_codec.to(self.device).eval()
        self.audio_codec: AudioCodec = audio_codec.to(self.device).eval()
        self._shapes = Counter(
            (sample.width, sample.height) for sample in read_dataset(run).train if sample.frames
        )

    @torch.no_grad()
    def generate(self, request: Request, on_step: Callable[[int], None] | None = None) -> Clip:
        """Generate a clip as long as those trained on.

        Raises:
            UsageError: `task_needs`: the task needs an image or a sound that is not given.
            MediaError: `image_unreadable` or `sound_unreadable`.
        """
        task = TASKS[_task_of(request)]
        shape = Geometry(self.recipe).clip(*self._aspect(request))
        video, audio = self._given(request, shape, task)
        latents = self._sample(request, task, video, audio, on_step)
        if task.video is not None:
            video, *latents = latents
        if task.audio is not None:
            audio = latents[0]
        return Clip(
            None if task.video is None or video is None else self._pictures(video),
            None if task.audio is None or audio is None else self._sound(audio, shape, request),
            self.recipe.video.fps,
            self.audio_codec.rate_hz,
        )

    def _aspect(self, request: Request) -> tuple[int, int]:
        if request.aspect is not None:
            return request.aspect
        seen = request.image or request.video
        if seen is not None:
            rows, columns = read_picture(seen).shape[:2]
            return columns, rows
        return self._shapes.most_common(1)[0][0] if self._shapes else (16, 9)

    def _given(
        self, request: Request, shape: Shape, task: Task
    ) -> tuple[Tensor | None, Tensor | None]:
        """Clean latents [1, ...] of both modalities, zeros where nothing is given."""
        geometry = Geometry(self.recipe)
        video = audio = None
        if task.video is not None:
            video = torch.zeros(1, *geometry.video_latent(shape), device=self.device)
            if request.image is not None:
                picture = read_picture(request.image, width=shape.width, height=shape.height)
                pixels = torch.from_numpy(picture.copy()).to(self.device).float() / 127.5 - 1
                video[:, :, :1] = self.video_codec.encode(pixels.permute(2, 0, 1)[None, :, None])
            if request.video is not None:
                pictures = read_video_file(
                    request.video,
                    frames=shape.frames,
                    fps=self.recipe.video.fps,
                    width=shape.width,
                    height=shape.height,
                )
                video = self.video_codec.encode(pictures.to(self.device)[None])
        if task.audio is not None:
            audio = torch.zeros(1, *geometry.audio_latent(shape), device=self.device)
            if request.audio is not None:
                sound = self._given_sound(request.audio, shape)
                audio = self.audio_codec.encode(sound.to(self.device)[None])
        return video, audio

    def _given_sound(self, path: Path, shape: Shape) -> Tensor:
        sound = read_sound_file(path, rate_hz=self.audio_codec.rate_hz)[: shape.audio_samples]
        return torch.nn.functional.pad(sound, (0, shape.audio_samples - len(sound)))

    def _sample(
        self,
        request: Request,
        task: Task,
        video: Tensor | None,
        audio: Tensor | None,
        on_step: Callable[[int], None] | None,
    ) -> list[Tensor]:
        """Integrate from noise; given latents stay as they are."""
        clean, masks, noises = [], [], []
        given: dict[str, Tensor | None] = {}
        parts = (task.video, video), (task.audio, audio)
        for side, (part, data) in zip(MODALITIES, parts, strict=True):
            if part is None or data is None:
                continue
            clean.append(data)
            masks.append(given_latents(part, data, side))
            noise = torch.randn(data.shape, generator=keyed("sample", side, request.seed))
            noises.append(noise.to(self.device))
            given[f"{side}_given"] = given_tokens(part, data, side, self.generator)
        start = tuple(
            torch.where(mask, data, noise)
            for mask, data, noise in zip(masks, clean, noises, strict=True)
        )

        def velocity_of(latents: tuple[Tensor, ...], sigma: float) -> tuple[Tensor, ...]:
            velocities = self._guided(latents, sigma, request.prompt, task, given)
            return tuple(
                velocity.masked_fill(mask, 0.0)
                for velocity, mask in zip(velocities, masks, strict=True)
            )

        sigmas = sigma_grid(self.sampling.steps, self.sampling.shift)
        return list(integrate(start, velocity_of, sigmas, on_step))

    def _guided(
        self,
        latents: tuple[Tensor, ...],
        sigma: float,
        prompt: str,
        task: Task,
        given: dict[str, Tensor | None],
    ) -> list[Tensor]:
        """Velocities with classifier-free guidance, each modality with its own strength."""
        rest = list(latents)
        video = rest.pop(0) if task.video is not None else None
        audio = rest.pop(0) if task.audio is not None else None
        timestep = torch.full((1,), TIMESTEPS * sigma, device=self.device)
        settings = self.sampling
        wanted = self.generator(video, audio, timestep, [prompt], **given)
        strengths = (settings.video_guidance, settings.audio_guidance)
        if strengths == (1.0, 1.0):
            return [velocity for velocity in wanted if velocity is not None]
        unwanted = self.generator(
            video,
            audio,
            timestep,
            [settings.video_negative],
            audio_prompts=[settings.audio_negative],
            skip_blocks=() if settings.skip_block is None else (settings.skip_block,),
            **given,
        )
        return [
            against + strength * (velocity - against)
            for velocity, against, strength in zip(wanted, unwanted, strengths, strict=True)
            if velocity is not None
        ]

    def _pictures(self, latent: Tensor) -> np.ndarray:
        pixels = self.video_codec.decode(latent)[0].permute(1, 2, 3, 0)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()

    def _sound(self, latent: Tensor, shape: Shape, request: Request) -> np.ndarray:
        if request.audio is not None:
            return self._given_sound(request.audio, shape).numpy()
        sound = self.audio_codec.decode(latent)[0].cpu().numpy()[: shape.audio_samples]
        return np.pad(sound, (0, shape.audio_samples - len(sound)))


def write_generated(clip: Clip, out: Path, *, scale: int = 1) -> None:
    """Write a clip as an mp4.

    Args:
        clip: from `Sampler.generate`.
        out: the file.
        scale: columns and rows written for each generated one, to see small models' pictures.

    Raises:
        UsageError: `not_an_mp4`.
        MediaError: `not_written`.
    """
    check_suffix(out)
    pictures = clip.pictures
    if pictures is not None and scale > 1:
        pictures = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    try:
        write_clip(out, pictures, clip.sound, fps=clip.fps, rate_hz=clip.rate_hz)
    except OSError as error:
        raise MediaError(
            "not_written", f"The clip cannot be written ({error}).", subject=str(out)
        ) from error


def check_suffix(out: Path) -> None:
    """See that a file is to be an mp4, before the time to make it is spent.

    Raises:
        UsageError: `not_an_mp4`.
    """
    if out.suffix.lower() != ".mp4":
        raise UsageError(
            "not_an_mp4",
            "Clips are written as mp4.",
            subject=str(out),
            remedy="Give it a name that ends in .mp4.",
        )


def _task_of(request: Request) -> TaskName:
    """The task that was asked for, or that follows from what is given.

    Raises:
        UsageError: `task_needs`.
    """
    has = {name for name in ("image", "video", "audio") if getattr(request, name) is not None}
    by_given: dict[frozenset[str], TaskName] = {
        frozenset(): "t2av",
        frozenset({"image"}): "i2av",
        frozenset({"video"}): "v2a",
        frozenset({"audio"}): "a2v",
    }
    name = request.task or by_given.get(frozenset(has))
    if name is None:
        raise UsageError(
            "task_needs",
            "No task is given all of these at once.",
            subject=" ".join(f"--{one}" for one in sorted(has)),
            remedy="Give one of them.",
        )
    needs = _NEEDS.get(name, set())
    if has != needs:
        wanted = f"needs --{' and --'.join(sorted(needs))}" if needs else "is given nothing"
        raise UsageError(
            "task_needs",
            f"This task {wanted}.",
            subject=f"--task {name}",
            remedy="Leave --task out to have it chosen by what is given.",
        )
    return name


_NEEDS: dict[TaskName, set[str]] = {
    "i2av": {"image"},
    "i2v": {"image"},
    "a2v": {"audio"},
    "v2a": {"video"},
    "extend": {"video"},
    "interpolate": {"video"},
}
