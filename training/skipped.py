"""Steps that are not taken: on a gradient that is not finite, no rank moves its weights.

A single batch may give one (a broken sample, an overflow in half precision), and a run that
stopped for it would stop at the same step whenever it is resumed. So such a step is left out and
noted; only a row of them, which means that the weights themselves are ruined, ends the run.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor

from manifests.errors import TwinreelError
from training.data.order import GlobalBatch

PATIENCE = 10
"""Steps in a row that may be skipped before the run ends."""
_NAMED = 4


@dataclasses.dataclass(frozen=True)
class SkippedStep:
    """A step that was not taken, and what was to be trained on in it."""

    step: int
    batch: GlobalBatch

    def text(self) -> str:
        """The step, its task and its samples, in one line."""
        names = [sample.sample_id for sample in self.batch.samples]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"step {self.step}, {self.batch.task} of {', '.join(names[:_NAMED])}{more}"


class SkippedSteps:
    """Watches the gradients' norms without making the processor wait for the accelerator.

    Args:
        run: the run's folder, which an error names.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._unread: list[tuple[SkippedStep, Tensor]] = []
        self._row: list[SkippedStep] = []

    def note(self, step: int, batch: GlobalBatch, norm: Tensor) -> None:
        """Take note of a step and the norm of its gradient, which need not be computed yet."""
        self._unread.append((SkippedStep(step, batch), norm))

    @property
    def full(self) -> bool:
        """Whether so many norms are unread that the run might have to end."""
        return len(self._unread) >= PATIENCE

    def read(self) -> list[SkippedStep]:
        """Those skipped since the last reading; waits for the accelerator."""
        skipped = []
        norms = torch.stack([norm for _, norm in self._unread]).isfinite().tolist()
        for (noted, _), finite in zip(self._unread, norms, strict=True):
            if finite:
                self._row.clear()
            else:
                self._row.append(noted)
                skipped.append(noted)
        self._unread.clear()
        return skipped

    @property
    def newest(self) -> bool:
        """Whether the last step that was read is a skipped one."""
        return bool(self._row)

    def check(self, *, ends: bool) -> None:
        """End a run whose last steps were skipped, if they are too many or it ends with them.

        Args:
            ends: whether the last step that was read is the run's last.

        Raises:
            TwinreelError: `gradient_not_finite`.
        """
        if len(self._row) >= (1 if ends else PATIENCE):
            raise TwinreelError(
                "gradient_not_finite",
                f"The gradients of the last {len(self._row)} steps are not finite (the first of"
                f" them: {self._row[0].text()}). None was taken, and nothing saved since.",
                subject=str(self._run),
                remedy="log.jsonl names the samples. Lower optimizer.learning_rate or"
                " optimizer.clip_norm, or lengthen the warm-up, and go on with"
                " `--resume --accept-changes`.",
            )


def check_finite(losses: dict[str, float], step: int, run: Path) -> None:
    """Stop before a ruined state is saved.

    Raises:
        TwinreelError: `loss_not_finite`.
    """
    if not math.isfinite(losses["loss"]):
        raise TwinreelError(
            "loss_not_finite",
            f"The loss of step {step} is {losses['loss']}; nothing was saved since the last"
            " checkpoint.",
            subject=str(run),
            remedy="Lower optimizer.learning_rate or optimizer.clip_norm, or lengthen the warm-up.",
        )
