"""Captions from an endpoint that speaks the OpenAI chat protocol: vLLM, SGLang, or a hosted one.

What becomes of a request:

- Timeouts, connections refused or cut, bodies that are no chat completion, and the statuses 408,
  409, 425, 429 and 5xx are tried again, `tries` times in all, with exponential back-off and jitter.
  A `Retry-After` holds back every request, not only the one it answers. A clip whose tries are used
  up is a failure that a later run asks for again (`caption_endpoint_failed`).
- 401, 402 and 403 (the key), 404, 405 and redirects (address or model) stop the phase: no clip is
  to blame, and none is marked.
- Any other status is that clip's own failure (`caption_request_refused`).
- An answer that is empty, cut at `max_tokens` or not in the form is complained about once, then a
  failure. So is a refusal in the model's own words, which may be a mere turn of phrase. A refusal
  that the endpoint itself declares (`message.refusal`, `content_filter`) is a failure at once: its
  filter decides by the pictures, which a second request would only send again.
- `give_up_after` clips in a row that the endpoint failed or refused, with no answer in between,
  stop the phase: a million clips are not tried against an endpoint that is down.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import email.utils
import os
import queue
import random
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from curation.captions.answer import Answer, AnswerComplaint, CaptionForm, parse_answer
from curation.captions.limits import CostMeter, RateLimiter
from curation.captions.prompt import ClipFacts
from curation.captions.request import Message, first_messages, messages_again
from curation.captions.settings import ENDPOINT_SETTINGS, EndpointSettings
from manifests.errors import TwinreelError, UsageError
from stages.caption_media import ClipMedia

if TYPE_CHECKING:
    import openai

_NO_KEY = "none"
"""Sent where the variable is unset: the client insists on a key, local servers ignore it."""
_SAID_CHARACTERS = 300
"""How much of what an endpoint says goes into an error: some repeat the whole request."""
_RETRIED = frozenset({408, 409, 425, 429})
_KEY_REFUSED = frozenset({401, 402, 403})
_NOT_THERE = frozenset({404, 405})


@dataclasses.dataclass(frozen=True)
class CaptionRequest:
    """A clip to caption: what the model sees and hears of it, and what is known already."""

    clip_id: str
    media: ClipMedia
    facts: ClipFacts


@dataclasses.dataclass(frozen=True)
class CaptionOutcome:
    """What became of one clip: an answer, an error, or neither where it was left out.

    `requests` counts what was sent for it, tries and the second question included; tokens and cost
    are those of all its answers.
    """

    clip_id: str
    answer: Answer | None
    error: TwinreelError | None
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float

    @property
    def left_out(self) -> bool:
        """Whether `max_cost` was reached before the clip had an answer: neither good nor failed."""
        return self.answer is None and self.error is None


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model wrote, whether it was cut for its length, whether a filter declined."""

    text: str
    truncated: bool = False
    declined: bool = False


def caption_all(
    requests: Iterable[CaptionRequest],
    form: CaptionForm,
    settings: EndpointSettings,
    prompts: Path | None = None,
) -> Iterator[CaptionOutcome]:
    """One outcome for every request that is taken, as they come in.

    Requests are taken in the caller's own thread, one at a time, and only as many as are in flight
    and a few more. Once `max_cost` is reached no more are asked or taken: those taken already (at
    least one, if there are any more) come back as left out.

    Args:
        requests: clips to caption; may block on decoding.
        form: what a caption looks like.
        settings: the endpoint.
        prompts: a folder of prompts over the built-in ones.

    Raises:
        UsageError: `missing_package`, `caption_key_refused`, `caption_model_not_found` or
            `caption_cost_unknown`; no clip is to blame.
        TwinreelError: `caption_endpoint_down`.
    """
    phase = _Phase(form, settings, prompts)
    with _Background(phase) as background:
        yield from _outcomes(iter(requests), background, settings)


def _outcomes(
    source: Iterator[CaptionRequest], background: _Background, settings: EndpointSettings
) -> Iterator[CaptionOutcome]:
    ahead = settings.concurrency + max(1, settings.concurrency // 4)
    taken = given = 0
    more = True
    while more or given < taken:
        if more:
            request = next(source, None)
            if request is None:
                more = False
            else:
                background.submit(request)
                taken += 1
        # One is taken for one that is given; waiting only where enough are under way.
        wait = not more or taken - given - background.finished() >= ahead
        outcome = background.result(wait=wait and given < taken)
        if outcome is not None:
            given += 1
            more = more and not outcome.left_out
            yield outcome


class _Background:
    """An event loop in a thread of its own, that captions what is submitted."""

    def __init__(self, phase: _Phase) -> None:
        self._phase = phase
        self._results: queue.SimpleQueue[CaptionOutcome | BaseException] = queue.SimpleQueue()
        self._running = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._closing: asyncio.Event
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="twinreel-captions", daemon=True
        )

    def __enter__(self) -> _Background:
        self._thread.start()
        self._running.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def submit(self, request: CaptionRequest) -> None:
        """Caption a clip; its outcome comes with `result`."""
        self._loop.call_soon_threadsafe(self._start, request)

    def finished(self) -> int:
        """How many outcomes wait for `result`."""
        return self._results.qsize()

    def result(self, *, wait: bool) -> CaptionOutcome | None:
        """The next outcome; None if there is none and it does not wait.

        Raises:
            TwinreelError: what stops the phase.
        """
        try:
            result = self._results.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        return result

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._running.set()
        await self._closing.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._phase.close()

    def _start(self, request: CaptionRequest) -> None:
        task = self._loop.create_task(self._caption(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _caption(self, request: CaptionRequest) -> None:
        try:
            self._results.put(await self._phase.caption(request))
        except Exception as error:  # whatever it is, the caller must not wait for it for ever
            self._results.put(error)


@dataclasses.dataclass
class _Bill:
    """What one clip has taken so far."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def outcome(
        self,
        request: CaptionRequest,
        *,
        answer: Answer | None = None,
        error: TwinreelError | None = None,
    ) -> CaptionOutcome:
        return CaptionOutcome(request.clip_id, answer, error, **dataclasses.asdict(self))


class _Phase:
    """Captions clips one by one, many at a time; all of it within one event loop."""

    def __init__(self, form: CaptionForm, settings: EndpointSettings, prompts: Path | None) -> None:
        self._form = form
        self._settings = settings
        self._prompts = prompts
        self._endpoint = _Endpoint(settings)
        self._answered = False
        self._failed_in_a_row = 0

    async def close(self) -> None:
        await self._endpoint.close()

    async def caption(self, request: CaptionRequest) -> CaptionOutcome:
        """The clip's outcome.

        Raises:
            TwinreelError: the phase cannot go on.
        """
        bill = _Bill()
        messages = first_messages(
            request.media,
            request.facts,
            self._form,
            audio_format=self._settings.audio_format,
            prompts=self._prompts,
        )
        for last in (False, True):
            reply = await self._ask(messages, bill)
            if isinstance(reply, _Fault):
                return bill.outcome(request, error=self._failure(request, reply))
            if reply is None:
                return bill.outcome(request)
            judged = judge(reply, request.facts, self._form, max_tokens=self._settings.max_tokens)
            if isinstance(judged, Answer):
                return bill.outcome(request, answer=judged)
            if last or reply.declined:
                return bill.outcome(request, error=complaint_error(request.clip_id, judged))
            messages = messages_again(
                messages, reply.text, judged, self._form, prompts=self._prompts
            )
        raise AssertionError("the second answer is always judged")

    async def _ask(self, messages: list[Message], bill: _Bill) -> Reply | _Fault | None:
        """The reply, the last fault of all tries, or None where the cost is reached."""
        for attempt in range(1, self._settings.tries + 1):
            reply = await self._endpoint.post(messages, bill)
            if isinstance(reply, Reply):
                self._answered, self._failed_in_a_row = True, 0
            if not isinstance(reply, _Fault) or reply.kind == "refused":
                return reply
            if reply.kind == "misconfigured":
                raise _misconfigured(reply, self._settings)
            asked_s = reply.retry_after_s or 0.0
            if attempt == self._settings.tries or asked_s > self._settings.longest_wait_s:
                break
            await asyncio.sleep(self._wait_s(attempt, reply))
        return reply

    def _wait_s(self, attempt: int, fault: _Fault) -> float:
        if fault.retry_after_s is not None:
            # The limiter waits as long for all; what comes on top spreads them.
            spread_s = random.uniform(0, min(self._settings.backoff_s, 1.0))
            return fault.retry_after_s + spread_s
        doubled_s = self._settings.backoff_s * 2.0 ** (attempt - 1)
        return min(self._settings.longest_wait_s, doubled_s) * random.uniform(0.5, 1.0)

    def _failure(self, request: CaptionRequest, fault: _Fault) -> TwinreelError:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._settings.give_up_after:
            raise TwinreelError(
                "caption_endpoint_down",
                f"The endpoint failed {self._failed_in_a_row} clips in a row, the last with: "
                f"{fault.said}",
                subject=self._settings.base_url,
                remedy="Check that it serves the model and takes pictures and sound, then run "
                "again: what is captioned stays.",
                retryable=True,
            )
        if fault.kind == "refused":
            return TwinreelError(
                "caption_request_refused",
                f"The endpoint refuses the request: {fault.said}",
                subject=request.clip_id,
                # Before the first answer the settings are as likely to blame as the clip.
                retryable=not self._answered,
            )
        return TwinreelError(
            "caption_endpoint_failed",
            f"The endpoint did not answer: {fault.said}",
            subject=request.clip_id,
            remedy="Run again.",
            retryable=True,
        )


@dataclasses.dataclass(frozen=True)
class _Fault:
    """A request that brought no reply: what was said, with which status where there was one."""

    said: str
    status: int | None = None
    retry_after_s: float | None = None

    @property
    def kind(self) -> Literal["passing", "misconfigured", "refused"]:
        if self.status is None or self.status in _RETRIED or self.status >= 500:
            return "passing"
        if self.status in _KEY_REFUSED | _NOT_THERE or self.status < 400:
            return "misconfigured"
        return "refused"


class _Message(pydantic.BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(pydantic.BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(pydantic.BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(pydantic.BaseModel):
    """What is read of a chat completion; endpoints differ in everything else."""

    choices: list[_Choice] = pydantic.Field(min_length=1)
    usage: _Usage | None = None


class _Endpoint:
    """Sends requests, within the limits, and never says the key."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        key = _key(settings)
        self._scrub = _scrubber(key)
        self._client = _connect(settings, key or _NO_KEY)
        self._in_flight = asyncio.Semaphore(settings.concurrency)
        self._limiter = RateLimiter(settings.requests_per_minute, settings.tokens_per_minute)
        self._meter = CostMeter(settings.input_price, settings.output_price, settings.max_cost)

    async def close(self) -> None:
        await self._client.close()

    async def post(self, messages: list[Message], bill: _Bill) -> Reply | _Fault | None:
        """One request; None if the cost is reached and it was not sent.

        Raises:
            UsageError: `caption_cost_unknown`.
        """
        async with self._in_flight:
            admission = await self._limiter.admit()
            if self._meter.reached:
                return None
            bill.requests += 1
            completion = await self._exchange(messages)
            if isinstance(completion, _Fault):
                self._limiter.settle(admission, 0)
                self._limiter.hold(
                    min(completion.retry_after_s or 0.0, self._settings.longest_wait_s)
                )
                return completion
            usage = self._usage(completion)
            self._limiter.settle(admission, usage.prompt_tokens + usage.completion_tokens)
            bill.input_tokens += usage.prompt_tokens
            bill.output_tokens += usage.completion_tokens
            bill.cost += self._meter.charge(usage.prompt_tokens, usage.completion_tokens)
        return _reply(completion.choices[0])

    async def _exchange(self, messages: list[Message]) -> _Completion | _Fault:
        import openai  # noqa: PLC0415

        body: object = None
        try:
            # The client's own timeout starts afresh with every piece of a body that trickles in.
            async with asyncio.timeout(self._settings.timeout_s):
                body = await self._client.post(
                    "/chat/completions",
                    cast_to=object,
                    body=request_body(messages, self._settings),
                )
            return _Completion.model_validate(body)
        except (TimeoutError, openai.APITimeoutError):
            return _Fault(f"no answer within {self._settings.timeout_s:g} s")
        except openai.APIStatusError as error:
            return _Fault(
                self._scrub(error.message),
                error.status_code,
                _retry_after_s(error.response.headers),
            )
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return _Fault(self._scrub(f"connection failed ({type(cause).__name__}: {cause})"))
        except ValueError as error:  # no JSON, or other JSON: pydantic's errors are ValueErrors too
            kind = type(error).__name__
            return _Fault(self._scrub(f"its body is no chat completion ({kind}): {body!r}"))

    def _usage(self, completion: _Completion) -> _Usage:
        if completion.usage is not None:
            return completion.usage
        if self._settings.max_cost is None:
            return _Usage()
        raise UsageError(
            "caption_cost_unknown",
            "The endpoint does not say how many tokens it took.",
            subject=f"{ENDPOINT_SETTINGS}.max_cost",
            remedy="Take the limit out, or ask an endpoint that reports usage.",
        )


def request_body(messages: list[Message], settings: EndpointSettings) -> dict[str, Any]:
    """The JSON of one request; `extra_body` lies over our own fields, and null takes one out."""
    body = {
        "model": settings.model,
        "messages": messages,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        **settings.extra_body,
    }
    return {field: value for field, value in body.items() if value is not None}


def judge(
    reply: Reply, facts: ClipFacts, form: CaptionForm, *, max_tokens: int
) -> Answer | AnswerComplaint:
    """The reply as an answer in the form, or what is wrong with it."""
    if reply.declined:
        return AnswerComplaint("caption_refused", "The endpoint's filter declined.")
    if not reply.text.strip():
        return AnswerComplaint("caption_empty", "The answer is empty.")
    if reply.truncated:
        return AnswerComplaint(
            "caption_truncated",
            f"The answer was cut after {max_tokens} tokens. Write a shorter one, to its end.",
        )
    try:
        return parse_answer(
            reply.text, form, has_speech=facts.has_speech, has_sound=facts.has_sound
        )
    except AnswerComplaint as complaint:
        return complaint


def complaint_error(clip_id: str, complaint: AnswerComplaint) -> TwinreelError:
    """A clip's failure by an answer that was not mended."""
    return TwinreelError(complaint.code, complaint.complaint, subject=clip_id)


def _reply(choice: _Choice) -> Reply:
    return Reply(
        text=choice.message.content or choice.message.refusal or "",
        truncated=choice.finish_reason == "length",
        declined=bool(choice.message.refusal) or choice.finish_reason == "content_filter",
    )


def _connect(settings: EndpointSettings, key: str) -> openai.AsyncOpenAI:
    try:
        import openai  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "missing_package",
            "Captions by an endpoint need the package openai.",
            remedy="pip install 'twinreel[caption]'",
        ) from error
    return openai.AsyncOpenAI(
        api_key=key, base_url=settings.base_url, timeout=settings.timeout_s, max_retries=0
    )


def _key(settings: EndpointSettings) -> str:
    """The key, empty where the variable is unset."""
    key = os.environ.get(settings.api_key_variable, "").strip()
    if key.isascii() and key.isprintable():
        return key
    raise UsageError(
        "caption_key_refused",
        "The key holds characters that no key has.",
        subject=f"{ENDPOINT_SETTINGS}.api_key_variable",
        remedy=f"Set {settings.api_key_variable} anew.",
    )


def _misconfigured(fault: _Fault, settings: EndpointSettings) -> UsageError:
    if fault.status in _KEY_REFUSED:
        variable = settings.api_key_variable
        unset = "" if os.environ.get(variable) else " It is not set."
        return UsageError(
            "caption_key_refused",
            f"The endpoint {settings.base_url} refuses the key: {fault.said}",
            subject=f"{ENDPOINT_SETTINGS}.api_key_variable",
            remedy=f"Put a key that may use {settings.model} into {variable}.{unset}",
        )
    return UsageError(
        "caption_model_not_found",
        f"The endpoint {settings.base_url} has no such address or no model {settings.model}: "
        f"{fault.said}",
        subject=f"{ENDPOINT_SETTINGS}.model",
        remedy=f"Check {ENDPOINT_SETTINGS}.base_url, which mostly ends in /v1, and the model.",
    )


def _scrubber(key: str) -> Callable[[str], str]:
    """Takes the key out of what an endpoint says, then shortens it."""
    secrets = {key, urllib.parse.quote(key, safe="")} - {""}

    def scrub(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _SAID_CHARACTERS else f"{text[:_SAID_CHARACTERS]}..."

    return scrub


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that a response asks for: seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        wait_s = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(0.0, wait_s) if wait_s == wait_s else None  # noqa: PLR0124 - NaN is no wait
