"""Tasks: what is given and what is generated, in one algebra.

A given token is clean, has timestep 0 and no loss. A modality that is absent is neither seen nor
generated: its tower does not run.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, Modality] = ("video", "audio")
TaskName = Literal["t2av", "i2av", "t2v", "i2v", "t2a", "a2v", "v2a", "extend", "interpolate"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A modality's part in a task: how many of its latent frames are given.

    Attributes:
        first: given latent frames at the start.
        last: given latent frames at the end.
        whole: all are given; nothing is generated.
    """

    first: int = 0
    last: int = 0
    whole: bool = False

    def given(self, frames: int) -> Tensor:
        """Which latent frames are given, bool [frames]."""
        index = torch.arange(frames)
        return (index < self.first) | (index >= frames - self.last) | torch.tensor(self.whole)

    @property
    def gives(self) -> bool:
        """Whether anything is given at all."""
        return self.whole or self.first > 0 or self.last > 0


@dataclasses.dataclass(frozen=True)
class Task:
    """Both modalities' parts; None where one is absent."""

    name: TaskName
    video: Part | None
    audio: Part | None

    def generated(self, modality: Modality, frames: int) -> int:
        """How many latent frames of a modality are generated, of `frames`."""
        part: Part | None = getattr(self, modality)
        return 0 if part is None else int((~part.given(frames)).sum())


_GENERATED = Part()
_GIVEN = Part(whole=True)

TASKS: dict[TaskName, Task] = {
    task.name: task
    for task in (
        Task("t2av", _GENERATED, _GENERATED),
        Task("i2av", Part(first=1), _GENERATED),
        Task("t2v", _GENERATED, None),
        Task("i2v", Part(first=1), None),
        Task("t2a", None, _GENERATED),
        Task("a2v", _GENERATED, _GIVEN),
        Task("v2a", _GIVEN, _GENERATED),
        # The audio of a continued or filled-in clip is made with its frames.
        Task("extend", Part(first=4), _GENERATED),
        Task("interpolate", Part(first=1, last=1), _GENERATED),
    )
}
assert set(TASKS) == set(get_args(TaskName))
