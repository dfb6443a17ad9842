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

A phase that stops sends nothing more, but waits a while for what is under way: it is paid for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from curation.captions.answer import Answer, AnswerComplaint, CaptionForm, parse_answer
from curation.captions.endpoint import Bill, Endpoint, Fault, Reply, misconfigured
from curation.captions.prompt import ClipFacts
from curation.captions.request import Message, first_messages, messages_again
from curation.captions.settings import EndpointSettings
from manifests.errors import TwinreelError
from stages.media.caption_media import ClipMedia


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
        try:
            outcome = background.result(wait=wait and given < taken)
        except Exception:
            yield from background.rest(taken - given - 1, within_s=settings.timeout_s)
            raise
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

    def rest(self, count: int, *, within_s: float) -> Iterator[CaptionOutcome]:
        """Answers to what had been sent when something stopped the phase.

        Args:
            count: how many were submitted and have not come yet.
            within_s: how long they are waited for, all together.
        """
        until_s = time.monotonic() + within_s
        for _ in range(count):
            try:
                result = self._results.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(result, CaptionOutcome) and not result.left_out:
                yield result

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
            self._phase.stop()
            self._results.put(error)


def _outcome(
    request: CaptionRequest,
    bill: Bill,
    *,
    answer: Answer | None = None,
    error: TwinreelError | None = None,
) -> CaptionOutcome:
    return CaptionOutcome(request.clip_id, answer, error, **dataclasses.asdict(bill))


class _Phase:
    """Captions clips one by one, many at a time; all of it within one event loop."""

    def __init__(self, form: CaptionForm, settings: EndpointSettings, prompts: Path | None) -> None:
        self._form = form
        self._settings = settings
        self._prompts = prompts
        self._endpoint = Endpoint(settings)
        self._answered = False
        self._stopped = False
        self._failed_in_a_row = 0

    async def close(self) -> None:
        await self._endpoint.close()

    def stop(self) -> None:
        """Send nothing more; clips without an answer are left out."""
        self._stopped = True
        self._endpoint.stop()

    async def caption(self, request: CaptionRequest) -> CaptionOutcome:
        """The clip's outcome.

        Raises:
            TwinreelError: the phase cannot go on.
        """
        bill = Bill()
        messages = first_messages(
            request.media,
            request.facts,
            self._form,
            audio_format=self._settings.audio_format,
            prompts=self._prompts,
        )
        for last in (False, True):
            reply = await self._ask(messages, bill)
            if isinstance(reply, Fault):
                return _outcome(request, bill, error=self._failure(request, reply))
            if reply is None:
                return _outcome(request, bill)
            judged = judge(reply, request.facts, self._form, max_tokens=self._settings.max_tokens)
            if isinstance(judged, Answer):
                return _outcome(request, bill, answer=judged)
            if last or reply.declined:
                return _outcome(request, bill, error=complaint_error(request.clip_id, judged))
            messages = messages_again(
                messages, reply.text, judged, self._form, prompts=self._prompts
            )
        raise AssertionError("the second answer is always judged")

    async def _ask(self, messages: list[Message], bill: Bill) -> Reply | Fault | None:
        """The reply, the last fault of all tries, or None where the cost is reached."""
        for attempt in range(1, self._settings.tries + 1):
            reply = await self._endpoint.post(messages, bill)
            if isinstance(reply, Reply):
                self._answered, self._failed_in_a_row = True, 0
            if not isinstance(reply, Fault) or reply.kind == "refused":
                return reply
            if reply.kind == "misconfigured":
                raise misconfigured(reply, self._settings)
            asked_s = reply.retry_after_s or 0.0
            if attempt == self._settings.tries or asked_s > self._settings.longest_wait_s:
                break
            if self._stopped:
                return None
            await asyncio.sleep(self._wait_s(attempt, reply))
        return reply

    def _wait_s(self, attempt: int, fault: Fault) -> float:
        if fault.retry_after_s is not None:
            # The limiter waits as long for all; what comes on top spreads them.
            spread_s = random.uniform(0, min(self._settings.backoff_s, 1.0))
            return fault.retry_after_s + spread_s
        doubled_s = self._settings.backoff_s * 2.0 ** (attempt - 1)
        return min(self._settings.longest_wait_s, doubled_s) * random.uniform(0.5, 1.0)

    def _failure(self, request: CaptionRequest, fault: Fault) -> TwinreelError:
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
