"""The errors a user can meet: each has a stable code, a subject and a remedy."""

from __future__ import annotations

import errno

_SYSTEM_REFUSALS = frozenset(
    {
        errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOTCONN,
        errno.EROFS, errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip
"""What a decoder's error may be about that is not about the file."""


class TwinreelError(Exception):
    """Something went wrong that a person can act on.

    Args:
        code: stable snake_case word; tools and tests may rely on it.
        message: one sentence, what happened.
        subject: the file, table or setting it happened to.
        remedy: what to do about it.
        retryable: whether the same attempt may succeed later: a network fault, a file that is away,
            rights that can be given, a process that was killed. What a row records so is tried
            again by the next run; until then it is neither settled nor left out.
    """

    exit_code = 1

    def __init__(
        self,
        code: str,
        message: str,
        *,
        subject: str | None = None,
        remedy: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.subject = subject
        self.remedy = remedy
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        # Exceptions with keyword arguments do not survive pickling by default, and these travel
        # between processes.
        state = (self.code, self.message, self.subject, self.remedy, self.retryable)
        return _rebuild, (type(self), *state)

    def __str__(self) -> str:
        parts = [f"{self.subject}: {self.message}" if self.subject else self.message]
        if self.remedy:
            parts.append(self.remedy)
        return f"{' '.join(parts)} [{self.code}]"


def _rebuild(
    kind: type[TwinreelError],
    code: str,
    message: str,
    subject: str | None,
    remedy: str | None,
    retryable: bool,
) -> TwinreelError:
    return kind(code, message, subject=subject, remedy=remedy, retryable=retryable)


class UsageError(TwinreelError):
    """The command line or the configuration is wrong: nothing was done."""

    exit_code = 2


class MediaError(TwinreelError):
    """One file, or one span of it, cannot be read: it costs its own row, never the job."""


class StorageError(TwinreelError):
    """A table or shard could not be read or written."""


def system_refuses(error: Exception) -> bool:
    """Whether an error is of the system (its disk, processes, packages), which may pass."""
    if not isinstance(error, OSError):
        return isinstance(error, ImportError)
    # PyAV's errors are of the system's kind too, whatever the decoder meant by the number.
    return type(error).__module__ != "av.error" or error.errno in _SYSTEM_REFUSALS


def one_line(text: str) -> str:
    """A text for a terminal: a file's name may hold line ends and what else steers one."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )
