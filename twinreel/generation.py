"""Clips from a trained run."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from twinreel._names import claim

claim()

from curation.cli.training import named_task, require_training  # noqa: E402

require_training()

from manifests.settings import validate  # noqa: E402
from training.generate.clip import Clip, check_out, write_clip  # noqa: E402
from training.generate.request import Request  # noqa: E402
from training.generate.sampler import Sampler  # noqa: E402
from training.run import read_recipe  # noqa: E402

File = str | PathLike[str]


def generate(
    run: File,
    prompt: str,
    *,
    negative: str | None = None,
    out: File | None = None,
    image: File | None = None,
    video: File | None = None,
    audio: File | None = None,
    task: str | None = None,
    aspect: tuple[int, int] | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    scale: int = 1,
) -> Clip:
    """A clip from a run's newest checkpoint, as long as those that it was trained on.

    Args:
        run: the folder that `twinreel train` wrote.
        prompt: what is seen and heard, in the words of the captions trained on.
        negative: what is not wanted, seen or heard; the recipe's negative prompts if not given.
        out: an mp4 to write the clip to, in a folder that exists; none is written if not given.
        image: an image that the clip begins with.
        video: a video that audio is made for, or that is extended or filled in.
        audio: an audio file that video is made for.
        task: another task than what is given suggests: `t2v`, `t2a`, `i2v`, `extend`, ...
        aspect: columns and rows in any unit; that of the image or the video, or the run's most
            common one, if not given.
        seed: of the noise.
        steps: of the sampler; as the recipe says if not given.
        guidance: of both modalities, 1 is none; as the recipe says if not given.
        scale: columns and rows written to `out` for each generated one.

    Returns:
        `frames` uint8 RGB [frames, rows, columns, 3] at `fps`, and `audio` float32 [samples] at
        `rate_hz`; None what the task does not make.

    Raises:
        UsageError: `not_a_run`, `no_checkpoint`, `unknown_task`, `task_needs`, `not_an_mp4`,
            `folder_missing` or `bad_setting`.
        MediaError: a given file cannot be read, or `out` not written (`not_written`).
    """
    changed: dict[str, float | int] = {}
    if steps is not None:
        changed["steps"] = steps
    if guidance is not None:
        changed |= {"video_guidance": guidance, "audio_guidance": guidance}
    folder = Path(run)
    sampling = read_recipe(folder).sampling
    sampling = validate(type(sampling), {**sampling.model_dump(), **changed})
    if out is not None:
        check_out(Path(out))
    request = Request(
        prompt,
        image=_path(image),
        video=_path(video),
        audio=_path(audio),
        task=named_task(task),
        aspect=aspect,
        seed=seed,
        negative=negative,
    )
    clip = Sampler(folder, sampling).generate(request)
    if out is not None:
        write_clip(clip, Path(out), scale=scale)
    return clip


def _path(file: File | None) -> Path | None:
    return None if file is None else Path(file)
