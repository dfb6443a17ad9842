"""One job at a time on one OUT: a file that says who has it, kept fresh by a heartbeat."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import socket
import threading
from types import TracebackType
from typing import Any

import psutil

from manifests.errors import StorageError
from manifests.store.storage import Storage

PATH = "manifests/_lease.json"
_LIFETIME_S = 60.0
_HEARTBEAT_S = 10.0


class Lease:
    """Holds OUT for this process while the `with` block runs.

    A lease whose holder's heartbeat stopped a minute ago, or whose process on this host is gone, is
    taken over.

    Raises:
        StorageError: `out_busy`, naming the holder, on entering.
    """

    def __init__(
        self, storage: Storage, lifetime_s: float = _LIFETIME_S, heartbeat_s: float = _HEARTBEAT_S
    ) -> None:
        self._storage = storage
        self._lifetime_s = lifetime_s
        self._heartbeat_s = heartbeat_s
        self._token = secrets.token_hex(8)
        self._started = _now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        if not self._storage.create(PATH, self._content()):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        holder = self._holder()
        if holder is not None and holder["token"] == self._token:
            self._storage.delete(PATH)

    def check(self) -> None:
        """Make sure that OUT is still this job's, before something is committed.

        Raises:
            StorageError: `lease_lost`.
        """
        holder = self._holder()
        if holder is None or holder["token"] != self._token:
            raise StorageError(
                "lease_lost",
                "Another job has taken it over, since this one showed no sign of life.",
                subject=self._storage.root,
                remedy="Let the other job finish, then run this one again.",
                retryable=True,
            )

    def _take_over(self) -> None:
        holder = self._holder()
        if holder is not None and self._alive(holder):
            raise StorageError(
                "out_busy",
                f"Another job has it: process {holder['pid']} on {holder['host']},"
                f" since {holder['started']}.",
                subject=self._storage.root,
                remedy="Wait for it, or give this job another --out.",
                retryable=True,
            )
        # Of two that find the same dead lease, one creates the new one.
        self._storage.delete(PATH)
        if not self._storage.create(PATH, self._content()):
            self._take_over()

    def _alive(self, holder: dict[str, Any]) -> bool:
        if holder["host"] == socket.gethostname():
            try:
                process = psutil.Process(holder["pid"])
                # A process number is used again after a while: the start time tells them apart.
                return abs(process.create_time() - float(holder["process_started"])) < 1.0
            except psutil.Error:
                return False
        seen = datetime.datetime.fromisoformat(holder["seen"])
        return (_now() - seen).total_seconds() < self._lifetime_s

    def _holder(self) -> dict[str, Any] | None:
        try:
            holder: dict[str, Any] = json.loads(self._storage.read(PATH))
        except StorageError as error:
            if error.code == "storage_missing":
                return None
            raise
        except ValueError:
            return None
        return holder

    def _content(self) -> bytes:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "started": self._started.isoformat(timespec="seconds"),
            "seen": _now().isoformat(),
            "token": self._token,
        }
        return json.dumps(holder, indent=1).encode()

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                self.check()
                self._storage.write(PATH, self._content())
            except StorageError:
                # The job finds out at its next commit, where it can be reported.
                continue


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
