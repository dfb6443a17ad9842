"""Captions by a model that Ray Data's LLM processor runs with vLLM on the cluster's own GPUs.

Clips go through one Ray dataset: conversations are built by `curation.captions.request`, as for an
endpoint; Ray's stages decode pictures and sound, apply the model's chat template and run the
engine; answers are judged by the rules of `curation.captions.client`. What was complained about
goes through a second dataset, after the first, which starts the engine once more.

Two rules differ from an endpoint's. Ray does not hand on why an answer ended: one of exactly
`max_tokens` tokens counts as cut. And vLLM has no filter that declines: only the model's own words
refuse.

How far this is tested: vLLM and a GPU are on none of the machines the tests run on. What runs there
is Ray's real processor with a scripted stage in the engine's place: conversations arrive in it as
they are sent to an endpoint, answers come back judged, complaints go through the second pass, rows
that the engine fails become errors. The configuration is validated and the processor is built from
it by Ray, with its stages and their arguments. Not run anywhere: vLLM's own reading of the
conversations, the chat templates of real models, the engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import pickle
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.captions.answer import Answer, AnswerComplaint, CaptionForm
from curation.captions.client import (
    CaptionOutcome,
    CaptionRequest,
    complaint_error,
    judge,
)
from curation.captions.endpoint import Reply
from curation.captions.request import Message, first_messages, messages_again
from curation.captions.settings import VLLM_SETTINGS, VllmSettings
from curation.engine.travel import home, hosted_function
from manifests.errors import TwinreelError, UsageError

if TYPE_CHECKING:
    from ray.data.llm import Processor, vLLMEngineProcessorConfig
    from ray.util.queue import Queue

_AHEAD = 64
"""Clips that wait decoded before Ray takes them."""
_PATIENCE_S = 1.0
"""How often the feeding thread looks whether it is still wanted."""
_NO_CPUS: dict[str, Any] = {"num_cpus": 0}
"""The job's decoding workers have taken the CPUs: what asked for one would wait for ever."""
_ENGINE_ERROR = "__inference_error__"
"""Ray's column for what a row failed with."""


MAP_ARGUMENTS = {"preprocess_map_kwargs": _NO_CPUS, "postprocess_map_kwargs": _NO_CPUS}
"""Of every processor that is built here, beside its configuration."""


def caption_all(
    requests: Iterable[CaptionRequest],
    form: CaptionForm,
    settings: VllmSettings,
    prompts: Path | None = None,
) -> Iterator[CaptionOutcome]:
    """One outcome for every request, as they come in; those asked twice come last.

    The cost is 0, and `requests` is 1 or 2. Requests are taken in another thread than the caller's.

    Args:
        requests: clips to caption; may block on decoding.
        form: what a caption looks like.
        settings: the model and its engine.
        prompts: a folder of prompts over the built-in ones.

    Raises:
        UsageError: `missing_package`.
    """
    require_vllm()
    from ray.data.llm import build_processor  # noqa: PLC0415

    processor = build_processor(
        processor_config(settings),
        preprocess=hosted_function(Preprocess(form, settings, prompts), home()),
        postprocess=hosted_function(Postprocess(form, settings), home()),
        **MAP_ARGUMENTS,
    )
    yield from caption_through(processor, requests)


def require_vllm() -> None:
    """Make sure that vLLM is installed.

    Raises:
        UsageError: `missing_package`.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "missing_package",
            "Captions on the cluster's own GPUs need the package vllm.",
            subject=VLLM_SETTINGS,
            remedy="On every node: pip install 'ray[llm]', which brings the vLLM that fits Ray.",
        )


def processor_config(settings: VllmSettings) -> vLLMEngineProcessorConfig:
    """Ray's configuration of the stages and the engine."""
    from ray.data.llm import vLLMEngineProcessorConfig  # noqa: PLC0415

    engine: dict[str, Any] = {
        "limit_mm_per_prompt": {"image": settings.images, "audio": 1},
        "tensor_parallel_size": settings.tensor_parallel_size,
        **settings.engine_kwargs,
    }
    multimodal: dict[str, Any] = {
        "enabled": True,
        "chat_template_content_format": settings.content_format,
        **_NO_CPUS,
    }
    if "trust_remote_code" in engine:
        multimodal["model_config_kwargs"] = {"trust_remote_code": engine["trust_remote_code"]}
    return vLLMEngineProcessorConfig(
        model_source=settings.model,
        engine_kwargs=engine,
        batch_size=settings.batch_size,
        concurrency=settings.concurrency,
        accelerator_type=settings.accelerator_type,
        should_continue_on_error=True,
        prepare_multimodal_stage=multimodal,
        chat_template_stage={"enabled": True, **_NO_CPUS},
        placement_group_config={"bundle_per_worker": {"CPU": 0, "GPU": 1}},
        # The engine puts pictures and sound into the text's tokens, so it makes the tokens itself.
        tokenize_stage=False,
        detokenize_stage=False,
    )


@dataclasses.dataclass(frozen=True)
class Question:
    """A clip's place in the dataset: its request and, the second time, what came of the first."""

    request: CaptionRequest
    answer: str = ""
    complaint: tuple[str, str] | None = None
    """Code and words of what is wrong with `answer`; None the first time."""
    input_tokens: int = 0
    output_tokens: int = 0

    def row(self) -> dict[str, Any]:
        """As a row: media stay bytes, which Ray stores without looking into them."""
        return {"clip_id": self.request.clip_id, "question": pickle.dumps(self)}

    def messages(
        self, form: CaptionForm, settings: VllmSettings, prompts: Path | None
    ) -> list[Message]:
        """The conversation, as an endpoint would be sent it."""
        messages = first_messages(
            self.request.media,
            self.request.facts,
            form,
            audio_format=settings.audio_format,
            prompts=prompts,
        )
        if self.complaint is None:
            return messages
        complaint = AnswerComplaint(*self.complaint)
        return messages_again(messages, self.answer, complaint, form, prompts=prompts)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A row of a question, to what Ray's stages and the engine read."""

    form: CaptionForm
    settings: VllmSettings
    prompts: Path | None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:  # noqa: D102
        question: Question = pickle.loads(row["question"])
        return {
            "messages": question.messages(self.form, self.settings, self.prompts),
            "sampling_params": {
                "temperature": self.settings.temperature,
                "max_tokens": self.settings.max_tokens,
            },
        }


@dataclasses.dataclass(frozen=True)
class Postprocess:
    """A row that the engine has answered, to its outcome or to the question to ask again."""

    form: CaptionForm
    settings: VllmSettings

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:  # noqa: D102
        question: Question = pickle.loads(row["question"])
        request, limit = question.request, self.settings.max_tokens
        written = int(row["num_generated_tokens"])
        question = dataclasses.replace(
            question,
            input_tokens=question.input_tokens + int(row["num_input_tokens"]),
            output_tokens=question.output_tokens + written,
        )
        reply = Reply(row["generated_text"], truncated=written >= limit)
        judged = judge(reply, request.facts, self.form, max_tokens=limit)
        if isinstance(judged, Answer):
            return _judged(_outcome(question, answer=judged))
        if question.complaint is None:
            complaint = (judged.code, judged.complaint)
            return _judged(dataclasses.replace(question, answer=reply.text, complaint=complaint))
        return _judged(_outcome(question, error=complaint_error(request.clip_id, judged)))


def caption_through(
    processor: Processor, requests: Iterable[CaptionRequest]
) -> Iterator[CaptionOutcome]:
    """Outcomes of a processor that was built with `Preprocess` and `Postprocess`."""
    import ray  # noqa: PLC0415

    again = []
    for judged in _pass(processor, map(Question, requests)):
        if isinstance(judged, Question):
            # Ray's store moves to disk what does not fit: pictures of a share of a million clips.
            again.append(ray.put(judged))
        else:
            yield judged
    if again:
        for judged in _pass(processor, map(ray.get, again)):
            assert isinstance(judged, CaptionOutcome)
            yield judged


def _judged(judged: CaptionOutcome | Question) -> dict[str, Any]:
    return {"judged": pickle.dumps(judged)}


def _outcome(
    question: Question, *, answer: Answer | None = None, error: TwinreelError | None = None
) -> CaptionOutcome:
    return CaptionOutcome(
        clip_id=question.request.clip_id,
        answer=answer,
        error=error,
        requests=1 if question.complaint is None else 2,
        input_tokens=question.input_tokens,
        output_tokens=question.output_tokens,
        cost=0.0,
    )


def _pass(
    processor: Processor, questions: Iterator[Question]
) -> Iterator[CaptionOutcome | Question]:
    """What becomes of the questions in one run of the engine."""
    import ray  # noqa: PLC0415

    with _feed(questions) as (queue, unanswered):
        # One long task reads the queue, so that questions are decoded while others are answered.
        dataset = ray.data.from_items([None]).map_batches(
            hosted_function(_Drain(queue), home()), batch_size=None, **_NO_CPUS
        )
        for row in processor(dataset).iter_rows():
            if row[_ENGINE_ERROR]:
                # Rows that failed pass by `Postprocess` and come as they went in.
                judged = _engine_failed(pickle.loads(row["question"]), row[_ENGINE_ERROR])
            else:
                judged = pickle.loads(row["judged"])
            # Ray may make a row again whose first copy has come already.
            if unanswered.pop(_clip_id(judged), None) is not None:
                yield judged
    # A node that dies takes along what had been read from the queue.
    yield from unanswered.values()


def _clip_id(judged: CaptionOutcome | Question) -> str:
    return judged.request.clip_id if isinstance(judged, Question) else judged.clip_id


def _engine_failed(question: Question, why: str) -> CaptionOutcome:
    error = TwinreelError(
        "caption_engine_failed",
        f"vLLM failed: {why[:300]}",
        subject=question.request.clip_id,
        remedy="Run again.",
        retryable=True,
    )
    return _outcome(question, error=error)


@contextlib.contextmanager
def _feed(
    questions: Iterator[Question],
) -> Iterator[tuple[Queue, dict[str, CaptionOutcome]]]:
    """A queue that a thread fills with the rows of the questions, None after the last.

    With it comes what clips end with that are never answered; who gets an answer takes them out.

    Raises:
        BaseException: what taking a question raised, once those before it are through.
    """
    from ray.util.queue import Full, Queue  # noqa: PLC0415

    queue = Queue(maxsize=_AHEAD, actor_options={"num_cpus": 0})
    unwanted = threading.Event()
    failures: list[BaseException] = []
    unanswered: dict[str, CaptionOutcome] = {}

    def put(row: dict[str, Any] | None) -> None:
        while not unwanted.is_set():
            with contextlib.suppress(Full):
                queue.put(row, timeout=_PATIENCE_S)
                return

    def fill() -> None:
        try:
            for question in questions:
                unanswered[_clip_id(question)] = _engine_failed(question, "its node was lost")
                put(question.row())
                if unwanted.is_set():
                    return
        except BaseException as error:
            failures.append(error)
        put(None)

    thread = threading.Thread(target=fill, name="twinreel-questions", daemon=True)
    thread.start()
    try:
        yield queue, unanswered
    finally:
        unwanted.set()
        thread.join()
        queue.shutdown(force=True)
    if failures:
        raise failures[0]


@dataclasses.dataclass(frozen=True)
class _Drain:
    """Yields what a queue brings, a row at a time, until it brings None."""

    queue: Queue

    def __call__(self, _: object) -> Iterator[dict[str, list[Any]]]:
        while (row := self.queue.get()) is not None:
            yield {name: [value] for name, value in row.items()}
        # Ray runs this again where its node is lost.
        self.queue.put(None)
