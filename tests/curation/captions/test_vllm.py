"""Captions over Ray's LLM processor: all of it but vLLM itself, for which a script stands in."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import ray

from curation.captions import vllm
from curation.captions.answer import CaptionForm
from curation.captions.client import CaptionOutcome, CaptionRequest
from curation.captions.client import caption_all as caption_by_endpoint
from curation.captions.prompt import ClipFacts
from curation.captions.settings import EndpointSettings, VllmSettings
from curation.config import DecodeSettings, EngineSettings
from curation.engine.engine import Engine
from curation.engine.tasks import Task
from manifests.errors import UsageError
from stages.media.caption_media import ClipMedia
from tests.support.misbehaviour import double
from tests.support.scripted_server import Say, ScriptedServer, play

FORM: CaptionForm = "ovi"
SETTINGS = VllmSettings(model="model", max_tokens=200, batch_size=4)
VALID = (
    "A woman in a red coat looks up and says, <S>good morning to you all<E>, then smiles. "
    "<AUDCAP>A warm, low female voice of middle age, calm and slow.<ENDAUDCAP>"
)
MALFORMED = "Just a woman."


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def clip(name: str, *, picture_bytes: int = 20) -> CaptionRequest:
    pictures = tuple(f"{name} picture {index}".ljust(picture_bytes).encode() for index in range(7))
    return CaptionRequest(
        clip_id=name,
        media=ClipMedia(jpegs=pictures, wav=f"{name} sound".encode(), duration_s=5.04),
        facts=ClipFacts(
            has_sound=True, has_speech=True, duration_s=5.04, transcript=f"good morning {name}"
        ),
    )


def clips(count: int) -> list[CaptionRequest]:
    return [clip(f"clip-{index}") for index in range(count)]


def scripted(script: Mapping[str, Sequence[str]], seen: Path) -> Any:
    """Ray's processor with our own functions, and a script where the engine would be.

    Args:
        script: what is answered by clip, first and second time; `!` fails the row, and an answer
            that ends in `...` has as many tokens as are allowed. Clips that are not named get a
            valid answer.
        seen: folder for the conversations that arrive, by clip and time.
    """
    from ray.data.llm import Processor

    stage = _engine_stage()
    return Processor(
        vllm.processor_config(SETTINGS),
        [
            stage(
                fn_constructor_kwargs={"script": dict(script), "seen": str(seen)},
                map_batches_kwargs={"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": 0},
            )
        ],
        preprocess=vllm.Preprocess(FORM, SETTINGS, None),
        postprocess=vllm.Postprocess(FORM, SETTINGS),
        **vllm.MAP_ARGUMENTS,
    )


def _engine_stage() -> Any:
    # Classes of a function reach Ray's workers by value: tests are not installed there.
    from ray.llm._internal.batch.stages.base import StatefulStage, StatefulStageUDF

    class Engine(StatefulStageUDF):
        def __init__(
            self, data_column: str, expected_input_keys: list[str], script: Any, seen: str
        ) -> None:
            super().__init__(data_column, expected_input_keys)
            self.script = script
            self.seen = Path(seen)

        async def udf(  # type: ignore[override, misc]
            self, batch: list[dict[str, Any]]
        ) -> AsyncIterator[dict[str, Any]]:
            for row in batch:
                turn = len(row["messages"]) // 3
                name = row["clip_id"]
                (self.seen / f"{name}.{turn}.json").write_text(json.dumps(row["messages"]))
                said = self.script.get(name, [VALID])[turn]
                limit = row["sampling_params"]["max_tokens"]
                yield {
                    self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN],
                    "generated_text": said,
                    "num_input_tokens": 1000,
                    "num_generated_tokens": limit if said.endswith("...") else 100,
                    "__inference_error__": "ValueError: too long" if said == "!" else "",
                }

    class EngineStage(StatefulStage):
        fn: type[StatefulStageUDF] = Engine

        def get_required_input_keys(self) -> dict[str, str]:
            return {"messages": "a conversation", "sampling_params": "how to answer"}

    return EngineStage


def by_clip(captioned: Iterator[CaptionOutcome]) -> dict[str, CaptionOutcome]:
    found: dict[str, CaptionOutcome] = {}
    for outcome in captioned:
        assert outcome.clip_id not in found
        found[outcome.clip_id] = outcome
    return found


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_clips_go_through_rays_processor_as_they_go_to_an_endpoint(tmp_path: Path) -> None:
    script = {
        "clip-1": [MALFORMED, VALID],
        "clip-2": [MALFORMED, MALFORMED],
        "clip-3": ["A woman who ...", VALID],
        "clip-4": ["!"],
        "clip-5": [MALFORMED, "!"],
    }
    processor = scripted(script, tmp_path)
    found = by_clip(vllm.caption_through(processor, iter(clips(12))))

    assert found.keys() == {f"clip-{index}" for index in range(12)}
    codes = {name: one.error.code for name, one in found.items() if one.error is not None}
    assert codes == {
        "clip-2": "caption_malformed",
        "clip-4": "caption_engine_failed",
        "clip-5": "caption_engine_failed",
    }
    assert found["clip-4"].error is not None and found["clip-4"].error.retryable
    answered = found["clip-1"]
    assert answered.answer is not None
    assert answered.answer.speech == ("good morning to you all",)
    assert (answered.requests, answered.input_tokens, answered.output_tokens) == (2, 2000, 200)
    assert (found["clip-3"].requests, found["clip-3"].output_tokens) == (2, 300)
    assert (found["clip-0"].requests, found["clip-4"].requests) == (1, 1)

    answers = {
        name: [Say(text) for text in said] for name, said in script.items() if "!" not in said
    }
    answers["clip-3"] = [Say("A woman who ...", finish_reason="length"), Say(VALID)]
    compared = [clip(name) for name in ("clip-0", "clip-1", "clip-2", "clip-3")]
    with ScriptedServer(play(answers, Say(VALID))) as server:
        endpoint = EndpointSettings(base_url=server.base_url, model="model", max_tokens=200)
        assert len(list(caption_by_endpoint(compared, FORM, endpoint))) == 4
    assert len(server.asks) == 7
    for ask in server.asks:
        arrived = json.loads((tmp_path / f"{ask.clip}.{ask.turn}.json").read_text())
        assert arrived == ask.body["messages"]


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_decoders_that_have_taken_every_cpu_keep_no_clip_waiting(tmp_path: Path) -> None:
    settings = EngineSettings(workers=4, cpus_per_worker=1)
    with Engine(settings, DecodeSettings(), "local") as engine:
        tasks = [Task(double, one, "clip") for one in range(8)]
        assert len(list(engine.run(tasks))) == 8
        while ray.available_resources().get("CPU", 0.0) > 0.0:  # type: ignore[no-untyped-call]
            time.sleep(0.1)
        script = {"clip-1": [MALFORMED, VALID]}
        found = by_clip(vllm.caption_through(scripted(script, tmp_path), iter(clips(5))))
    assert len(found) == 5
    assert all(outcome.answer is not None for outcome in found.values())


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_clips_that_a_lost_node_took_along_are_asked_for_again_later(tmp_path: Path) -> None:
    processor = scripted({}, tmp_path)

    class Losing:
        """Ray's processor, of whose rows one never arrives."""

        def __call__(self, dataset: Any) -> Any:
            return processor(dataset).filter(lambda row: b"clip-2" not in row["judged"])

    class Repeating:
        """One that gives every row twice, as after a node was lost."""

        def __call__(self, dataset: Any) -> Any:
            return processor(dataset).flat_map(lambda row: [row, row])

    assert len(by_clip(vllm.caption_through(cast("Any", Repeating()), iter(clips(4))))) == 4
    found = by_clip(vllm.caption_through(cast("Any", Losing()), iter(clips(4))))
    assert len(found) == 4
    errors = {name: one.error for name, one in found.items() if one.error is not None}
    assert errors.keys() == {"clip-2"}
    assert errors["clip-2"].code == "caption_engine_failed" and errors["clip-2"].retryable


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_source_reaches_the_caller_after_those_before_it(tmp_path: Path) -> None:
    def source() -> Iterator[CaptionRequest]:
        yield from clips(3)
        raise ValueError("no disk")

    captioned = vllm.caption_through(scripted({}, tmp_path), source())
    found = [next(captioned) for _ in range(3)]
    assert all(outcome.answer is not None for outcome in found)
    with pytest.raises(ValueError, match="no disk"):
        next(captioned)


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_closing_early_leaves_no_thread_and_frees_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def source() -> Iterator[CaptionRequest]:
        nonlocal taken
        while True:
            yield clip(f"clip-{taken}", picture_bytes=20_000)
            taken += 1

    # Else the first answer comes after the first 128 MB.
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "target_max_block_size", 500_000)
    captioned = vllm.caption_through(scripted({}, tmp_path), source())
    assert next(captioned).answer is not None
    captioned.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if "twinreel" in one.name]
    closed = taken
    deadline_s = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 4.0:  # type: ignore[no-untyped-call]
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert taken == closed


def test_no_argument_of_the_engine_holds_a_key() -> None:
    with pytest.raises(UsageError) as caught:
        VllmSettings(model="model", engine_kwargs={"hf_token": "hf_secret"})
    assert "hf_secret" not in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    VllmSettings(model="model", engine_kwargs={"max_num_batched_tokens": 4096, "seed": 1})


def test_the_configuration_says_what_the_settings_say() -> None:
    config = vllm.processor_config(
        VllmSettings(
            model="/models/omni",
            tensor_parallel_size=2,
            concurrency=3,
            batch_size=8,
            accelerator_type="H100",
            images=9,
            engine_kwargs={"max_model_len": 16384, "trust_remote_code": True},
        )
    )
    assert (config.model_source, config.batch_size, config.concurrency) == ("/models/omni", 8, 3)
    assert config.accelerator_type == "H100"
    assert config.engine_kwargs == {
        "limit_mm_per_prompt": {"image": 9, "audio": 1},
        "tensor_parallel_size": 2,
        "max_model_len": 16384,
        "trust_remote_code": True,
        "task_type": "generate",
    }
    assert config.should_continue_on_error


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_ray_builds_its_stages_from_the_configuration(tmp_path: Path) -> None:
    from ray.data.llm import build_processor

    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    settings = VllmSettings(model=str(tmp_path), engine_kwargs={"trust_remote_code": True})
    processor = build_processor(
        vllm.processor_config(settings),
        preprocess=vllm.Preprocess(FORM, settings, None),
        postprocess=vllm.Postprocess(FORM, settings),
    )
    assert processor.list_stage_names() == [
        "PrepareMultimodalStage",
        "ChatTemplateStage",
        "vLLMEngineStage",
    ]
    prepare = processor.get_stage_by_name("PrepareMultimodalStage").fn_constructor_kwargs
    assert prepare["chat_template_content_format"] == "openai"
    assert prepare["model_config_kwargs"] == {"trust_remote_code": True, "model": str(tmp_path)}
    engine = processor.get_stage_by_name("vLLMEngineStage").fn_constructor_kwargs
    assert engine["should_continue_on_error"]
    assert engine["engine_kwargs"]["limit_mm_per_prompt"] == {"image": 7, "audio": 1}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_is_named_with_what_to_install() -> None:
    with pytest.raises(UsageError) as caught:
        list(vllm.caption_all(clips(1), FORM, SETTINGS))
    assert caught.value.code == "missing_package"
    assert "ray[llm]" in str(caught.value)
