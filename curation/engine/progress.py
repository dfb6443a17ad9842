"""Progress that can be read in a terminal and in a log: rows done, rate, time left, errors."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 10.0


class Progress:
    """One step's counter: a bar in a terminal, elsewhere a line in the log now and then.

    A context manager; a step that comes to its end has its last line in the log everywhere.

    Args:
        title: the step's name.
        total: how many rows there are to do.
        unit: what a row is, in the plural.
        console: where a bar is drawn; standard error if not given.
    """

    def __init__(self, title: str, total: int, unit: str, console: Console | None = None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._started_s = self._told_s = time.monotonic()
        self.done = 0
        self.errors = 0
        console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not (total and console.is_terminal),
        )
        self._bar = self._bars.add_task(title, total=total, text="")

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bars.stop()
        if self._total and kind is None:
            now_s = time.monotonic()
            self._tell(*self._how(now_s), f"{now_s - self._started_s:.0f} s")

    def advance(self, *, failed: bool = False, count: int = 1) -> None:
        """Count rows that are done."""
        self.done += count
        self.errors += failed
        now_s = time.monotonic()
        if not self._bars.disable:
            self._bars.update(self._bar, completed=self.done, text=", ".join(self._how(now_s)))
        elif self.done < self._total and now_s - self._told_s >= _LINE_EVERY_S:
            self._told_s = now_s
            left_s = (self._total - self.done) * (now_s - self._started_s) / max(self.done, 1)
            self._tell(*self._how(now_s), f"{left_s:.0f} s left")

    def _how(self, now_s: float) -> list[str]:
        rate = self.done / max(now_s - self._started_s, 1e-6)
        return [f"{rate:.1f}/s", *([f"{self.errors} failed"] if self.errors else [])]

    def _tell(self, *parts: str) -> None:
        counted = f"{self._title}: {self.done}/{self._total} {self._unit}"
        logger.info("%s", ", ".join([counted, *parts]))
