"""What is to be generated, and which task that is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from manifests.errors import UsageError
from training.objective.tasks import TaskName


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be generated.

    Attributes:
        prompt: what is seen and heard, in the words of the captions trained on.
        image: an image that the clip begins with.
        video: a video that audio is made for, or that is extended or filled in.
        audio: an audio file that video is made for.
        task: None for the one that follows from what is given.
        aspect: columns and rows in any unit; None for that of the image or the video, else the
            run's most common shape.
        seed: of the noise.
        negative: what is not wanted, seen or heard; None for the recipe's negative prompts.
    """

    prompt: str
    image: Path | None = None
    video: Path | None = None
    audio: Path | None = None
    task: TaskName | None = None
    aspect: tuple[int, int] | None = None
    seed: int = 0
    negative: str | None = None


_NEEDS: dict[TaskName, frozenset[str]] = {
    "i2av": frozenset({"image"}),
    "i2v": frozenset({"image"}),
    "a2v": frozenset({"audio"}),
    "v2a": frozenset({"video"}),
    "extend": frozenset({"video"}),
    "interpolate": frozenset({"video"}),
}
_BY_GIVEN: dict[frozenset[str], TaskName] = {
    frozenset(): "t2av",
    frozenset({"image"}): "i2av",
    frozenset({"video"}): "v2a",
    frozenset({"audio"}): "a2v",
}


def task_of(request: Request) -> TaskName:
    """The task that was asked for, or that follows from what is given.

    Raises:
        UsageError: `task_needs`.
    """
    given = frozenset(
        name for name in ("image", "video", "audio") if getattr(request, name) is not None
    )
    name = request.task or _BY_GIVEN.get(given)
    if name is None:
        raise UsageError(
            "task_needs",
            "No task is given all of these at once.",
            subject=" ".join(f"--{one}" for one in sorted(given)),
            remedy="Give one of them.",
        )
    needs = _NEEDS.get(name, frozenset())
    if given != needs:
        wanted = f"needs --{' and --'.join(sorted(needs))}" if needs else "is given nothing"
        raise UsageError(
            "task_needs",
            f"This task {wanted}.",
            subject=f"--task {name}",
            remedy="Leave --task out to have it chosen by what is given.",
        )
    return name
