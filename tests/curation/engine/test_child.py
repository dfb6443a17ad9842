"""A decoder that crashes, hangs or eats memory costs its own call, never the next."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import av.error
import pytest

from curation.engine.child import KillableChild
from manifests.errors import MediaError, UsageError, system_refuses

HERE = "tests.support.misbehaviour"


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
        ("be_killed", "decoder_killed"),
        ("be_terminated", "decoder_killed"),
        ("run_out_of_disk", "system_refused"),
        ("lack_a_package", "system_refused"),
    ],
)
def test_misbehaviour_is_an_error_and_the_next_call_works(
    child: KillableChild, function: str, code: str
) -> None:
    with pytest.raises(MediaError) as caught:
        child.call_by_name(f"{HERE}:{function}", 0, subject="clip.mp4")
    assert caught.value.code == code
    may_pass = {"decoder_hung", "decoder_killed", "system_refused"}
    assert caught.value.retryable == (code in may_pass)
    assert child.call_by_name(f"{HERE}:double", 21, subject="clip.mp4") == 42


def test_a_child_that_never_starts_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    child = KillableChild(stall_s=20, memory_mb=700)
    for _ in range(2):
        with pytest.raises(MediaError) as caught:
            child.call_by_name(f"{HERE}:double", 21, subject="clip.mp4")
        assert (caught.value.code, caught.value.retryable) == ("decoder_not_started", True)
    monkeypatch.undo()
    assert child.call_by_name(f"{HERE}:double", 21, subject="clip.mp4") == 42
    child.close()


def test_a_child_that_starts_slowly_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(1.5); double = float")
    monkeypatch.syspath_prepend(str(tmp_path))
    child = KillableChild(stall_s=1, memory_mb=700)
    assert child.call_by_name("slow_to_import:double", 21, subject="clip.mp4") == 21
    child.close()
    monkeypatch.setattr("curation.engine.child._START_PATIENCE_S", 0.0)
    with pytest.raises(MediaError) as caught:
        child.call_by_name("slow_to_import:double", 21, subject="clip.mp4")
    assert (caught.value.code, caught.value.retryable) == ("decoder_not_started", True)


def test_what_a_decoder_means_by_an_error_is_not_taken_for_the_systems() -> None:
    assert system_refuses(OSError(errno.ENOMEM, "no memory"))
    assert system_refuses(av.error.OSError(errno.ENOSPC, "full", None))
    # FFmpeg says so of sizes in damaged headers.
    assert not system_refuses(av.error.OSError(errno.ENOMEM, "no memory", None))
    assert not system_refuses(ValueError("what is this"))


def test_a_crash_names_the_file_and_the_signal(child: KillableChild) -> None:
    with pytest.raises(MediaError, match=r"clip\.mp4: .*SIGSEGV"):
        child.call_by_name(f"{HERE}:segfault", 0, subject="clip.mp4")


def test_slow_work_that_reports_is_left_alone(child: KillableChild) -> None:
    assert child.call_by_name(f"{HERE}:slow_but_moving", 4.0, subject="clip.mp4") == "done"


def test_typed_errors_come_through_whole(child: KillableChild) -> None:
    with pytest.raises(UsageError) as caught:
        child.call_by_name(f"{HERE}:raise_usage_error", 0, subject="clip.mp4")
    assert (caught.value.code, caught.value.remedy) == ("bad_setting", "Do otherwise.")
