"""One file over HTTP into a partial file, going on from where an earlier attempt was cut off."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from manifests.errors import StorageError, UsageError
from stages.weights.catalogue import WeightFile
from stages.weights.find import size_text

OnBytes = Callable[[int, int | None], None]
"""Told how many bytes are there, of how many (None if nobody knows)."""

_HUB = "https://huggingface.co"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_RETRY_WAITS_S = (0.5, 2.0, 8.0)
"""Waits before further attempts; begun anew whenever an attempt has brought bytes."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that may be gone a moment later."""


def address_of(file: WeightFile) -> str:
    """Where a file's source is fetched from; HF_ENDPOINT takes the Hugging Face hub's place."""
    if not file.source.startswith("hf://"):
        return file.source
    owner, repository, path = file.source.removeprefix("hf://").split("/", 2)
    hub = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    return f"{hub}/{owner}/{repository}/resolve/{file.revision or 'main'}/{path}"


def download(file: WeightFile, part: Path, *, resume: bool, on_bytes: OnBytes) -> None:
    """Fetch a file from its source; afterwards `part` is as long as the source says it is.

    Args:
        file: what to fetch. HF_TOKEN goes to the hub, and to nobody that it redirects to.
        part: where the bytes go. It stays behind if this fails.
        resume: go on from the end of `part`. Only right if the whole is checked afterwards: it may
            be the beginning of another version.
        on_bytes: told of every step.

    Raises:
        StorageError: `weights_unreachable` (the network; worth another try), `weights_refused` (no
            access), `weights_gone` (not at this address), `weights_no_space`,
            `weights_unwritable`.
        UsageError: `bad_token`.
    """
    url = address_of(file)
    token = _hub_token() if file.source.startswith("hf://") else ""
    most_bytes = _size(part)
    waits_s = iter(_RETRY_WAITS_S)
    while True:
        try:
            _attempt(url, token, part, resume=resume, on_bytes=on_bytes)
            return
        except (OSError, http.client.HTTPException) as error:
            _raise_if_final(url, error)
            if _size(part) > most_bytes:
                most_bytes = _size(part)
                waits_s = iter(_RETRY_WAITS_S)
            wait_s = next(waits_s, None)
            if wait_s is None:
                raise _unreachable(url, error, part, resume=resume) from error
            time.sleep(wait_s)


class PartFile:
    """The partial file, whose faults are not mistaken for the network's."""

    def __init__(self, part: Path, *, start: int, total: int | None) -> None:
        self.written = start
        self._part = part
        self._total = total
        self._file: BinaryIO | None = None

    def __enter__(self) -> PartFile:
        try:
            free = shutil.disk_usage(self._part.parent).free
            needed = (self._total or 0) - self.written
            if needed > free:
                raise StorageError(
                    "weights_no_space",
                    f"{size_text(needed)} are still to come, and {size_text(free)} are free.",
                    subject=str(self._part.parent),
                    remedy="Make room, or name another folder first in TWINREEL_WEIGHTS.",
                )
            self._file = self._part.open("r+b" if self.written else "wb")
            self._file.seek(self.written)
        except OSError as error:
            raise unwritable(self._part, error) from error
        return self

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            StorageError: `weights_unwritable`.
        """
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise unwritable(self._part, error) from error
        self.written += len(data)

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        try:
            self._file.close()
        except OSError as error:
            raise unwritable(self._part, error) from error


def unwritable(path: Path, error: OSError) -> StorageError:
    """A weights folder that does not take what came."""
    return StorageError(
        "weights_unwritable",
        f"It cannot be written ({error.strerror or error}).",
        subject=str(path),
        remedy="Name a folder that may be written to first in TWINREEL_WEIGHTS.",
    )


def _attempt(url: str, token: str, part: Path, *, resume: bool, on_bytes: OnBytes) -> None:
    start = _size(part) if resume else 0
    try:
        response = _open(url, token, start)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        # Nothing follows: either all of it is there, or it is the beginning of something else.
        if error.headers.get("Content-Range", "").removeprefix("bytes */") == str(start):
            return
        start, response = 0, _open(url, token, 0)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise http.client.HTTPException("it sent another range than was asked for")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        with PartFile(part, start=start, total=total) as file:
            _copy(response, file, total, on_bytes)


def _copy(
    response: http.client.HTTPResponse, file: PartFile, total: int | None, on_bytes: OnBytes
) -> None:
    on_bytes(file.written, total)
    while total is None or file.written < total:
        wanted = _CHUNK_BYTES if total is None else min(_CHUNK_BYTES, total - file.written)
        # `read1` gives what has come so far: a cut connection loses nothing of it.
        data = response.read1(wanted)
        if not data:
            break
        file.write(data)
        on_bytes(file.written, total)
    if total is not None and file.written < total:
        raise http.client.HTTPException(f"it ended after {file.written:,} of {total:,} bytes")


def _hub_token() -> str:
    """The hub's token, empty if there is none; secrets out of files often end in a line break.

    Raises:
        UsageError: `bad_token`; it does not say the token.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UsageError(
            "bad_token",
            "The token holds characters that no token has.",
            subject="HF_TOKEN",
            remedy="Set it anew.",
        )
    return token


def _open(url: str, token: str, start: int) -> http.client.HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https"):
        raise urllib.error.URLError(f"no address to fetch from: {url}")
    request = urllib.request.Request(url, headers={"User-Agent": "twinreel"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if token:
        # Unredirected: a hub hands large files to other hosts, which must not see it.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(_Redirects)
    response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_S)
    return response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, never from HTTPS to HTTP, and with the token only to the same host."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise urllib.error.URLError(f"it redirects to {new.scheme}://{new.netloc}, unencrypted")
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if (
            redirected is not None
            and token
            and (old.scheme, old.netloc) == (new.scheme, new.netloc)
        ):
            redirected.add_unredirected_header("Authorization", token)
        return redirected


def _raise_if_final(url: str, error: Exception) -> None:
    """Raise for an answer that will be the same next time."""
    if not isinstance(error, urllib.error.HTTPError) or error.code in _PASSING:
        return
    if error.code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        raise StorageError(
            "weights_refused",
            f"It may not be fetched (HTTP {error.code}).",
            subject=url,
            remedy="If its page asks for a login or for terms to be accepted, do so and set"
            " HF_TOKEN; else fetch it from a mirror.",
        ) from error
    raise StorageError(
        "weights_gone",
        f"It is not there (HTTP {error.code}).",
        subject=url,
        remedy="Fetch it from a mirror (TWINREEL_WEIGHTS_MIRROR), or put the file into a weights"
        " folder by hand.",
    ) from error


def _unreachable(url: str, error: Exception, part: Path, *, resume: bool) -> StorageError:
    is_status = isinstance(error, urllib.error.HTTPError)
    reason = getattr(error, "reason", error) if not is_status else error
    kept = _size(part) if resume else 0
    onwards = f" It goes on from the {size_text(kept)} that have come." if kept else ""
    return StorageError(
        "weights_unreachable",
        f"It cannot be fetched ({reason or type(error).__name__}).",
        subject=url,
        remedy="Check the network and run the same command again, or use a mirror"
        f" (TWINREEL_WEIGHTS_MIRROR).{onwards}",
        retryable=True,
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
