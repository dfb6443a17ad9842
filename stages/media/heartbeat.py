"""Signs of life: whoever decodes or encodes says that work goes on, and a parent may listen.

`curation.engine.child` listens in its child process and kills one that falls silent. Elsewhere
nobody listens, and a beat costs a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Say that work goes on; at least once for every packet, frame or model's window."""
    for listener in _listeners:
        listener()


@contextmanager
def heard_by(listener: Callable[[], None]) -> Iterator[None]:
    """Have `listener` called at every beat of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
