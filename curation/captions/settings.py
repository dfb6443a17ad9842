"""Settings of the two ways to a multimodal language model: an endpoint, or vLLM inside Ray.

No setting holds a key. Settings are written to the job's folder, to manifests and to reports; an
endpoint's key stays in the environment, and only the name of its variable is a setting.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any, Literal

import pydantic

from manifests.errors import UsageError
from manifests.settings import Settings

ENDPOINT_SETTINGS = "caption.endpoint"
"""Where a job's configuration holds `EndpointSettings`: what errors call them by."""
VLLM_SETTINGS = "caption.vllm"
"""Where a job's configuration holds `VllmSettings`."""

_SECRET_NAME = re.compile(
    r"(^|[_-])(api[_-]?key|access[_-]?key|token|secret|password|authorization|credentials?)$",
    re.IGNORECASE,
)

AudioFormat = Literal["input_audio", "audio_url"]
"""How a request carries sound: OpenAI's part with base64 WAV, or vLLM's with a data URL."""


class EndpointSettings(Settings):
    """An endpoint that speaks the OpenAI chat protocol, and how hard it is asked."""

    base_url: str = pydantic.Field(
        "http://127.0.0.1:8000/v1", description="address up to, not including, /chat/completions"
    )
    model: str = pydantic.Field(min_length=1, description="the model's name at the endpoint")
    api_key_variable: str = pydantic.Field(
        "OPENAI_API_KEY",
        description="environment variable that holds the key; may be unset for local servers",
    )
    audio_format: AudioFormat = pydantic.Field(
        "input_audio",
        description="input_audio: base64 WAV, as OpenAI has it; audio_url: data URL, as vLLM",
    )
    extra_body: dict[str, Any] = pydantic.Field(
        default_factory=dict,
        description="more fields of each request, laid over ours; null takes a field out",
    )
    temperature: float = pydantic.Field(0.0, ge=0, le=2)
    max_tokens: int = pydantic.Field(1024, ge=1, description="longest answer")

    concurrency: int = pydantic.Field(16, ge=1, le=1000, description="requests in flight, at most")
    timeout_s: float = pydantic.Field(120.0, gt=0, description="for one request as a whole")
    tries: int = pydantic.Field(5, ge=1, description="times a request is sent at most")
    backoff_s: float = pydantic.Field(
        1.0, ge=0, description="wait before the second try; doubles with each further one"
    )
    longest_wait_s: float = pydantic.Field(
        120.0,
        gt=0,
        description="longest wait before a try; an endpoint that asks for more is given up",
    )
    give_up_after: int = pydantic.Field(
        20, ge=1, description="clips in a row that the endpoint fails before the phase stops"
    )

    requests_per_minute: int | None = pydantic.Field(None, ge=1)
    tokens_per_minute: int | None = pydantic.Field(
        None, ge=1, description="tokens read and written in any 60 s"
    )
    input_price: float = pydantic.Field(0.0, ge=0, description="for a million tokens read")
    output_price: float = pydantic.Field(0.0, ge=0, description="for a million tokens written")
    max_cost: float | None = pydantic.Field(
        None,
        gt=0,
        description="what one run may cost, in the currency of the prices; requests in flight when "
        "it is reached are paid for still",
    )

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_an_address_without_credentials(cls, url: str) -> str:
        # Raised past pydantic, whose own errors show the value that was given.
        if any(mark in url for mark in "@?#"):
            raise UsageError(
                "bad_setting",
                "An address must not hold a name, a key or a query.",
                subject=f"{ENDPOINT_SETTINGS}.base_url",
                remedy="Put the key into an environment variable and name it in api_key_variable.",
            )
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it reads http://HOST:PORT/v1 or https://HOST/v1")
        return url.rstrip("/")

    @pydantic.field_validator("api_key_variable")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        # Whoever puts the key itself here by mistake must not read it again in an error or a log.
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise UsageError(
                "bad_setting",
                "It must be the upper-case name of an environment variable, not the key itself.",
                subject=f"{ENDPOINT_SETTINGS}.api_key_variable",
                remedy="For example OPENAI_API_KEY.",
            )
        return name

    @pydantic.field_validator("extra_body")
    @classmethod
    def _is_json(cls, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(fields, allow_nan=False)
        except TypeError as error:  # a date, for one, which YAML reads out of plain digits
            raise ValueError(f"it must be plain JSON ({error})") from error
        _refuse_secrets(fields, f"{ENDPOINT_SETTINGS}.extra_body", "api_key_variable names it")
        return fields

    @pydantic.model_validator(mode="after")
    def _a_limited_cost_needs_prices(self) -> EndpointSettings:
        if self.max_cost is not None and not (self.input_price or self.output_price):
            raise ValueError("max_cost needs input_price and output_price")
        return self


class VllmSettings(Settings):
    """A model that Ray Data's LLM processor runs with vLLM on the cluster's own GPUs."""

    model: str = pydantic.Field(
        min_length=1, description="folder of the weights, or their name at the hub"
    )
    tensor_parallel_size: int = pydantic.Field(1, ge=1, description="GPUs that share one model")
    concurrency: int = pydantic.Field(1, ge=1, description="copies of the model, at most")
    batch_size: int = pydantic.Field(32, ge=1, description="clips handed to the engine at a time")
    accelerator_type: str | None = pydantic.Field(
        None, description="kind of GPU, as Ray calls it (H100, A100)"
    )
    images: int = pydantic.Field(
        7, ge=0, description="pictures a clip is shown by, at most: the engine keeps room for them"
    )
    engine_kwargs: dict[str, Any] = pydantic.Field(
        default_factory=dict, description="more arguments of vLLM's engine, laid over ours"
    )
    content_format: Literal["openai", "string"] = pydantic.Field(
        "openai",
        description="openai: the chat template reads lists of parts; string: plain text only",
    )
    audio_format: AudioFormat = "input_audio"
    temperature: float = pydantic.Field(0.0, ge=0, le=2)
    max_tokens: int = pydantic.Field(1024, ge=1, description="longest answer")

    @pydantic.field_validator("engine_kwargs")
    @classmethod
    def _holds_no_secret(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        _refuse_secrets(arguments, f"{VLLM_SETTINGS}.engine_kwargs", "vLLM reads HF_TOKEN itself")
        return arguments


def _refuse_secrets(value: object, subject: str, instead: str) -> None:
    """Settings end up in files: a text under a name that keys have is refused, unsaid.

    Raises:
        UsageError: `bad_setting`.
    """
    if isinstance(value, list | tuple):
        for part in value:
            _refuse_secrets(part, subject, instead)
    if not isinstance(value, dict):
        return
    for name, part in value.items():
        if isinstance(part, str) and _SECRET_NAME.search(str(name)):
            raise UsageError(
                "bad_setting",
                f"{name} looks like a key, and settings are written to the job's folder.",
                subject=subject,
                remedy=f"Put it into an environment variable; {instead}.",
            )
        _refuse_secrets(part, subject, instead)
