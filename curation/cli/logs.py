"""Where a command shows the product's own log: on standard error, a line a record."""

from __future__ import annotations

import logging
import sys

_OURS = ("curation", "manifests", "stages", "training", "twinreel")


class _StandardError(logging.Handler):
    """Writes to what standard error is at that moment, which callers may have redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message and nothing else: it is for whoever runs the command."""
        print(self.format(record), file=sys.stderr, flush=True)


def log_to_standard_error() -> None:
    """Show what our packages log from `INFO` on; other libraries keep what they do."""
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
            logger.addHandler(_StandardError())
