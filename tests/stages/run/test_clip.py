"""A model in its process: one clip's failure is its own, memory may come back, a device may not."""

from __future__ import annotations

import errno
import gc
import json
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import av.error
import numpy as np
import pytest

import curation.engine.worker
from curation.engine.worker import ModelWorker
from manifests.errors import TwinreelError
from stages.audio.clip_audio import ClipAudio
from stages.base.backends import Backend
from stages.base.contract import StageCall
from stages.models.device import DeviceLostError, best_device, device_fault
from stages.registry import build_clip_stage
from stages.run.clip import ClipResult, LoadedStage

Sounds = Sequence[np.ndarray[Any, Any]]


class Held:
    """Stands in for a tensor: can be watched as it goes away."""


class Tagger:
    """Says speech of everything; fails on what is listed by the first sample's value."""

    rate_hz = 16_000
    labels: ClassVar[Sequence[str]] = ("Speech",)
    held: ClassVar[list[weakref.ref[Held]]] = []
    alive: ClassVar[list[int]] = []

    def tag(self, sounds: Sounds) -> np.ndarray[Any, Any]:
        gc.collect()
        self.alive.append(sum(one() is not None for one in self.held))
        big = Held()
        self.held.append(weakref.ref(big))
        firsts = [float(sound[0]) for sound in sounds]
        if 1.0 in firsts:
            raise ValueError("this one is no sound")
        if 2.0 in firsts:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if 3.0 in firsts:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if 4.0 in firsts:
            return np.ones((len(sounds) - 1, 1), np.float32)
        if 5.0 in firsts:
            raise OSError(errno.ENOSPC, "the disk is full")
        if 6.0 in firsts:
            raise av.error.PermissionError(errno.EPERM, "a decoder's way to say no")
        return np.ones((len(sounds), 1), np.float32)


@pytest.fixture
def call() -> StageCall:
    parameters = {"backend": f"{__name__}:Tagger", "enabled": True}
    stage = build_clip_stage("audio_class", parameters, None)
    return StageCall("audio_class", json.dumps(parameters), stage.backend, "fingerprint")


def sounds(*firsts: float) -> list[ClipAudio]:
    return [ClipAudio("", 0.0, 0.1, np.full(1_600, first, np.float32)) for first in firsts]


def codes(found: Sequence[ClipResult | TwinreelError]) -> list[str]:
    return [one.code if isinstance(one, TwinreelError) else one.struct["status"] for one in found]


@pytest.mark.parametrize(
    ("first", "code", "retryable"),
    [
        (1.0, "model_failed", False),
        (2.0, "model_out_of_memory", True),
        (4.0, "model_failed", False),
        (5.0, "model_failed", True),
        (6.0, "model_failed", False),
    ],
)
def test_a_clip_that_breaks_a_batch_costs_itself(
    call: StageCall, first: float, code: str, retryable: bool
) -> None:
    found = LoadedStage(call).infer(sounds(0.0, first, 0.5))
    assert codes(found) == ["ok", code, "ok"]
    assert isinstance(found[1], TwinreelError) and found[1].retryable == retryable


def test_what_a_failed_batch_held_is_gone_when_its_clips_are_tried_alone(call: StageCall) -> None:
    Tagger.alive.clear()
    Tagger.held.clear()
    LoadedStage(call).infer(sounds(0.0, 2.0, 0.5))
    assert Tagger.alive == [0, 0, 0, 0]


def test_a_lost_device_ends_the_process_and_blames_no_clip(
    call: StageCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceLostError):
        LoadedStage(call).infer(sounds(0.0, 3.0))
    ends: list[int] = []
    monkeypatch.setattr(curation.engine.worker.os, "_exit", ends.append)
    ModelWorker(call).infer(*sounds(3.0))
    assert ends == [1]


def test_a_model_that_cannot_be_had_says_why(call: StageCall) -> None:
    gone = StageCall("audio_class", call.parameters, Backend("no.such.module:Tagger"), "f")
    worker = ModelWorker(gone)
    error = worker.ready()
    assert error is not None and error.code == "unknown_backend"
    with pytest.raises(TwinreelError) as caught:
        worker.infer(*sounds(0.0))
    assert caught.value.code == "unknown_backend"


def test_faults_are_told_apart() -> None:
    import torch

    assert device_fault(torch.OutOfMemoryError("CUDA out of memory.")) == "memory"
    assert device_fault(MemoryError()) == "memory"
    assert device_fault(RuntimeError("CUDA failed with error out of memory")) == "memory"
    assert device_fault(RuntimeError("cuBLAS failed with status CUBLAS_STATUS_x")) == "device"
    assert device_fault(RuntimeError("shapes do not match")) is None
    assert device_fault(ValueError("no CUDA")) is None
    assert best_device() == ("cuda" if torch.cuda.is_available() else "cpu")
