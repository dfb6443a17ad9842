"""Opening a file or an object for decoding, wherever it lies."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import av.container
import av.error

from manifests.errors import MediaError, StorageError
from manifests.store.address import parse_address
from manifests.store.storage import open_storage
from stages.media.formats import FORMATS

# A playlist or a crafted file must not make the decoder fetch addresses or read other files: it
# gets bytes without a name, no protocol to open more with, and formats that need no other file.
_OPTIONS = {"protocol_whitelist": "", "format_whitelist": ",".join(FORMATS)}
_REMOTE_BUFFER_BYTES = 1 << 20
_SCRIPT_STARTS = (b"#extm3u", b"[playlist]", b"<?xml", b"<mpd", b"<asx", b"<smil")
"""How playlists begin: FFmpeg, without their name, only says that they are no media."""


@contextlib.contextmanager
def open_media(uri: str) -> Iterator[av.container.InputContainer]:
    """Open a media file for reading; it is closed at the end of the `with`.

    Raises:
        MediaError: `empty_file`, `missing_file`, `unreadable_file`, `unsupported_format` or
            `unreadable_container`; `unreadable_file` also when it fails while it is read.
    """
    with contextlib.ExitStack() as opened:
        try:
            file, size_bytes = _open_file(uri)
            opened.enter_context(file)
            if size_bytes == 0:
                raise MediaError(
                    "empty_file", "The file has no bytes.", subject=uri, remedy="Upload it again."
                )
            if _is_playlist(file):
                raise _unsupported(uri)
            container = open_container(file, uri)
        except av.error.ArgumentError as error:
            raise _unsupported(uri) from error
        except (av.error.FFmpegError, ValueError) as error:
            raise _unreadable_container(uri, error) from error
        except (OSError, StorageError) as error:
            raise _unreadable_file(uri, error) from error
        yield opened.enter_context(container)


def open_container(file: BinaryIO, subject: str) -> av.container.InputContainer:
    """Open bytes as media of one of `FORMATS`; whatever they say, nothing else is opened.

    Every file comes to FFmpeg this way, local ones too: FFmpeg's own reader would see their names,
    which may be patterns (`frame%03d.png`) or protocols (`concat:a|b`), and it is no faster.

    Args:
        file: at its start, seekable; the caller closes it, after the container.
        subject: what an error names.

    Raises:
        av.error.FFmpegError: it is not media, or of no format that is read (`ArgumentError`).
        MediaError: `unreadable_file`, also while the container is read.
    """
    reader = _Reader(file, subject)
    return av.open(reader, "r", options=_OPTIONS, metadata_errors="replace")


class _Reader:
    """A file as PyAV takes one, without its name; its errors are typed and name the subject."""

    def __init__(self, file: BinaryIO, subject: str) -> None:
        self._file = file
        self._subject = subject

    def read(self, size_bytes: int) -> bytes:
        with self._typed_errors():
            return self._file.read(size_bytes)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._typed_errors():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        with self._typed_errors():
            return self._file.tell()

    @contextlib.contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, StorageError) as error:
            raise _unreadable_file(self._subject, error) from error


def _open_file(uri: str) -> tuple[BinaryIO, int]:
    """The file or object, and how many bytes it has."""
    path = parse_address(uri)
    if not isinstance(path, Path):
        storage = open_storage(path.root)
        size_bytes = storage.head(path.key).size
        return storage.reader(path.key, buffer_bytes=_REMOTE_BUFFER_BYTES), size_bytes
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # To open a pipe would wait for somebody to write to it.
        raise MediaError(
            "unreadable_file",
            "It is a folder, a pipe or a device.",
            subject=uri,
            remedy="Give files, or a folder as an input of its own.",
        )
    # Unbuffered, because FFmpeg has a buffer of its own.
    return path.open("rb", buffering=0), status.st_size


def _is_playlist(file: BinaryIO) -> bool:
    start = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().lower()
    file.seek(0)
    return start.startswith(_SCRIPT_STARTS)


def _unsupported(uri: str) -> MediaError:
    return MediaError(
        "unsupported_format",
        "It is of no video, sound or picture format that is read; playlists and scripts, which"
        " name other files, are not.",
        subject=uri,
        remedy="List the media files themselves.",
    )


def _unreadable_container(uri: str, error: Exception) -> MediaError:
    return MediaError(
        "unreadable_container",
        f"No media container can be read from it ({_short(error)}).",
        subject=uri,
        remedy="Check that it was uploaded whole and is a media file.",
    )


def _unreadable_file(uri: str, error: OSError | StorageError) -> MediaError:
    missing = isinstance(error, StorageError) and error.code == "storage_missing"
    if missing or isinstance(error, FileNotFoundError):
        return MediaError("missing_file", "The file is not there.", subject=uri, retryable=True)
    if isinstance(error, PermissionError):
        return MediaError(
            "unreadable_file",
            "The file may not be read.",
            subject=uri,
            remedy="Give the job read access.",
            retryable=True,
        )
    if isinstance(error, StorageError):
        return MediaError(
            "unreadable_file", error.message, subject=uri, remedy=error.remedy, retryable=True
        )
    return MediaError("unreadable_file", f"Reading failed ({error}).", subject=uri, retryable=True)


def _short(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).split(os.linesep)[0][:120]
