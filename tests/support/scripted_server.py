"""A chat endpoint that answers by script, over real HTTP on a port of 127.0.0.1.

    with ScriptedServer(play({"clip-3": [Fail(500), Say("...")]}, well_formed)) as server:
        subprocess.run([..., f"caption.endpoint.base_url={server.base_url}"])
    assert server.asked["clip-3"] == 2

A script is a function of an `Ask` that gives a step: `Say`, `Fail`, `Cut` or `Garble`. `play` makes
one of lists of steps by clip. A clip is told by a word such as `clip-17` in the user's text (put it
into the transcript), or else by `media-` and the hash of its first picture or of its sound.
`well_formed` is a script that answers every question in the form that its text asks for.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import hashlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

_CLIP = re.compile(r"\bclip-[\w-]*\w")


@dataclasses.dataclass(frozen=True)
class Say:
    """An answer. `usage` False leaves the tokens out."""

    text: str = ""
    finish_reason: str = "stop"
    refusal: str | None = None
    delay_s: float = 0.0
    input_tokens: int = 1000
    output_tokens: int = 100
    usage: bool = True


@dataclasses.dataclass(frozen=True)
class Fail:
    """An error status; `echo_key` repeats the key that was sent, as careless endpoints do."""

    status: int
    message: str = "scripted failure"
    retry_after: str | None = None
    location: str | None = None
    echo_key: bool = False
    delay_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Cut:
    """The connection ends in the middle of the body."""

    delay_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Garble:
    """Status 200 with a body that is no chat completion."""

    body: str = '{"choices": [{"mess'
    delay_s: float = 0.0


Step = Say | Fail | Cut | Garble


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request as the server saw it.

    `attempt` counts the requests about this clip before this one; `turn` is 0 for the first
    question and 1 where an answer is complained about; `images` are decoded, and so is `sound`.
    """

    clip: str
    attempt: int
    turn: int
    authorization: str | None
    body: Mapping[str, Any]
    text: str
    images: tuple[bytes, ...]
    sound: bytes | None


Script = Callable[[Ask], Step]


def play(steps: Mapping[str, Sequence[Step]], otherwise: Step | Script) -> Script:
    """A script of lists of steps by clip; the last step of a list is repeated.

    Args:
        steps: what the first, second, ... request about a clip meets.
        otherwise: for clips that are not listed.
    """

    def script(ask: Ask) -> Step:
        listed = steps.get(ask.clip)
        if listed:
            return listed[min(ask.attempt, len(listed) - 1)]
        return otherwise(ask) if callable(otherwise) else otherwise

    return script


def well_formed(ask: Ask) -> Step:
    """A valid answer to a packaged prompt; quotes what was heard where somebody speaks."""
    heard = re.search(r'heard: "(.*?)"', ask.text, re.DOTALL)
    words = heard.group(1) if heard else "good morning to you all"
    quotation = f"<S>{words}<E> " if "Somebody speaks: quote" in ask.text else ""
    seen = f"A picture of {len(ask.images)} frames. " if ask.images else ""
    sound = "A calm, low voice in a quiet room." if ask.sound else "It is silent."
    tagged = "<AUDCAP>" in ask.text
    return Say(
        f"{seen}{quotation}" + (f"<AUDCAP>{sound}<ENDAUDCAP>" if tagged else f"Audio: {sound}")
    )


class ScriptedServer:
    """The endpoint; a context manager that serves while it is open.

    Args:
        script: what each request meets.
        key: the key that requests must carry, else 401; None takes any.
        model: the model that requests must name, else 404; None takes any.

    Attributes:
        base_url: what a client is given, up to /v1.
        asks: every request so far.
        asked: how many requests there were about each clip.
        in_flight: requests that are being answered.
        most_in_flight: the most there ever were.
    """

    def __init__(self, script: Script, *, key: str | None = None, model: str | None = None) -> None:
        self.asks: list[Ask] = []
        self.asked: collections.Counter[str] = collections.Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self._script = script
        self._key = key
        self._model = model
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def step(self, body: Mapping[str, Any], authorization: str | None) -> Step:
        """Note a request and find what it meets."""
        if self._key is not None and authorization != f"Bearer {self._key}":
            return Fail(401, "Incorrect API key provided", echo_key=True)
        if self._model is not None and body["model"] != self._model:
            return Fail(404, f"The model `{body['model']}` does not exist.")
        with self._lock:
            ask = _read(body, authorization, self.asked)
            self.asked[ask.clip] += 1
            self.asks.append(ask)
        return self._script(ask)

    def count(self, change: int) -> None:
        """A request comes in (1) or has been answered (-1)."""
        with self._lock:
            self.in_flight += change
            self.most_in_flight = max(self.most_in_flight, self.in_flight)


def _read(body: Mapping[str, Any], authorization: str | None, asked: Mapping[str, int]) -> Ask:
    parts = body["messages"][1]["content"]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    images = [_of_data_url(part["image_url"]) for part in parts if part["type"] == "image_url"]
    sounds = [
        base64.b64decode(part["input_audio"]["data"])
        if part["type"] == "input_audio"
        else _of_data_url(part["audio_url"])
        for part in parts
        if part["type"] in {"input_audio", "audio_url"}
    ]
    named = _CLIP.search(text)
    media = [*images, *sounds, text.encode()]
    clip = named.group() if named else f"media-{hashlib.sha256(media[0]).hexdigest()[:16]}"
    return Ask(
        clip=clip,
        attempt=asked.get(clip, 0),
        turn=sum(message["role"] == "assistant" for message in body["messages"]),
        authorization=authorization,
        body=body,
        text=text,
        images=tuple(images),
        sound=sounds[0] if sounds else None,
    )


def _of_data_url(part: Mapping[str, str]) -> bytes:
    return base64.b64decode(part["url"].partition(";base64,")[2], validate=True)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are part of the tests, and nothing to print."""


def _handler(scripted: ScriptedServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else the two writes of a response meet the receiver's delayed acknowledgement: 40 ms each.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/v1/chat/completions":
                self._send(404, {"detail": "Not Found"})
                return
            scripted.count(1)
            try:
                body = json.loads(content)
                step = scripted.step(body, self.headers.get("Authorization"))
                time.sleep(step.delay_s)
            finally:
                # Before the response goes out: the client may send its next at once.
                scripted.count(-1)
            self._play(step, body)

        def _play(self, step: Step, body: Mapping[str, Any]) -> None:
            if isinstance(step, Say):
                self._send(200, _completion(step, body["model"]))
            elif isinstance(step, Fail):
                echo = f": {self.headers.get('Authorization')}" if step.echo_key else ""
                error = {"message": f"{step.message}{echo}", "type": "scripted", "code": None}
                headers = {"Retry-After": step.retry_after, "Location": step.location}
                given = {name: value for name, value in headers.items() if value is not None}
                self._send(step.status, {"error": error}, given)
            elif isinstance(step, Garble):
                self._send(200, step.body)
            else:
                self._cut()

        def _send(
            self, status: int, content: object, headers: Mapping[str, str] | None = None
        ) -> None:
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def _cut(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest captures enough."""

    return Handler


def _completion(step: Say, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step.text}
    if step.refusal is not None:
        message |= {"content": None, "refusal": step.refusal}
    completion: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": step.finish_reason}],
    }
    if step.usage:
        completion["usage"] = {
            "prompt_tokens": step.input_tokens,
            "completion_tokens": step.output_tokens,
            "total_tokens": step.input_tokens + step.output_tokens,
        }
    return completion
