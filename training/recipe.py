"""A recipe: everything that a training run is told, in YAML, validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.settings import (
    Settings,
    did_you_mean,
    merge,
    parse_assignment,
    read_settings,
    validate,
)
from training.codecs.log_mel import LogMelSettings
from training.codecs.log_mel_pca import LogMelPcaSettings
from training.codecs.mmaudio import MmAudioSettings
from training.codecs.pca import PcaSettings
from training.codecs.pixels import PixelPatchesSettings
from training.codecs.wan import WanSettings
from training.generate.solver import SolverName
from training.models.family import ModelSettings
from training.models.lora import LoraSettings
from training.models.registry import find_family
from training.objective.flow import Prediction
from training.objective.tasks import TaskName
from training.text.byte_encoder import ByteTextSettings
from training.text.umt5 import Umt5Settings
from training.text.word_encoder import WordTextSettings


class VideoSettings(Settings):
    """Video as the model sees it."""

    codec: Annotated[PixelPatchesSettings | PcaSettings | WanSettings, Field(discriminator="kind")]
    area_px: int = Field(518_400, ge=64, description="rows x columns")
    frames: int = Field(121, ge=1, description="of a sample, at most")
    fps: float = Field(24.0, gt=0, description="samples at another rate are not used")


class AudioSettings(Settings):
    """Audio as the model sees it."""

    codec: Annotated[
        LogMelSettings | LogMelPcaSettings | MmAudioSettings, Field(discriminator="kind")
    ]


class FlowSettings(Settings):
    """Which noise levels are trained on."""

    sigma: Literal["uniform", "logit-normal"] = "uniform"
    coupling: Literal["shared", "independent"] = Field(
        "shared", description="one level for both modalities, or one each"
    )
    video_shift: float = Field(1.0, gt=0, description="moves video's levels towards noise")
    audio_shift: float = Field(1.0, gt=0, description="moves audio's levels towards noise")


class LossSettings(Settings):
    """Weights of the modalities."""

    video: float = Field(0.85, ge=0)
    audio: float = Field(0.15, ge=0)


class OptimizerSettings(Settings):
    """AdamW."""

    learning_rate: float = Field(5e-5, gt=0)
    rates: dict[str, float] = Field(
        default_factory=dict,
        description="factors of the learning rate by pattern of parameter names; the first fits",
    )
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0, description="of all gradients together")
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["constant", "cosine"] = Field(
        "constant", description="cosine falls to a tenth over the run's steps"
    )


class EvaluationSettings(Settings):
    """Loss on held-out sources, at fixed noise and fixed levels."""

    every: int = Field(200, ge=1, description="steps")
    samples: int = Field(32, ge=0, description="at most; 0 turns it off")
    sigmas: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        description="noise levels before their shift; at 1 only the conditions say anything",
    )


class CheckpointSettings(Settings):
    """When the state is saved, and how many are kept."""

    every: int = Field(500, ge=1, description="steps")
    keep: int = Field(2, ge=1)


class LoaderSettings(Settings):
    """How samples are read ahead."""

    threads: int = Field(2, ge=1, description="of each rank")
    ahead: int = Field(4, ge=1, description="batches")
    cache_mb: int = Field(1024, ge=0, description="of encoded samples that each rank remembers")


class LogSettings(Settings):
    """What is written beside the progress line."""

    every: int = Field(10, ge=1, description="steps")
    sample_ids: bool = Field(False, description="name each step's samples in log.jsonl")
    tensorboard: bool = False


class SamplingSettings(Settings):
    """How clips are generated (Ovi's released sampler)."""

    solver: SolverName = Field(
        "unipc", description="the released one, or Adams-Bashforth of second order"
    )
    steps: int = Field(50, ge=1)
    shift: float = Field(5.0, gt=0)
    video_guidance: float = Field(4.0, ge=0)
    audio_guidance: float = Field(3.0, ge=0)
    skip_block: int | None = Field(
        None, ge=0, description="block that the unconditional pass leaves out"
    )
    video_negative: str = Field("", description="prompt of the video's unconditional pass")
    audio_negative: str = Field("", description="prompt of the audio's unconditional pass")


class InitialWeights(Settings):
    """Weights that a run starts from: a file, or a folder of parts with their index."""

    weights: Path = Field(description="safetensors, or a folder of them")
    layout: str = Field("auto", description="whose names they have: one of the family's")
    only: tuple[str, ...] = Field((), description="patterns of the model's names; else all")


class Recipe(Settings):
    """Everything that a run is told."""

    seed: int = 0
    steps: int = Field(ge=1)
    batch: int = Field(ge=1, description="samples a step, of all ranks together")
    micro_batch: int = Field(1, ge=1, description="samples that a rank holds at once")
    caption_dropout: float = Field(0.1, ge=0, le=1)
    prediction: Prediction = Field(
        "velocity",
        description="what the model's output is: the velocity, as in Ovi, or the data",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of matrix products: bf16 on CUDA, fp32 elsewhere"
    )
    trainable: tuple[str, ...] = Field(("*",), description="patterns of parameter names")
    recompute: bool = Field(False, description="activations are recomputed, to save memory")
    tasks: dict[TaskName, float] = {"t2av": 1.0}  # noqa: RUF012 - pydantic copies it
    model: pydantic.SerializeAsAny[ModelSettings]
    initial: tuple[InitialWeights, ...] = Field(
        (), description="released weights that the run starts from; the rest by the seed"
    )
    lora: LoraSettings | None = Field(
        None, description="train small adapters of the model's maps, and nothing else"
    )
    video: VideoSettings
    audio: AudioSettings
    text: Annotated[ByteTextSettings | WordTextSettings | Umt5Settings, Field(discriminator="kind")]
    flow: FlowSettings = FlowSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    loader: LoaderSettings = LoaderSettings()
    log: LogSettings = LogSettings()
    sampling: SamplingSettings = SamplingSettings()

    @pydantic.field_validator("tasks")
    @classmethod
    def _some_task(cls, tasks: dict[TaskName, float]) -> dict[TaskName, float]:
        if min(tasks.values(), default=0) < 0 or not sum(tasks.values()):
            raise ValueError("weights must not be negative, and one must be above 0")
        return {name: weight for name, weight in tasks.items() if weight}

    @pydantic.field_validator("lora")
    @classmethod
    def _of_something(
        cls, lora: LoraSettings | None, info: pydantic.ValidationInfo
    ) -> LoraSettings | None:
        if lora is not None and not info.data.get("initial"):
            raise ValueError("adapters are of weights that `initial` names; random ones teach none")
        return lora

    def check_weights(self) -> None:
        """See that the weights of codecs and text encoder are on this machine.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        for part in (self.video.codec, self.audio.codec, self.text):
            part.weight_paths()

    def binding(self) -> dict[str, Any]:
        """The settings that a checkpoint depends on; the others may change on the way."""
        values = self.model_dump(mode="json", exclude=_FREE)
        if self.optimizer.decay != "constant":
            values["steps"] = self.steps
        return values

    def fingerprint(self) -> str:
        """16 hex digits of the binding settings."""
        return fingerprint(self.binding())

    def to_yaml(self) -> str:
        """The whole recipe, as it can be read again."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


_DEFAULT_FAMILY = "ovi"
_EARLIER_NAMES = {"ovi": "ovi-fusion"}
_FREE = {"steps", "evaluation", "checkpoint", "loader", "log", "sampling", "recompute"}


def load_recipe(recipe: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with assignments over it.

    Args:
        recipe: one that comes with the package (`tiny`), or a YAML file.
        assignments: `dotted.key=value`, values in YAML.

    Raises:
        UsageError: `unknown_recipe`, `unknown_family`, `configuration_unreadable`,
            `unknown_setting`, `bad_assignment` or `bad_setting`.
    """
    values = _named(str(recipe))
    for assignment in assignments:
        values = merge(values, parse_assignment(assignment), whole=_is_another_kind)
    model = values.get("model")
    if isinstance(model, Mapping):
        # Its settings are those of its family.
        model = {"family": _DEFAULT_FAMILY, **model}
        settings = find_family(str(model["family"])).settings
        values["model"] = validate(settings, model, within="model")
    return validate(Recipe, values)


def _is_another_kind(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    """Of another kind of codec or encoder, or family, none of the settings before make sense."""
    return ("kind" in above and above["kind"] != below.get("kind")) or (
        "family" in above and above["family"] != below.get("family", _DEFAULT_FAMILY)
    )


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("training") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as `key: before -> now`."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and name != "tasks":
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name}: {old} -> {new}")
    return found


def _named(recipe: str) -> dict[str, Any]:
    recipe = _EARLIER_NAMES.get(recipe, recipe)
    if recipe in recipe_names():
        text = (resources.files("training") / "recipes" / f"{recipe}.yaml").read_text()
        return dict(yaml.safe_load(text))
    if not Path(recipe).exists():
        raise UsageError(
            "unknown_recipe",
            "There is no recipe of this name, and no such file.",
            subject=recipe,
            remedy=f"{did_you_mean(recipe, recipe_names())}"
            f"Recipes are {', '.join(recipe_names())}.",
        )
    return read_settings(Path(recipe))
