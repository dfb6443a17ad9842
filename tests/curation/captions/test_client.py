"""Captions from an endpoint: every fault ends as the rules say, and no clip is lost."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from curation.captions.answer import CaptionForm
from curation.captions.client import CaptionOutcome, CaptionRequest, caption_all
from curation.captions.limits import Admission, CostMeter, RateLimiter
from curation.captions.prompt import ClipFacts
from curation.captions.settings import EndpointSettings
from manifests.errors import TwinreelError, UsageError
from manifests.settings import validate
from stages.media.caption_media import ClipMedia
from tests.support.scripted_server import (
    Ask,
    Cut,
    Fail,
    Garble,
    Say,
    Script,
    ScriptedServer,
    Step,
    play,
    well_formed,
)

FORM: CaptionForm = "ovi"
KEY_VARIABLE = "TWINREEL_TEST_KEY"
KEY = "sk-test-7Hq2/k+Zw9=very.secret"
VALID = Say(
    "A woman in a red coat looks up and says, <S>good morning to you all<E>, then smiles. "
    "<AUDCAP>A warm, low female voice of middle age, calm and slow.<ENDAUDCAP>"
)
MALFORMED = Say("Just a woman.")


def clip(name: str, *, wav: bytes | None = b"RIFF") -> CaptionRequest:
    return CaptionRequest(
        clip_id=name,
        media=ClipMedia(
            jpegs=tuple(f"{name} picture {index}".encode() for index in range(7)),
            wav=wav,
            duration_s=5.04,
        ),
        facts=ClipFacts(
            has_sound=wav is not None,
            has_speech=wav is not None,
            duration_s=5.04,
            transcript=f"good morning {name}",
        ),
    )


def clips(count: int) -> list[CaptionRequest]:
    return [clip(f"clip-{index}") for index in range(count)]


def settings(server: ScriptedServer | str, **changes: Any) -> EndpointSettings:
    values: dict[str, Any] = {
        "base_url": server if isinstance(server, str) else server.base_url,
        "model": "scripted",
        "api_key_variable": KEY_VARIABLE,
        "backoff_s": 0.01,
        "timeout_s": 10,
        "tries": 3,
    }
    return validate(EndpointSettings, values | changes)


def outcomes(
    script: Script | Step, requests: Iterable[CaptionRequest], **changes: Any
) -> dict[str, CaptionOutcome]:
    """Outcomes by clip; a clip with two of them fails the test."""
    with ScriptedServer(script if callable(script) else play({}, script)) as server:
        return by_clip(caption_all(requests, FORM, settings(server, **changes)))


def by_clip(captioned: Iterable[CaptionOutcome]) -> dict[str, CaptionOutcome]:
    found: dict[str, CaptionOutcome] = {}
    for outcome in captioned:
        assert outcome.clip_id not in found
        found[outcome.clip_id] = outcome
    return found


def only(script: Script | Step, **changes: Any) -> CaptionOutcome:
    return outcomes(script, clips(1), **changes)["clip-0"]


def failure(outcome: CaptionOutcome) -> TwinreelError:
    assert outcome.error is not None and outcome.answer is None
    assert outcome.error.subject == outcome.clip_id
    return outcome.error


def client_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "twinreel" in thread.name]


def test_a_clip_is_shown_by_seven_pictures_and_its_sound() -> None:
    with ScriptedServer(play({}, VALID)) as server:
        [outcome] = caption_all(clips(1), FORM, settings(server))
    [ask] = server.asks
    assert ask.images == clip("clip-0").media.jpegs
    assert ask.sound == b"RIFF"
    assert [message["role"] for message in ask.body["messages"]] == ["system", "user"]
    kinds = [part["type"] for part in ask.body["messages"][1]["content"]]
    assert kinds == ["text", *["image_url"] * 7, "input_audio"]
    assert outcome.answer is not None
    assert outcome.answer.speech == ("good morning to you all",)
    assert (outcome.requests, outcome.input_tokens, outcome.output_tokens) == (1, 1000, 100)


def test_sound_can_go_as_a_data_url() -> None:
    with ScriptedServer(play({}, VALID)) as server:
        list(caption_all(clips(1), FORM, settings(server, audio_format="audio_url")))
    part = server.asks[0].body["messages"][1]["content"][-1]
    assert part["audio_url"]["url"].startswith("data:audio/wav;base64,")
    assert server.asks[0].sound == b"RIFF"


def test_a_clip_without_sound_is_asked_without_sound() -> None:
    with ScriptedServer(play({}, Say("A dog sleeps on a mat."))) as server:
        list(caption_all([clip("clip-0", wav=None)], FORM, settings(server)))
    assert server.asks[0].sound is None


@pytest.mark.parametrize("form", ["ovi", "ovi-960", "ovi-audio"])
@pytest.mark.parametrize("has_speech", [True, False, None])
@pytest.mark.parametrize("has_sound", [True, False])
def test_every_form_is_asked_and_understood(
    form: CaptionForm, has_speech: bool | None, has_sound: bool
) -> None:
    media = ClipMedia(
        jpegs=() if form == "ovi-audio" else (b"one", b"two"),
        wav=b"RIFF" if has_sound or form == "ovi-audio" else None,
        duration_s=5.04,
    )
    facts = ClipFacts(has_sound, has_speech and has_sound, 5.04, "Hello there.", stills=2)
    with ScriptedServer(play({}, well_formed)) as server:
        [outcome] = caption_all([CaptionRequest("a", media, facts)], form, settings(server))
    assert outcome.answer is not None, outcome.error
    assert outcome.answer.speech == (("Hello there.",) if has_speech and has_sound else ())


def test_more_fields_go_over_ours_and_null_takes_one_out() -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 70, "top_k": 1}
    with ScriptedServer(play({}, VALID)) as server:
        list(caption_all(clips(1), FORM, settings(server, extra_body=extra)))
    body = dict(server.asks[0].body)
    del body["messages"]
    assert body == {
        "model": "scripted",
        "temperature": 0.0,
        "max_completion_tokens": 70,
        "top_k": 1,
    }


@pytest.mark.parametrize(
    "fault",
    [
        *(Fail(status) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
        Cut(),
        Garble(),
        Garble('{"choices": []}'),
        Garble('{"error": {"message": "overloaded"}}'),
        Garble("plain words"),
    ],
    ids=str,
)
def test_a_passing_fault_is_tried_again(fault: Step) -> None:
    outcome = only(play({"clip-0": [fault, VALID]}, VALID))
    assert outcome.answer is not None
    assert outcome.requests == 2


def test_a_request_that_takes_too_long_is_tried_again() -> None:
    slow = Say(VALID.text, delay_s=8)
    outcome = only(play({"clip-0": [slow, VALID]}, VALID), timeout_s=1.5)
    assert outcome.answer is not None
    assert outcome.requests == 2


@pytest.mark.parametrize("fault", [Fail(500), Fail(429), Cut(), Garble()], ids=str)
def test_a_clip_whose_tries_are_used_up_is_asked_again_by_a_later_run(fault: Step) -> None:
    outcome = only(fault, tries=3)
    assert failure(outcome).code == "caption_endpoint_failed"
    assert failure(outcome).retryable
    assert outcome.requests == 3


def test_a_connection_refused_is_a_passing_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    [outcome] = caption_all(clips(1), FORM, settings(f"http://127.0.0.1:{port}/v1"))
    assert failure(outcome).code == "caption_endpoint_failed"
    assert outcome.requests == 3


def test_waits_grow_with_each_try() -> None:
    start_s = time.monotonic()
    only(Fail(500), tries=4, backoff_s=0.2)
    # 0.2 + 0.4 + 0.8 s, each shortened to half at most.
    assert 0.7 <= time.monotonic() - start_s < 10


def test_retry_after_holds_back_every_request() -> None:
    times_s: dict[str, list[float]] = collections.defaultdict(list)

    def script(ask: Ask) -> Step:
        times_s[ask.clip].append(time.monotonic())
        if ask.clip == "clip-0" and ask.attempt == 0:
            return Fail(429, retry_after="1")
        return VALID

    found = outcomes(script, clips(3), concurrency=1)
    assert all(outcome.answer is not None for outcome in found.values())
    refused_s = times_s["clip-0"][0]
    later_s = [at_s - refused_s for times in times_s.values() for at_s in times[-1:]]
    assert min(later_s) >= 0.95


def test_an_endpoint_that_asks_for_too_long_a_wait_is_not_waited_for() -> None:
    outcome = only(Fail(429, retry_after="3600"), longest_wait_s=0.2)
    assert failure(outcome).retryable
    assert outcome.requests == 1


def test_an_answer_out_of_form_is_complained_about_once() -> None:
    with ScriptedServer(play({"clip-0": [MALFORMED, VALID]}, VALID)) as server:
        [outcome] = caption_all(clips(1), FORM, settings(server))
    assert outcome.answer is not None
    assert (outcome.requests, outcome.input_tokens, outcome.output_tokens) == (2, 2000, 200)
    first, second = (ask.body["messages"] for ask in server.asks)
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": MALFORMED.text}
    assert second[3]["role"] == "user" and second[3]["content"]


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (MALFORMED, "caption_malformed"),
        (Say(VALID.text, finish_reason="length"), "caption_truncated"),
        (Say("  "), "caption_empty"),
        (Say("I'm sorry, but I cannot help with that request."), "caption_refused"),
    ],
    ids=["malformed", "truncated", "empty", "refused in words"],
)
def test_an_answer_that_is_not_mended_is_a_failure_for_good(step: Say, code: str) -> None:
    outcome = only(step)
    assert failure(outcome).code == code
    assert not failure(outcome).retryable
    assert outcome.requests == 2


@pytest.mark.parametrize(
    "step",
    [Say(refusal="No."), Say("", finish_reason="content_filter")],
    ids=["refusal", "content filter"],
)
def test_a_declared_refusal_is_not_asked_again(step: Say) -> None:
    outcome = only(step)
    assert failure(outcome).code == "caption_refused"
    assert not failure(outcome).retryable
    assert outcome.requests == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_its_own_clips_failure(status: int) -> None:
    found = outcomes(play({"clip-3": [Fail(status)]}, VALID), clips(6), concurrency=1)
    assert failure(found["clip-3"]).code == "caption_request_refused"
    assert not failure(found["clip-3"]).retryable
    assert found["clip-3"].requests == 1
    assert sum(outcome.answer is not None for outcome in found.values()) == 5


def test_a_refused_request_before_any_answer_may_be_the_settings_fault() -> None:
    assert failure(only(Fail(400))).retryable


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_stops_the_phase_and_marks_no_clip(status: int) -> None:
    with pytest.raises(UsageError) as caught:
        outcomes(Fail(status), clips(50))
    assert caught.value.code == "caption_key_refused"
    assert caught.value.subject == "caption.endpoint.api_key_variable"
    assert f"{KEY_VARIABLE}. It is not set." in str(caught.value)


def test_a_wrong_model_stops_the_phase_and_names_it() -> None:
    with (
        ScriptedServer(play({}, VALID), model="another") as server,
        pytest.raises(UsageError) as caught,
    ):
        list(caption_all(clips(5), FORM, settings(server)))
    assert caught.value.code == "caption_model_not_found"
    assert "The model `scripted` does not exist" in str(caught.value)


def test_a_wrong_address_stops_the_phase_and_names_it() -> None:
    with ScriptedServer(play({}, VALID)) as server, pytest.raises(UsageError) as caught:
        address = server.base_url.removesuffix("/v1")
        list(caption_all(clips(5), FORM, settings(address)))
    assert "caption.endpoint.base_url" in str(caught.value)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_clips_go_to_no_other_address_than_the_one_that_was_named(status: int) -> None:
    with ScriptedServer(play({}, VALID)) as other:
        elsewhere = Fail(status, location=f"{other.base_url}/chat/completions")
        with pytest.raises(UsageError) as caught:
            outcomes(elsewhere, clips(3))
    assert caught.value.code == "caption_model_not_found"
    assert other.asks == []


def test_answers_that_are_under_way_when_the_phase_stops_are_kept() -> None:
    refused = threading.Event()

    def script(ask: Ask) -> Step:
        if ask.clip == "clip-0":
            while len(server.asks) < 16:
                time.sleep(0.01)
            refused.set()
            return Fail(401)
        refused.wait()
        # Until the client has read the refusal.
        return dataclasses.replace(VALID, delay_s=1.5)

    found = []
    with ScriptedServer(script) as server:
        with pytest.raises(UsageError) as caught:
            for outcome in caption_all(clips(100), FORM, settings(server, concurrency=16)):
                found.append(outcome)
        asked = len(server.asks)
    assert caught.value.code == "caption_key_refused"
    assert asked == 16
    assert len(found) == 15
    assert all(outcome.answer is not None for outcome in found)


def test_an_endpoint_that_fails_every_clip_stops_the_phase() -> None:
    found = []
    with ScriptedServer(play({}, Fail(500))) as server, pytest.raises(TwinreelError) as caught:
        for outcome in caption_all(clips(1000), FORM, settings(server, give_up_after=5)):
            found.append(outcome)
    assert caught.value.code == "caption_endpoint_down"
    assert caught.value.retryable
    assert len(found) == 4
    assert all(failure(outcome).retryable for outcome in found)
    assert len(server.asks) < 100


def test_clips_that_fail_now_and_then_do_not_stop_the_phase() -> None:
    bad = {f"clip-{index}": [Fail(500)] for index in range(0, 40, 2)}
    found = outcomes(play(bad, VALID), clips(40), concurrency=1, give_up_after=3)
    assert sum(outcome.error is not None for outcome in found.values()) == 20


def test_a_thousand_clips_with_a_tenth_of_faults_lose_none() -> None:
    faults: list[Step] = [
        Fail(408),
        Fail(429, retry_after="0.01"),
        Fail(500),
        Fail(503),
        Cut(),
        Garble(),
        Fail(400),
        Say(VALID.text, finish_reason="length"),
        Say(refusal="No."),
        MALFORMED,
    ]
    dice = random.Random(7)
    bad: dict[str, list[Step]] = {
        f"clip-{index}": [dice.choice(faults), VALID]
        # The first 16 are good: with an answer before it every 400 is a clip's own fault.
        for index in range(16, 1000)
        if dice.random() < 0.1
    }
    assert len(bad) > 80
    found = outcomes(play(bad, VALID), clips(1000), concurrency=16)
    assert found.keys() == {f"clip-{index}" for index in range(1000)}
    ended = collections.Counter(
        "ok" if outcome.answer is not None else failure(outcome).code for outcome in found.values()
    )
    for_good = [steps[0] for steps in bad.values() if _is_for_good(steps[0])]
    assert ended == {
        "ok": 1000 - len(for_good),
        "caption_request_refused": for_good.count(Fail(400)),
        "caption_refused": for_good.count(Say(refusal="No.")),
    }
    assert not any(failure(one).retryable for one in found.values() if one.error is not None)


def _is_for_good(step: Step) -> bool:
    return step in (Fail(400), Say(refusal="No."))


def test_as_many_requests_as_allowed_are_in_flight_and_never_more() -> None:
    with ScriptedServer(play({}, Say(VALID.text, delay_s=0.2))) as server:
        found = list(caption_all(clips(48), FORM, settings(server, concurrency=6)))
    assert len(found) == 48
    assert server.most_in_flight == 6


def test_clips_are_taken_only_as_they_are_needed() -> None:
    taken = 0

    def source() -> Iterator[CaptionRequest]:
        nonlocal taken
        for request in clips(100):
            taken += 1
            yield request

    with ScriptedServer(play({}, VALID)) as server:
        captioned = caption_all(source(), FORM, settings(server, concurrency=4))
        for given in range(1, 101):
            next(captioned)
            assert taken <= given + 4 + 1
        assert list(captioned) == []


def test_answers_come_while_the_next_clip_is_still_decoded() -> None:
    seen: list[str] = []

    def source() -> Iterator[CaptionRequest]:
        yield clip("clip-0")
        # Decoding takes longer than the answer, which must be committed by the time of the third.
        time.sleep(1.5)
        yield clip("clip-1")
        assert seen == ["clip-0"]
        yield clip("clip-2")

    with ScriptedServer(play({}, VALID)) as server:
        for outcome in caption_all(source(), FORM, settings(server)):
            seen.append(outcome.clip_id)
    assert len(seen) == 3


def test_a_reached_cost_leaves_the_rest_without_captions() -> None:
    with ScriptedServer(play({}, VALID)) as server:
        found = by_clip(
            caption_all(
                clips(100),
                FORM,
                # 1,000 tokens in and 100 out: 0.004 a clip.
                settings(server, concurrency=1, input_price=3, output_price=10, max_cost=0.04),
            )
        )
    done = [outcome for outcome in found.values() if outcome.answer is not None]
    left = [outcome for outcome in found.values() if outcome.left_out]
    assert len(done) == len(server.asks) == 10
    assert sum(outcome.cost for outcome in done) == pytest.approx(0.04)
    assert left and all(outcome.error is None and outcome.cost == 0 for outcome in left)
    assert len(found) == len(done) + len(left) < 20


def test_a_cost_that_the_last_clip_reaches_leaves_nothing_out() -> None:
    found = outcomes(VALID, clips(10), concurrency=1, input_price=4, max_cost=0.04)
    assert all(outcome.answer is not None for outcome in found.values())


def test_a_cost_is_not_limited_blindly() -> None:
    with pytest.raises(UsageError) as caught:
        outcomes(Say(VALID.text, usage=False), clips(3), input_price=3, max_cost=1)
    assert caught.value.code == "caption_cost_unknown"
    assert only(Say(VALID.text, usage=False)).answer is not None


@pytest.mark.parametrize("status", [400, 429, 500])
def test_the_key_is_sent_and_never_told(
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    echo = Fail(status, "you sent", echo_key=True)
    with (
        caplog.at_level(logging.DEBUG),
        ScriptedServer(play({"clip-1": [echo]}, VALID), key=KEY) as server,
    ):
        found = by_clip(caption_all(clips(3), FORM, settings(server)))
    assert server.asks[0].authorization == f"Bearer {KEY}"
    assert found["clip-0"].answer is not None
    assert "you sent: Bearer ***" in str(failure(found["clip-1"]))
    printed = "".join(capfd.readouterr())
    for told in (repr(found), str(found["clip-1"].error), caplog.text, printed):
        assert KEY not in told


def test_a_refused_key_is_not_told_either(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with (
        caplog.at_level(logging.DEBUG),
        ScriptedServer(play({}, VALID), key="another") as server,
        pytest.raises(UsageError) as caught,
    ):
        list(caption_all(clips(3), FORM, settings(server)))
    chain: BaseException | None = caught.value
    while chain is not None:
        assert KEY not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__
    assert "***" in str(caught.value)
    assert "It is not set" not in str(caught.value)
    assert KEY not in caplog.text


def test_a_key_no_header_can_carry_is_refused_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ключ")
    with pytest.raises(UsageError) as caught:
        only(VALID)
    assert caught.value.code == "caption_key_refused"
    assert "ключ" not in str(caught.value)


def test_closing_early_leaves_no_thread_and_no_request() -> None:
    slow = Say(VALID.text, delay_s=10)
    with ScriptedServer(play({"clip-0": [VALID]}, slow)) as server:
        captioned = caption_all(clips(100), FORM, settings(server, concurrency=4))
        assert next(captioned).clip_id == "clip-0"
        assert client_threads() == ["twinreel-captions"]
        start_s = time.monotonic()
        captioned.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start_s < 5
        assert client_threads() == []
        # What was sent by then may still be on its way.
        time.sleep(0.3)
        asked = len(server.asks)
        time.sleep(0.3)
        assert len(server.asks) == asked <= 5


def test_an_interrupt_while_waiting_ends_it_cleanly() -> None:
    interrupt = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    # A shell starts what runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            outcomes(Say(VALID.text, delay_s=8), clips(3))
    finally:
        signal.signal(signal.SIGINT, before)
    assert client_threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_source_ends_it_cleanly(error: type[BaseException]) -> None:
    def source() -> Iterator[CaptionRequest]:
        yield from clips(2)
        raise error

    with pytest.raises(error):
        outcomes(VALID, source())
    assert client_threads() == []


def test_an_error_in_asking_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("curation.captions.client.judge", broken)
    with pytest.raises(RuntimeError, match="broken"):
        outcomes(VALID, clips(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", f"http://me:{KEY}@127.0.0.1/v1"),
        ("base_url", f"http://127.0.0.1/v1?key={KEY}"),
        ("api_key_variable", KEY),
    ],
)
def test_a_key_among_the_settings_is_refused_untold(field: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(EndpointSettings, {"model": "m", field: value})
    assert caught.value.subject == f"caption.endpoint.{field}"
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "127.0.0.1:8000"),
        ("max_cost", 3.0),
        ("extra_body", {"since": object()}),
        ("extra_body", {"router": [{"api_key": "sk-secret"}]}),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        validate(EndpointSettings, {"model": "m", field: value})
    assert caught.value.code == "bad_setting"


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def most_in_a_minute(admissions: list[Admission], weigh: Callable[[Admission], float]) -> float:
    return max(
        sum(weigh(other) for other in admissions if 0 <= other.at_s - one.at_s < 60)
        for one in admissions
    )


def limited(clock: FakeClock, **limits: Any) -> RateLimiter:
    return RateLimiter(**limits, clock=clock, sleep=clock.sleep)


def test_no_minute_sees_more_requests_than_allowed() -> None:
    clock = FakeClock()
    limiter = limited(clock, requests_per_minute=30)

    async def ask() -> list[Admission]:
        admissions = []
        for _ in range(100):
            clock.now_s += 0.5
            admissions.append(await limiter.admit())
        return admissions

    admissions = asyncio.run(ask())
    assert most_in_a_minute(admissions, lambda _: 1) == 30
    # 30 each minute: the 100th goes in the fourth.
    assert 180 <= admissions[-1].at_s < 240


def test_no_minute_sees_more_tokens_than_allowed_once_their_number_is_known() -> None:
    clock = FakeClock()
    limiter = limited(clock, tokens_per_minute=10_000, first_tokens=2000)

    async def ask() -> list[Admission]:
        admissions = []
        for _ in range(60):
            admission = await limiter.admit()
            clock.now_s += 1.0
            limiter.settle(admission, 1000)
            admissions.append(admission)
        return admissions

    admissions = asyncio.run(ask())
    assert most_in_a_minute(admissions, lambda one: one.tokens) == 10_000
    # Ten each minute: the sixtieth goes in the sixth.
    assert 300 <= admissions[-1].at_s < 360


def test_tokens_that_become_known_after_their_minute_count_no_more() -> None:
    clock = FakeClock()
    limiter = limited(clock, tokens_per_minute=1000, first_tokens=400)

    async def ask() -> float:
        slow = await limiter.admit()
        clock.now_s = 100
        await limiter.admit()
        limiter.settle(slow, 500)
        await limiter.admit()
        return clock.now_s

    assert asyncio.run(ask()) == 100


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    clock = FakeClock()
    limiter = limited(clock, tokens_per_minute=100, first_tokens=5000)

    async def ask() -> list[float]:
        return [(await limiter.admit()).at_s for _ in range(3)]

    assert asyncio.run(ask()) == [0, 60, 120]


def test_requests_that_were_not_served_give_their_tokens_back() -> None:
    clock = FakeClock()
    limiter = limited(clock, tokens_per_minute=4000, first_tokens=4000)

    async def ask() -> float:
        for _ in range(5):
            limiter.settle(await limiter.admit(), 0)
        return clock.now_s

    assert asyncio.run(ask()) == 0


def test_a_hold_holds_everyone_and_ends() -> None:
    clock = FakeClock()
    limiter = limited(clock)

    async def ask() -> list[float]:
        first = await limiter.admit()
        limiter.hold(30)
        limiter.hold(10)
        return [first.at_s, *[(await limiter.admit()).at_s for _ in range(2)]]

    assert asyncio.run(ask()) == [0, 30, 30]


def test_cost_counts_both_prices_up_to_the_limit() -> None:
    meter = CostMeter(input_price=2.0, output_price=8.0, max_cost=0.01)
    assert meter.charge(1000, 500) == pytest.approx(0.006)
    assert not meter.reached
    meter.charge(2000, 0)
    assert meter.cost == pytest.approx(0.01)
    meter.charge(1, 0)
    assert meter.reached


def test_without_a_limit_no_cost_is_reached() -> None:
    meter = CostMeter(input_price=1e6)
    meter.charge(10**9, 0)
    assert not meter.reached
