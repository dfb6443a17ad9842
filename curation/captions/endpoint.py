"""The wire: one request at a time within limits, and what its answer or its failure comes to.

Nothing that is said about a request holds the key: what endpoints say is searched for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import email.utils
import os
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from curation.captions.limits import CostMeter, RateLimiter
from curation.captions.request import Message
from curation.captions.settings import ENDPOINT_SETTINGS, EndpointSettings
from manifests.errors import UsageError

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
class Reply:
    """What a model wrote, whether it was cut for its length, whether a filter declined."""

    text: str
    truncated: bool = False
    declined: bool = False


@dataclasses.dataclass
class Bill:
    """What one clip has taken so far."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """A request that brought no reply: what was said, with which status where there was one."""

    said: str
    status: int | None = None
    retry_after_s: float | None = None

    @property
    def kind(self) -> Literal["passing", "misconfigured", "refused"]:
        """Whether it may pass, lies in the settings, or in this request."""
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


class Endpoint:
    """Sends requests, within the limits, and never says the key."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        key = _key(settings)
        self._scrub = _scrubber(key)
        self._stopped = False
        self._client = _connect(settings, key or _NO_KEY)
        self._in_flight = asyncio.Semaphore(settings.concurrency)
        self._limiter = RateLimiter(settings.requests_per_minute, settings.tokens_per_minute)
        self._meter = CostMeter(settings.input_price, settings.output_price, settings.max_cost)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    async def close(self) -> None:
        """End the connections."""
        await self._client.close()

    async def post(self, messages: list[Message], bill: Bill) -> Reply | Fault | None:
        """One request; None if the cost is reached or all is stopped, and it was not sent.

        Raises:
            UsageError: `caption_cost_unknown`.
        """
        async with self._in_flight:
            admission = await self._limiter.admit()
            if self._stopped or self._meter.reached:
                return None
            bill.requests += 1
            completion = await self._exchange(messages)
            if isinstance(completion, Fault):
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

    async def _exchange(self, messages: list[Message]) -> _Completion | Fault:
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
            return Fault(f"no answer within {self._settings.timeout_s:g} s")
        except openai.APIStatusError as error:
            return Fault(
                self._scrub(error.message),
                error.status_code,
                _retry_after_s(error.response.headers),
            )
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return Fault(self._scrub(f"connection failed ({type(cause).__name__}: {cause})"))
        except ValueError as error:  # no JSON, or other JSON: pydantic's errors are ValueErrors too
            kind = type(error).__name__
            return Fault(self._scrub(f"its body is no chat completion ({kind}): {body!r}"))

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
        api_key=key,
        base_url=settings.base_url,
        timeout=settings.timeout_s,
        max_retries=0,
        # Clips go to the address that was named, and to no other.
        http_client=openai.DefaultAsyncHttpxClient(
            timeout=settings.timeout_s, follow_redirects=False
        ),
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


def misconfigured(fault: Fault, settings: EndpointSettings) -> UsageError:
    """What a fault says of the settings: the key, or address and model."""
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
