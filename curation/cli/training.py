"""The commands that train and generate: `train`, `generate`, `export` and `plan train`."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from curation.cli.options import AsJson
from manifests.errors import TwinreelError, UsageError, one_line

if TYPE_CHECKING:
    from training.data.snapshot import Snapshot
    from training.generate.request import Request
    from training.objective.tasks import TaskName
    from training.recipe import SamplingSettings

Recipe = Annotated[
    str,
    typer.Argument(
        help="A recipe's name (`tiny`, `ovi-fusion`, ...) or a YAML file. See docs/training.md."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. `optimizer.eps=1e-7`."),
]
Run = Annotated[Path, typer.Argument(help="What `twinreel train` wrote.")]


def train(
    recipe: Recipe,
    data: Annotated[str, typer.Option(help="What `twinreel curate` wrote: a folder or `s3://`.")],
    run: Annotated[Path, typer.Option(help="Folder of the run: log and checkpoints.")],
    set_: Assignments = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --run.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Resume although recipe, code or kept samples have changed."
        ),
    ] = False,
    ranks: Annotated[
        int, typer.Option(min=1, help="Processes of this machine; with GPUs, one for each.")
    ] = 1,
) -> None:
    """Train a joint audio-video generator on the kept samples of a curation job.

    On several machines, start this command with `torchrun` on each of them.
    """
    require_training()
    from training.launch import launch  # noqa: PLC0415 - keeps `--help` quick
    from training.recipe import load_recipe  # noqa: PLC0415
    from training.train import TrainingRun  # noqa: PLC0415

    training_run = TrainingRun(
        load_recipe(recipe, set_ or []),
        run.expanduser().absolute(),
        functools.partial(read_snapshot, data),
        resume=resume,
        accept_changes=accept_changes,
    )
    try:
        launch(training_run, ranks)
    except KeyboardInterrupt:
        raise TwinreelError(
            "stopped",
            "Training was stopped.",
            subject=str(run),
            remedy="Go on from the newest checkpoint by the same command with `--resume`.",
        ) from None
    typer.echo(f"trained: {run} (try: twinreel generate {run} --prompt TEXT --out clip.mp4)")


def read_snapshot(data: str, file: Path | None = None, *, to_train: bool = True) -> Snapshot:
    """The samples that are kept now; a function of its own so that ranks can be sent it."""
    from curation.cli.opening import open_output  # noqa: PLC0415
    from training.data.snapshot import take_snapshot  # noqa: PLC0415

    with open_output(data) as connection:
        return take_snapshot(connection, data, to_train=to_train, file=file)


def generate(
    run: Run,
    out: Annotated[
        Path, typer.Option(help="The mp4 to write; with --prompts, the folder for the clips.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="In the words of the captions trained on.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file of prompts: .txt, or .jsonl or .csv with `prompt` and, where wanted,"
            " `negative`, `image`, `video`, `audio`, `task`, `size`, `seed`."
        ),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What is not wanted, in the place of the recipe's.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="An image that the clip begins with.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video to make audio for.")] = None,
    audio: Annotated[Path | None, typer.Option(help="An audio file to make video for.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Another task than what is given suggests: t2v, t2a, i2v, extend, ..."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="The aspect to generate, e.g. 16x9.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the sampler.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="For both modalities; 1 is none.")
    ] = None,
    scale: Annotated[int, typer.Option(min=1, help="Pixels written for each generated one.")] = 1,
) -> None:
    """Generate a clip with video and audio from a run's newest checkpoint, or many."""
    require_training()
    from training.generate.request import Request  # noqa: PLC0415

    if (prompt is None) == (prompts is None):
        raise UsageError(
            "prompt_missing",
            "Either one prompt or a file of prompts is needed.",
            subject="--prompt",
            remedy="Give --prompt TEXT, or --prompts FILE.",
        )
    if prompt is not None:
        request = Request(
            prompt, image=image, video=video, audio=audio, task=named_task(task),
            aspect=_aspect(size), seed=seed, negative=negative,
        )  # fmt: skip
        _generate_one(run, request, out, _sampling(run, steps, guidance), scale)
        return
    lines_say = {
        "--negative": negative, "--image": image, "--video": video, "--audio": audio,
        "--task": task, "--size": size,
    }  # fmt: skip
    for option, value in lines_say.items():
        if value is not None:
            raise UsageError(
                "prompts_say",
                "With a file of prompts each line says this for itself.",
                subject=option,
                remedy=f"Put a column '{option.removeprefix('--')}' into a .jsonl or .csv.",
            )
    assert prompts is not None
    _generate_file(run, prompts, out, _sampling(run, steps, guidance), scale, seed)


def _sampling(run: Path, steps: int | None, guidance: float | None) -> SamplingSettings:
    """The run's way of sampling, with what was asked for over it."""
    from training.run import read_recipe  # noqa: PLC0415

    changed: dict[str, float | int] = {}
    if steps is not None:
        changed["steps"] = steps
    if guidance is not None:
        changed |= {"video_guidance": guidance, "audio_guidance": guidance}
    return read_recipe(run).sampling.model_copy(update=changed)


def _generate_one(
    run: Path, request: Request, out: Path, sampling: SamplingSettings, scale: int
) -> None:
    from training.generate.clip import check_out, write_clip  # noqa: PLC0415
    from training.generate.sampler import Sampler  # noqa: PLC0415

    check_out(out)
    sampler = Sampler(run, sampling)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sampling", total=sampling.steps)
        clip = sampler.generate(request, lambda done: progress.update(bar, completed=done))
    write_clip(clip, out, scale=scale)
    video_text = "no video"
    if clip.frames is not None:
        frames, rows, columns = clip.frames.shape[:3]
        video_text = f"{frames} frames of {scale * columns} x {scale * rows}"
    seconds = 0 if clip.audio is None else len(clip.audio) / clip.rate_hz
    typer.echo(f"{out}: {video_text}, {seconds:.2f} s of audio")


def _generate_file(
    run: Path, prompts: Path, out: Path, sampling: SamplingSettings, scale: int, seed: int
) -> None:
    from training.generate.batch import INDEX, generate_batch  # noqa: PLC0415
    from training.generate.prompts import read_prompts  # noqa: PLC0415
    from training.generate.sampler import Sampler  # noqa: PLC0415

    lines = read_prompts(prompts, seed=seed)
    sampler = Sampler(run, sampling)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        all_lines = progress.add_task("prompts", total=len(lines))
        clip = progress.add_task("sampling", total=sampling.steps)
        batch = generate_batch(
            sampler,
            lines,
            out,
            scale=scale,
            on_line=lambda done: progress.update(all_lines, completed=done),
            on_step=lambda done: progress.update(clip, completed=done),
        )
    for error in batch.failed:
        typer.echo(one_line(str(error)), err=True)
    there = f", {len(batch.found)} were there" if batch.found else ""
    typer.echo(f"{out}: {len(batch.generated)} clips generated{there}")
    if batch.failed:
        raise TwinreelError(
            "prompts_failed",
            f"{len(batch.failed)} of {len(lines)} prompts gave no clip; {INDEX} says why.",
            subject=str(prompts),
            remedy="Mend these lines and give the same command: only what is missing is made.",
        )


def export(
    run: Run,
    to: Annotated[
        Path, typer.Option(help="The safetensors file to write; with --adapter, a folder.")
    ],
    layout: Annotated[
        str | None,
        typer.Option(help="Whose names: the family's own, or for `ovi` `wan` or `wan-diffusers`."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the numbers written.")
    ] = "float32",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The run's LoRA alone, as peft reads it.")
    ] = False,
) -> None:
    """Write the weights of a run's newest checkpoint as released files have them."""
    require_training()
    import torch  # noqa: PLC0415 - keeps `--help` quick

    from training.export import export_adapter, export_model  # noqa: PLC0415

    if adapter:
        count = export_adapter(run, to)
    else:
        count = export_model(run, to, layout=layout, dtype=getattr(torch, dtype))
    typer.echo(f"{to}: {count} tensors")


def plan_train(
    recipe: Recipe,
    set_: Assignments = None,
    ranks: Annotated[int, typer.Option(min=1, help="Accelerators.")] = 8,
    peak_tflops: Annotated[
        float, typer.Option(min=0.001, help="Of one; 989 is an H100 or H200 in bf16.")
    ] = 989.0,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak that is reached.")
    ] = 0.4,
    size: Annotated[str, typer.Option(metavar="WxH", help="Aspect of the video.")] = "1x1",
    as_json: AsJson = False,
) -> None:
    """Parameters, tokens, operations, memory and hours of a recipe. Allocates nothing."""
    require_training()
    from training.plan import plan_training  # noqa: PLC0415
    from training.recipe import load_recipe  # noqa: PLC0415

    plan = plan_training(
        load_recipe(recipe, set_ or []),
        ranks=ranks,
        peak_tflops=peak_tflops,
        utilisation=utilisation,
        aspect=_aspect(size) or (1, 1),
    )
    values = dataclasses.asdict(plan)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    table = Table("what", "how much", box=None)
    for name, value in values.items():
        text = f"{value:,.4g}" if isinstance(value, float) and value < 1000 else f"{value}"
        if isinstance(value, int) or (isinstance(value, float) and value >= 1000):
            text = f"{value:,.0f}"
        table.add_row(name.replace("_", " "), text)
    Console().print(table)


def named_task(name: str | None) -> TaskName | None:
    """The task of a name.

    Raises:
        UsageError: `unknown_task`.
    """
    from training.objective.tasks import TASKS  # noqa: PLC0415

    if name is None:
        return None
    for known in TASKS:
        if known == name:
            return known
    raise UsageError(
        "unknown_task",
        "There is no such task.",
        subject=f"--task {name}",
        remedy=f"Tasks are {', '.join(sorted(TASKS))}.",
    )


def _aspect(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    width, cross, height = size.partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UsageError(
            "bad_size",
            "A size is columns x rows, such as 16x9.",
            subject=f"--size {size}",
        )
    return int(width), int(height)


def require_training() -> None:
    """Make sure that what training and generating need is installed.

    Raises:
        UsageError: `training_not_installed`.
    """
    missing = [name for name in ("torch", "librosa") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            "training_not_installed",
            f"Training needs {' and '.join(missing)}, which the core install leaves out.",
            subject="twinreel[train]",
            remedy="pip install 'twinreel[train]' (without a GPU, take torch's CPU build first:"
            " see README).",
        )
