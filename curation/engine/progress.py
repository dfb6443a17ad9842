"""Progress that can be read in a terminal and in a log: rows done, rate, time left, errors."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_LINE_EVERY_S = 10.0
_TERMINAL_EVERY_S = 0.2


class Progress:
    """One phase's counter: a line that is rewritten in a terminal, a line now and then in a log."""

    def __init__(self, title: str, total: int, unit: str, stream: TextIO | None = None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = self._shown = time.monotonic()
        self.done = 0
        self.errors = 0

    def advance(self, *, failed: bool = False, count: int = 1) -> None:
        """Count rows that are done."""
        self.done += count
        self.errors += failed
        now = time.monotonic()
        if now - self._shown >= (_TERMINAL_EVERY_S if self._live else _LINE_EVERY_S):
            self._shown = now
            self._write(now)

    def close(self) -> None:
        """Write the closing line, if there was anything to do."""
        if self._total:
            self._write(time.monotonic(), last=True)

    def _write(self, now: float, *, last: bool = False) -> None:
        elapsed_s = max(now - self._started, 1e-6)
        rate = self.done / elapsed_s
        parts = [f"{self._title}: {self.done}/{self._total} {self._unit}", f"{rate:.1f}/s"]
        if last:
            parts.append(f"{elapsed_s:.0f} s")
        elif rate > 0:
            parts.append(f"{(self._total - self.done) / rate:.0f} s left")
        if self.errors:
            parts.append(f"{self.errors} failed")
        end = "\n" if last or not self._live else ""
        start = "\r\033[K" if self._live else ""
        self._stream.write(f"{start}{', '.join(parts)}{end}")
        self._stream.flush()
