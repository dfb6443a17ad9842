"""One small face over local folders and object stores: read, write, create once, list, delete.

Every write is atomic: nobody sees half an object. `create` writes only where nothing is yet, which
is what commits and leases rest on.
"""

from __future__ import annotations

import dataclasses
import io
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import obstore.store
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from manifests.errors import StorageError, UsageError
from manifests.store.address import ObjectAddress, key_problem, local_uri, parse_address
from manifests.store.object_stores import ObjectInfo, list_by_boto3, open_object_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ACCESS_REMEDY = "Give the job read access, or check the credentials in its environment."
_WRITE_REMEDY = "Name a folder or prefix that the job may write to."


_Infos = list[ObjectInfo]


def open_storage(url: str, *, create: bool = True) -> Storage:
    """The storage at a local folder (a path or `file://`), `s3://`, `gs://` or `az://`.

    Nothing is touched yet; a missing local folder is made by the first write.

    Args:
        url: the root of all paths.
        create: whether a write may make a local root that is missing.

    Raises:
        UsageError: `unknown_storage`: the scheme is none of these; `address_not_text`.
        StorageError: `storage_unreachable`: no credentials or a wrong address; `unsupported_key`.
    """
    address = parse_address(url)
    if isinstance(address, ObjectAddress):
        return _RemoteStorage(address)
    folder = address.expanduser().absolute()
    if local_uri(folder) != str(folder):
        # DuckDB could not open what lies there.
        raise UsageError(
            "address_not_text",
            "The folder's name is not valid UTF-8.",
            subject=url,
            remedy="Use a folder with another name.",
        )
    return _LocalStorage(folder, create=create)


class Storage:
    """Objects under one root. Paths are relative, with `/` between their parts."""

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def _store(self) -> ObjectStore:
        raise NotImplementedError

    def _store_for_writing(self) -> ObjectStore:
        return self._store

    def url(self, path: str) -> str:
        """The address of an object: a local path, or an object store's URL."""
        return f"{self.root.rstrip('/')}/{path}"

    def local_path(self, path: str) -> Path | None:
        """Where the object lies on this machine; None for object stores."""
        return None

    def read(self, path: str) -> bytes:
        """The object's bytes.

        Raises:
            StorageError: `storage_missing`, `storage_denied` or `storage_failed`.
        """
        with self._typed_errors(path):
            return bytes(obstore.get(self._store, path).bytes())

    def head(self, path: str) -> ObjectInfo:
        """Size, etag and time of last change.

        Raises:
            StorageError: `storage_missing`, `storage_denied` or `storage_failed`.
        """
        with self._typed_errors(path):
            found = obstore.head(self._store, path)
        return ObjectInfo(found["path"], found["size"], found["e_tag"], found["last_modified"])

    def exists(self, path: str) -> bool:
        """Whether there is such an object.

        Raises:
            StorageError: `storage_denied` or `storage_failed`.
        """
        try:
            self.head(path)
        except StorageError as error:
            if error.code == "storage_missing":
                return False
            raise
        return True

    def list(
        self, prefix: str = "", *, on_unsupported: Callable[[str], None] | None = None
    ) -> Iterator[ObjectInfo]:
        """All objects under a folder, or the one object of that name, sorted by path.

        Args:
            prefix: the folder or object.
            on_unsupported: called with the path of every object that `unsupported_key` tells of,
                or with a folder's path and a slash where what is in it cannot be listed for it.

        Raises:
            StorageError: `storage_denied` or `storage_failed`; `unsupported_key` if
                `on_unsupported` is None. A missing folder is just empty.
        """
        with self._typed_errors(prefix):
            try:
                found = _infos(obstore.list(self._store, prefix or None).collect())
            except FileNotFoundError:
                found = []
            except InvalidPathError:
                if on_unsupported is None:
                    raise
                found = self._list_around(prefix, on_unsupported)
        if not found and prefix and self.exists(prefix):
            yield self.head(prefix)
        yield from sorted(found, key=lambda entry: entry.path)

    def _list_around(self, prefix: str, on_unsupported: Callable[[str], None]) -> _Infos:
        """As `list`, where the client gives up: folder by folder."""
        found = []
        try:
            level = obstore.list_with_delimiter(self._store, prefix or None)
        except InvalidPathError:
            on_unsupported(f"{prefix}/" if prefix else "")
            return []
        found = _infos(level["objects"])
        for folder in level["common_prefixes"]:
            found += self._list_around(folder, on_unsupported)
        return found

    def reader(self, path: str, *, buffer_bytes: int = 1 << 20) -> io.BufferedReader:
        """A seekable file that fetches `buffer_bytes` at a time.

        Raises:
            StorageError: as `read`, also from the file's own methods.
        """
        return io.BufferedReader(_RangeReader(self, path), buffer_size=buffer_bytes)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`.

        Raises:
            StorageError: as `read`.
        """
        with self._typed_errors(path):
            return bytes(obstore.get_range(self._store, path, start=start, length=length))

    def write(self, path: str, data: bytes) -> None:
        """Write an object whole, over what was there.

        Raises:
            StorageError: `storage_unwritable`.
        """
        with self._typed_errors(path, writing=True):
            obstore.put(self._store_for_writing(), path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object only if there is none of that name; False if there is.

        Raises:
            StorageError: `storage_unwritable`.
        """
        with self._typed_errors(path, writing=True):
            try:
                obstore.put(self._store_for_writing(), path, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def put_file(self, path: str, file: str | Path) -> None:
        """Upload a local file, in parts if it is large.

        Raises:
            StorageError: `storage_unwritable`; `storage_missing` if the file is not there.
        """
        source = Path(file)
        if not source.is_file():
            raise StorageError("storage_missing", "There is no such file.", subject=str(source))
        with self._typed_errors(path, writing=True):
            obstore.put(self._store_for_writing(), path, source)

    def delete(self, path: str) -> None:
        """Delete an object; one that is not there is no error.

        Raises:
            StorageError: `storage_unwritable`.
        """
        with self._typed_errors(path, writing=True):
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                return

    def check_writable(self) -> None:
        """Write and delete a tiny object, so that a job does not fail after hours of work.

        Raises:
            StorageError: `storage_unwritable`.
        """
        path = f".write-check-{secrets.token_hex(4)}"
        self.write(path, b"")
        self.delete(path)

    @contextmanager
    def _typed_errors(self, path: str, *, writing: bool = False) -> Iterator[None]:
        problem = key_problem(path) if path else None
        if problem is not None:
            raise unsupported_key(self.url(path), problem)
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise self._storage_error(path, error, writing=writing) from error

    def _storage_error(self, path: str, error: Exception, *, writing: bool) -> StorageError:
        where = self.url(path) if path else self.root
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
        reason = _first_line(error)
        if writing:
            return StorageError(
                "storage_unwritable",
                f"It cannot be written ({reason}).",
                subject=where,
                remedy=_WRITE_REMEDY,
                retryable=True,
            )
        if isinstance(error, InvalidPathError):
            return unsupported_key(where, reason)
        if isinstance(error, FileNotFoundError):
            return StorageError(
                "storage_missing", "It is not there.", subject=where, remedy="Check the address."
            )
        if denied:
            return StorageError(
                "storage_denied",
                f"It may not be read ({reason}).",
                subject=where,
                remedy=_ACCESS_REMEDY,
                # Credentials expire in the middle of a job.
                retryable=True,
            )
        return StorageError(
            "storage_failed",
            f"Reading failed ({reason}).",
            subject=where,
            remedy="Check the address and the network, then run the same command again.",
            retryable=True,
        )


class _LocalStorage(Storage):
    def __init__(self, folder: Path, *, create: bool) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._create = create

    @property
    def _store(self) -> ObjectStore:
        if not self._folder.is_dir():
            raise FileNotFoundError(f"no folder {self._folder}")
        return obstore.store.LocalStore(self._folder)

    def _store_for_writing(self) -> ObjectStore:
        if self._create:
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._store

    def local_path(self, path: str) -> Path | None:
        return self._folder / path


class _RemoteStorage(Storage):
    def __init__(self, address: ObjectAddress) -> None:
        prefix = address.folder
        self._address = dataclasses.replace(address, key=prefix)
        super().__init__(str(self._address))
        problem = key_problem(prefix) if prefix else None
        if problem is not None:
            raise unsupported_key(self.root, problem)
        try:
            self._remote = open_object_store(self._address)
        except (BaseError, ValueError) as error:
            raise StorageError(
                "storage_unreachable",
                f"The object store cannot be opened ({_first_line(error)}).",
                subject=self.root,
                remedy="Check the address and the credentials in the environment.",
            ) from error

    @property
    def _store(self) -> ObjectStore:
        return self._remote

    def _list_around(self, prefix: str, on_unsupported: Callable[[str], None]) -> _Infos:
        listed = list_by_boto3(self._address, prefix)
        if listed is None:
            return super()._list_around(prefix, on_unsupported)
        found = []
        for entry in listed:
            if key_problem(entry.path) is None:
                found.append(entry)
            elif entry.size or not entry.path.endswith("/"):
                on_unsupported(entry.path)
        return found


def unsupported_key(address: str, problem: str) -> StorageError:
    """An object whose key the object stores' client cannot address."""
    return StorageError(
        "unsupported_key",
        f"An object of this name cannot be addressed ({problem}).",
        subject=address,
        remedy="Rename the object.",
    )


def _infos(entries: Iterable[obstore.ObjectMeta]) -> list[ObjectInfo]:
    return [
        ObjectInfo(entry["path"], entry["size"], entry["e_tag"], entry["last_modified"])
        for entry in entries
    ]


class _RangeReader(io.RawIOBase):
    """Reads an object by ranges; wrapped in a buffer by `Storage.reader`."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._size = storage.head(path).size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's is wider
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._storage.read_range(self._path, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _first_line(error: BaseException) -> str:
    """The message without the debug listing that obstore appends."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
