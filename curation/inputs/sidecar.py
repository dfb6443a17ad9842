"""Captions in text files that lie beside the media files: `walk.mp4`, `walk.txt`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from curation.captions.carried import COLUMN
from curation.inputs.file import InputFile, failed_file
from manifests.errors import MediaError, TwinreelError
from manifests.store.address import ObjectAddress, parse_address
from manifests.store.storage import open_storage

SUFFIX = ".txt"
_LONGEST_BYTES = 64 * 1024
_REQUESTS_AT_ONCE = 32


def with_captions(files: Iterable[InputFile], sidecars: Iterable[InputFile]) -> Iterator[InputFile]:
    """Files with the words of the text files beside them, where they bring none of their own.

    A text file that cannot be read is given too, with its error: it costs its own row, and the file
    beside it goes on without words.

    Args:
        files: to be curated.
        sidecars: files of the same folders that were passed over.
    """
    by_stem = {_stem(each.uri): each for each in sidecars if each.uri.lower().endswith(SUFFIX)}
    # An object is a request: one after another, a large bucket would take hours.
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        for found in pool.map(
            lambda file: _with_caption(file, by_stem.get(_stem(file.uri))), files
        ):
            yield from found


def _stem(uri: str) -> str:
    """An address without its suffix."""
    folder, slash, name = uri.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def _with_caption(file: InputFile, sidecar: InputFile | None) -> list[InputFile]:
    if sidecar is None or COLUMN in file.carried:
        return [file]
    try:
        words = _read(sidecar)
    except TwinreelError as error:
        return [file, failed_file(sidecar.uri, error, retryable=error.code != _BAD)]
    return [dataclasses.replace(file, carried={**file.carried, COLUMN: words})]


_BAD = "caption_unreadable"


def _read(sidecar: InputFile) -> str:
    """The words of a text file.

    Raises:
        MediaError: `caption_unreadable`: it is no text, or too long for a caption.
        StorageError: it cannot be had.
    """
    if sidecar.error is not None:
        raise sidecar.error
    if sidecar.bytes > _LONGEST_BYTES:
        raise _unreadable(f"it has {sidecar.bytes} bytes, and a caption at most {_LONGEST_BYTES}")
    data = _bytes_of(sidecar.uri)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable("it is no text in UTF-8") from error
    if "\0" in text:
        raise _unreadable("it is no text in UTF-8")
    return text.strip()


def _bytes_of(uri: str) -> bytes:
    address = parse_address(uri)
    if isinstance(address, ObjectAddress):
        return open_storage(address.root).read(address.key)
    try:
        return address.read_bytes()
    except OSError as error:
        raise MediaError(
            "unreadable_file", f"The file cannot be read ({error.strerror})."
        ) from error


def _unreadable(why: str) -> MediaError:
    return MediaError(
        _BAD,
        f"The caption beside a file cannot be read: {why}.",
        remedy="Write one caption in UTF-8 into it, or take it away.",
    )
