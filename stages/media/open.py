"""Opening a file or an object for decoding, wherever it lies."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
import av.container
import av.error

from manifests.errors import MediaError, StorageError
from manifests.storage import open_storage

# A playlist or a crafted file must not make the decoder fetch addresses or read other files.
_LOCAL_OPTIONS = {"protocol_whitelist": "file"}
_REMOTE_OPTIONS = {"protocol_whitelist": ""}
_REMOTE_BUFFER_BYTES = 1 << 20


def local_path(uri: str) -> Path | None:
    """The path of a local uri (a plain path or `file://`), None for an object store's."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path)) if parts.scheme else Path(uri)
    return None


def open_media(uri: str) -> av.container.InputContainer:
    """Open a media file for reading.

    Raises:
        MediaError: `empty_file`, `missing_file`, `unreadable_file` or `unreadable_container`.
    """
    path = local_path(uri)
    try:
        if path is not None:
            if path.stat().st_size == 0:
                raise _empty(uri)
            return av.open(str(path), "r", options=_LOCAL_OPTIONS, metadata_errors="replace")
        folder, _, name = uri.rpartition("/")
        storage = open_storage(folder)
        if storage.head(name).size == 0:
            raise _empty(uri)
        reader = storage.reader(name, buffer_bytes=_REMOTE_BUFFER_BYTES)
        return av.open(reader, "r", options=_REMOTE_OPTIONS, metadata_errors="replace")
    except FileNotFoundError as error:
        raise _missing(uri) from error
    except PermissionError as error:
        raise MediaError(
            "unreadable_file",
            "The file may not be read.",
            subject=uri,
            remedy="Give the job read access.",
            retryable=True,
        ) from error
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(
            "unreadable_container",
            f"No media container can be read from it ({_short(error)}).",
            subject=uri,
            remedy="Check that it was uploaded whole and is a media file.",
        ) from error
    except StorageError as error:
        if error.code == "storage_missing":
            raise _missing(uri) from error
        raise MediaError(
            "unreadable_file", error.message, subject=uri, remedy=error.remedy, retryable=True
        ) from error
    except OSError as error:
        raise MediaError(
            "unreadable_file", f"Reading failed ({error}).", subject=uri, retryable=True
        ) from error


def _empty(uri: str) -> MediaError:
    return MediaError(
        "empty_file", "The file has no bytes.", subject=uri, remedy="Upload it again."
    )


def _missing(uri: str) -> MediaError:
    return MediaError("missing_file", "The file is not there.", subject=uri, retryable=True)


def _short(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).split(os.linesep)[0][:120]
