"""What a model's failure says of the device it runs on."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Literal

_DEVICE_WORDS = ("cuda", "cublas", "cudnn", "hip error", "nccl")


class DeviceLostError(Exception):
    """The device cannot be used by this process any more; only a new process can go on."""


def device_fault(error: Exception) -> Literal["memory", "device"] | None:
    """Whether it was not the clip's fault: memory had run out, or the device is lost.

    After a CUDA error (an illegal access, a failed launch) every further call of the process fails,
    whatever it is about. CTranslate2 says the same things as plain RuntimeErrors.
    """
    if isinstance(error, MemoryError):
        return "memory"
    said = str(error).lower()
    if isinstance(error, RuntimeError):
        if "out of memory" in said:  # torch.OutOfMemoryError is a RuntimeError
            return "memory"
        if any(word in said for word in _DEVICE_WORDS):
            return "device"
    return None


def free_memory() -> None:
    """Give back what torch holds of the device's memory without using it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def full_convolutions() -> Iterator[None]:
    """No TensorFloat-32 in convolutions: cuDNN's default keeps ten bits, too few for 1e-4.

    Half precision is no slower for it.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def best_device() -> str:
    """`cuda` where torch is installed and sees a GPU, else `cpu`."""
    try:
        import torch  # noqa: PLC0415 - only processes that hold a model pay for it
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"
