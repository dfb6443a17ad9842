"""Addresses: where a file or an object lies. The one parser of them.

An address is a local path, a `file://` URI, or an object's `scheme://bucket/key`. A key is taken
as it is written: `#`, `?` and `%20` are characters of it. Only `file://` URIs are percent-encoded.
What has no `scheme://` is a path, whatever colons are in it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from manifests.errors import UsageError

REMOTE_SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE = re.compile(r"file:(?=/)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ObjectAddress:
    """An object, or a prefix of objects; `key` has no escapes and is empty for a whole bucket."""

    scheme: str
    bucket: str
    key: str

    @property
    def root(self) -> str:
        """The bucket's own address."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def folder(self) -> str:
        """The key as a folder's: as it is written, without the one slash that it may end with."""
        return self.key[:-1] if len(self.key) > 1 and self.key.endswith("/") else self.key

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root


def parse_address(text: str) -> Path | ObjectAddress:
    """What an address means: a path on this machine, or an object.

    Raises:
        UsageError: `unknown_storage`: neither a path nor an address of a known kind.
    """
    if _FILE.match(text):
        return _path_of_file_uri(text)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    name = scheme[1].lower()
    if name not in REMOTE_SCHEMES:
        raise UsageError(
            "unknown_storage",
            f"There is no storage for addresses that start with '{name}:'.",
            subject=text,
            remedy=f"Use a path, file://, {', '.join(f'{known}://' for known in REMOTE_SCHEMES)}.",
        )
    bucket, _, key = text[scheme.end() :].partition("/")
    if not bucket:
        raise UsageError(
            "unknown_storage",
            "The address names no bucket.",
            subject=text,
            remedy=f"Write it as {name}://bucket/key.",
        )
    return ObjectAddress(name, bucket, key)


def is_address(text: str) -> bool:
    """Whether a text starts like a URI (`scheme://`, `file:/`), of a known kind or not."""
    return bool(_SCHEME.match(text) or _FILE.match(text))


def local_uri(path: Path) -> str:
    """The address of a file on this machine: its path, or a `file://` URI if it is no UTF-8.

    `parse_address` gives back the same bytes.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"file://{quote_from_bytes(os.fsencode(path))}"
    return text


def key_problem(key: str) -> str | None:
    """Why the object stores' client cannot address a key; None if it can.

    It takes keys for paths, and would drop or refuse what a path does not have.
    """
    parts = key.split("/")
    if "" in parts:
        return "it has an empty part: '//', or a '/' at an end"
    if "." in parts or ".." in parts:
        return "one of its parts is '.' or '..'"
    if any(ord(character) < ord(" ") or character == "\x7f" for character in key):
        return "it has control characters"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return None


def _path_of_file_uri(text: str) -> Path:
    path = text[len("file:") :]
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if host.lower() not in ("", "localhost") or not slash:
            raise UsageError(
                "unknown_storage",
                f"'{host}' would be another machine.",
                subject=text,
                remedy="Write file:///path for a file on this machine.",
            )
        path = f"/{rest}"
    # A name on a disk is bytes, which need not be UTF-8.
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(path))))
