"""One raw file as a listing finds it, or why nothing could be learnt of it."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Mapping
from pathlib import Path

from manifests.errors import MediaError, TwinreelError
from manifests.fingerprint import fingerprint
from manifests.store.address import key_problem, local_uri
from manifests.store.records import Span
from manifests.store.storage import unsupported_key


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One raw file as the listing found it.

    `spans` are the stretches to use (empty: all of it); `carried` the table's other columns.
    `error` says why nothing could be learnt of the file: then `bytes` is -1 and `etag` empty. If it
    is retryable, that tells nothing about the file either: it may be the one that was there before.
    """

    uri: str
    bytes: int
    etag: str
    spans: tuple[Span, ...] = ()
    carried: Mapping[str, str] = dataclasses.field(default_factory=dict)
    error: MediaError | None = dataclasses.field(default=None, compare=False)

    @property
    def source_id(self) -> str:
        """Hash of uri, size, etag and spans: a file that changes becomes another source."""
        spans = [[span.start_s, span.end_s] for span in self.spans]
        return fingerprint([self.uri, self.bytes, self.etag, *([spans] if spans else [])])


def local_file(path: Path) -> InputFile:
    """A file of this machine, by size and time of last change."""
    absolute = path.absolute()
    try:
        if ".." in absolute.parts:
            # One file must have one uri, by whatever way it was named.
            absolute = absolute.parent.resolve() / absolute.name
        status = absolute.stat()
    except (OSError, ValueError) as error:
        uri = local_uri(absolute)
        return InputFile(uri, -1, "", error=_local_error(uri, error))
    uri = local_uri(absolute)
    return InputFile(uri, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _local_error(uri: str, error: OSError | ValueError) -> MediaError:
    """Why a file cannot be looked at. It may be there again the next time, unless its name is bad.

    A null byte in a name is a ValueError.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return missing_file(uri)
    never = isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.EILSEQ)
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return MediaError(
        "unreadable_file",
        f"The file cannot be looked at ({reason}).",
        subject=uri,
        remedy="Check its name." if never else "Give the job read access, then run it again.",
        retryable=not never,
    )


def missing_file(uri: str) -> MediaError:
    """The error of a file that is not there; it may be the next time."""
    return MediaError(
        "missing_file",
        "The file is not there.",
        subject=uri,
        remedy="Put it there or name another; the next run looks again.",
        retryable=True,
    )


def unaddressable(uri: str, key: str) -> InputFile:
    """An object whose key the stores' client cannot address."""
    problem = key_problem(key)
    return failed_file(uri, unsupported_key(uri, problem or "the store's client refuses it"))


def failed_file(uri: str, error: TwinreelError, *, retryable: bool = False) -> InputFile:
    """A file of which the listing knows only that it cannot be had."""
    told = MediaError(
        error.code, error.message, subject=uri, remedy=error.remedy, retryable=retryable
    )
    return InputFile(uri, -1, "", error=told)
