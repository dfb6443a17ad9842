"""What a run reports: a progress line, JSON lines, and TensorBoard if asked."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manifests.errors import StorageError, UsageError
from training.skipped import SkippedStep

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
SAY_EVERY_S = 15.0
"""Between two lines of progress in a log file."""


class Journal:
    """Writes to `RUN/log.jsonl`; on ranks other than the first it is silent.

    Args:
        run: the run's folder.
        steps: the run's last step.
        start: steps that are done; lines of later steps, from before a crash, are taken out.
        first: whether this is the rank that reports.
        tensorboard: also write `RUN/tensorboard/`.

    Raises:
        UsageError: `tensorboard_missing`.
    """

    def __init__(
        self, run: Path, *, steps: int, start: int, first: bool, tensorboard: bool
    ) -> None:
        self._first = first
        if not first:
            return
        self._path = run / LOG_FILE
        self._cut(start)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _open_board(run / "tensorboard", start) if tensorboard else None
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("train", total=steps, completed=start, text="")
        self._plain = not console.is_terminal
        self._steps, self._said_s = steps, -math.inf

    def __enter__(self) -> Journal:
        if self._first:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._first:
            self._progress.stop()
            self._file.close()
            if self._board is not None:
                self._board.close()

    def step(self, values: dict[str, Any]) -> None:
        """Note a step; `values` has its number under `step`.

        Where there is no terminal for a progress line, the first and the last step are logged, and
        between them one now and then.
        """
        self._write("step", values)
        if not self._first:
            return
        step, now_s = values["step"], time.monotonic()
        self._progress.update(self._bar, completed=step, text=_line(values))
        if self._plain and (step == self._steps or now_s - self._said_s >= SAY_EVERY_S):
            logger.info("step %d of %d: %s", step, self._steps, _line(values))
            self._said_s = now_s

    def skipped(self, steps: Sequence[SkippedStep]) -> None:
        """Note steps that were not taken, and their samples."""
        for skipped in steps:
            batch = skipped.batch
            names = [sample.sample_id for sample in batch.samples]
            self._write("skipped", {"step": skipped.step, "task": batch.task, "sample_ids": names})
            if self._first:
                logger.warning("skipped, as its gradient is not finite: %s", skipped.text())

    def evaluation(self, values: dict[str, Any]) -> None:
        """Note the loss on held-out sources."""
        self._write("evaluation", values)
        if self._first:
            losses = ", ".join(
                f"{name} {values[name]:.4f}"
                for name in ("loss", "video", "audio")
                if name in values
            )
            logger.info("held out after %d steps: %s", values["step"], losses)

    def note(self, text: str) -> None:
        """Log a sentence, once for all ranks."""
        if self._first:
            logger.info("%s", text)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        if not self._first:
            return
        try:
            self._file.write(json.dumps({"kind": kind, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                "log_failed",
                f"The log cannot be written ({error.strerror}).",
                subject=str(self._path),
                remedy="Make room on the disk, then go on with `--resume`.",
            ) from error
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{kind}/{name}", value, values["step"])

    def _cut(self, start: int) -> None:
        """Keep the lines up to `start`: later steps are trained again."""
        if start == 0:
            self._path.unlink(missing_ok=True)
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line)
            except ValueError:
                break  # the line that a kill cut short
        self._path.write_text("".join(kept), encoding="utf-8")


def _line(values: dict[str, Any]) -> str:
    parts = [f"loss {values['loss']:.4f}"]
    parts += [f"{name} {values[name]:.4f}" for name in ("video", "audio") if name in values]
    parts.append(f"{values['tokens_per_s']:,.0f} tokens/s")
    if values["data_wait_s"] > 0.05 * values["step_s"]:
        parts.append(f"waits {values['data_wait_s'] / values['step_s']:.0%} for data")
    return ", ".join(parts)


def _open_board(folder: Path, start: int) -> Any:  # noqa: ANN401 - torch has no types for it
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UsageError(
            "tensorboard_missing",
            "The recipe asks for TensorBoard, which is not installed.",
            subject="log.tensorboard",
            remedy="pip install tensorboard, or --set log.tensorboard=false.",
        ) from error
    return SummaryWriter(str(folder), purge_step=start + 1)
