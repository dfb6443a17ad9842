"""A decoder that crashes, hangs or eats memory costs its own call, never the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manifests.errors import MediaError, UsageError
from stages.child import KillableChild

HERE = "tests.stages.misbehaviour"


@pytest.fixture
def child() -> Iterator[KillableChild]:
    child = KillableChild(stall_s=2.5, memory_mb=700)
    yield child
    child.close()


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("segfault", "decoder_crashed"),
        ("hang", "decoder_hung"),
        ("eat_memory", "decoder_out_of_memory"),
        ("leave", "decoder_crashed"),
        ("raise_value_error", "unexpected_error"),
    ],
)
def test_misbehaviour_is_an_error_and_the_next_call_works(
    child: KillableChild, function: str, code: str
) -> None:
    with pytest.raises(MediaError) as caught:
        child.call(f"{HERE}:{function}", 0, subject="clip.mp4")
    assert caught.value.code == code
    assert child.call(f"{HERE}:double", 21, subject="clip.mp4") == 42


def test_a_crash_names_the_file_and_the_signal(child: KillableChild) -> None:
    with pytest.raises(MediaError, match=r"clip\.mp4: .*SIGSEGV"):
        child.call(f"{HERE}:segfault", 0, subject="clip.mp4")


def test_slow_work_that_reports_is_left_alone(child: KillableChild) -> None:
    assert child.call(f"{HERE}:slow_but_moving", 4.0, subject="clip.mp4") == "done"


def test_typed_errors_come_through_whole(child: KillableChild) -> None:
    with pytest.raises(UsageError) as caught:
        child.call(f"{HERE}:raise_usage_error", 0, subject="clip.mp4")
    assert (caught.value.code, caught.value.remedy) == ("bad_setting", "Do otherwise.")
