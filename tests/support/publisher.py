"""A web server that publishes made-up weights, and misbehaves as it is told."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any

from stages.weights.catalogue import WeightFile, WeightSet


def some_bytes(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def weight_set(*files: WeightFile, name: str = "made-up") -> WeightSet:
    return WeightSet(name, "a test", "MIT", "yes", files)


@dataclasses.dataclass
class Publisher:
    """What is published, how it misbehaves, and what was asked for."""

    url: str
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    cuts: list[int] = dataclasses.field(default_factory=list)
    """The next answers end after so many bytes."""
    statuses: list[int] = dataclasses.field(default_factory=list)
    """The next answers are these errors."""
    redirects: dict[str, str] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    before_answer: threading.Event | None = None
    asked: list[tuple[str, Message]] = dataclasses.field(default_factory=list)

    def publish(self, name: str, data: bytes, digest: str | None = None) -> WeightFile:
        self.files[f"/{name}"] = data
        pinned = sha256(data) if digest is None else digest
        return WeightFile(name, f"{self.url}/{name}", len(data), pinned)

    @property
    def asked_ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


@contextmanager
def publisher() -> Iterator[Publisher]:
    state: Publisher

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers))
            if state.before_answer is not None:
                state.before_answer.wait(20)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
            elif self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                self.end_headers()
            elif self.path not in state.files:
                self.send_error(404)
            else:
                self._send(state.files[self.path])

        def _send(self, data: bytes) -> None:
            asked = self.headers.get("Range") if state.ranges else None
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if asked and start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else None
            self.wfile.write(data[start:] if cut is None else data[start : start + cut])

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Publisher(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
