"""The job's configuration: presets, a file, `--set key=value`; unknown keys are refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from curation.captions.answer import CaptionForm
from curation.captions.prompt import prompts_fingerprint
from curation.captions.settings import EndpointSettings, VllmSettings
from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.policy.gate_settings import check_removals, with_what_stays
from manifests.policy.gates import Gate
from manifests.settings import (
    Settings,
    did_you_mean,
    merge,
    parse_assignment,
    read_settings,
    validate,
)
from stages.media.proxy import PROXY_SHORT_SIDE_PX
from stages.packing.sample import PackProfile
from stages.registry import STAGES
from stages.run.segment import ClipSettings
from stages.run.unit import UNIT_VERSION


class DecodeSettings(Settings):
    """How sources are decoded, and what is done about those that do not."""

    unit_s: float = pydantic.Field(
        120.0, gt=0, description="most seconds of a source decoded in one go"
    )
    threads: int = pydantic.Field(1, ge=1, description="threads of one video decoder")
    stall_s: float = pydantic.Field(
        60.0, gt=0, description="seconds without progress before a kill"
    )
    memory_mb: int = pydantic.Field(3072, ge=256, description="memory of one decoding process")
    retries: int = pydantic.Field(1, ge=0, description="further tries after a crash or a hang")
    max_damaged_share: float = pydantic.Field(
        0.1, ge=0, le=1, description="damaged share of a unit above which it counts as failed"
    )
    media: Literal["all", "sound"] = pydantic.Field(
        "all", description="`sound` leaves pictures alone: a video is what is heard of it"
    )

    def unit_fingerprint(self) -> str:
        """What the rows of `units` depend on."""
        return fingerprint(
            {
                "version": UNIT_VERSION,
                "unit_s": self.unit_s,
                "proxy_short_side_px": PROXY_SHORT_SIDE_PX,
                "max_damaged_share": self.max_damaged_share,
                **self.media_key(),
            }
        )

    def media_key(self) -> dict[str, str]:
        """What sets results of sound alone apart from those of everything."""
        return {} if self.media == "all" else {"media": self.media}


class GateSettings(Settings):
    """One gate: a scalar SQL expression over the view `dataset`, true for clips to keep."""

    sql: str
    backends: dict[str, list[str]] | None = None
    unmeasured: Literal["pending", "pass"] = "pending"


class CaptionSettings(Settings):
    """Which captions kept clips get, and who writes them."""

    backend: Literal["attributes", "carried", "endpoint", "vllm"] = pydantic.Field(
        "attributes",
        description="attributes: sentences made of the measurements; carried: the words that came"
        " with a file, and attributes where none did; endpoint: a multimodal model behind an"
        " address; vllm: one on the job's own GPUs",
    )
    style: CaptionForm = pydantic.Field(
        "ovi", description="ovi: tags at the end; ovi-960: `Audio:`; ovi-audio: for sound alone"
    )
    prompts: str | None = pydantic.Field(
        None, description="folder of prompt files to use instead of the packaged ones"
    )
    stills: int = pydantic.Field(7, ge=1, le=64, description="frames that the model sees")
    long_side_px: int = pydantic.Field(768, ge=64, description="of those frames, at most")
    speech_ratio: float = pydantic.Field(
        0.1, ge=0, le=1, description="without a transcript: share of speech that must be quoted"
    )
    endpoint: EndpointSettings | None = None
    vllm: VllmSettings | None = None

    @property
    def model(self) -> str | None:
        """The model's name; None if it has not been given."""
        chosen = {"endpoint": self.endpoint, "vllm": self.vllm}.get(self.backend)
        if self.backend in ("attributes", "carried"):
            return self.backend
        return chosen.model if chosen is not None else None

    def words_key(self) -> dict[str, Any]:
        """What a model's words depend on, besides the clip; not how fast or at what cost."""
        folder = Path(self.prompts) if self.prompts else None
        key: dict[str, Any] = {
            "model": self.model,
            "style": self.style,
            "prompts": prompts_fingerprint(self.style, folder),
            "stills": self.stills,
            "long_side_px": self.long_side_px,
        }
        if self.endpoint is not None and self.backend == "endpoint":
            fields = {"temperature", "max_tokens", "extra_body"}
            key |= self.endpoint.model_dump(mode="json", include=fields)
        if self.vllm is not None and self.backend == "vllm":
            key |= self.vllm.model_dump(mode="json", include={"temperature", "max_tokens"})
        return key


class MixSettings(Settings):
    """Target shares of groups of clips among those kept; none are set by default."""

    shares: dict[str, float] = pydantic.Field(
        default_factory=dict, description="target share by group; groups not named are not kept"
    )
    by: str = pydantic.Field("faces.kind", description="SQL that gives a clip's group")
    clips: int | None = pydantic.Field(
        None, ge=1, description="how many clips; as many as the shares allow if not given"
    )
    seed: int = pydantic.Field(0, description="another choice of clips")

    @pydantic.field_validator("shares")
    @classmethod
    def _shares_add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        if any(share < 0 for share in shares.values()):
            raise ValueError("a share must not be below 0")
        if shares and abs(sum(shares.values()) - 1.0) > 1e-6:
            raise ValueError("the shares must add up to 1")
        return shares


class SyncSettings(Settings):
    """What is done about an offset between picture and sound that the stage `sync` has found."""

    repair: bool = pydantic.Field(
        False, description="shift the sound by the found offset when packing"
    )
    min_confidence: float | None = pydantic.Field(
        None,
        description="repair offsets of at least this confidence, on the backend's own scale; if"
        " not given 1.5 for syncnet, 3.0 for embedded",
    )


class PackSettings(PackProfile):
    """The samples' profile, and how large a shard grows."""

    shard_mb: int = pydantic.Field(256, ge=1, description="size that a shard is planned for")

    def profile(self) -> PackProfile:
        """The part that decides what a sample's bytes are."""
        return PackProfile.model_validate(self.model_dump(exclude={"shard_mb"}))


class SplitSettings(Settings):
    """Which sources are never trained on."""

    held_out_share: float = pydantic.Field(0.05, ge=0, le=1)
    seed: int = 0


class EngineSettings(Settings):
    """How the job is spread."""

    workers: int | None = pydantic.Field(None, ge=1, description="one per CPU if not given")
    cpus_per_worker: float = pydantic.Field(
        0.9, gt=0, description="below one, so that the job's own process finds room"
    )
    gpus_per_worker: float = pydantic.Field(
        0.0, ge=0, description="share of a GPU that one takes, where there are any"
    )
    in_flight_per_worker: int = pydantic.Field(2, ge=1)
    start_patience_s: float = pydantic.Field(
        600.0, gt=0, description="how long a cluster may take to start a first worker or model"
    )
    model_workers: int | None = pydantic.Field(
        None, ge=1, description="processes that hold a model; as many as the GPUs have room for"
    )
    gpus_per_model: float = pydantic.Field(
        1.0, gt=0, description="share of a GPU that one of them takes"
    )
    batch_clips: int = pydantic.Field(
        8, ge=1, description="clips handed to a model at once; results do not depend on it"
    )
    batch_mb: float = pydantic.Field(
        200.0, gt=0, description="megabytes handed to a model at once, unless one clip has more"
    )


class InputSettings(Settings):
    """Which files of a folder or bucket are looked at."""

    skip_suffixes: tuple[str, ...] = (
        ".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet", ".yaml", ".yml", ".md", ".html",
        ".srt", ".vtt", ".ass", ".xml", ".log", ".tar", ".zip", ".gz",
    )  # fmt: skip


StageSettings: type[pydantic.BaseModel] = pydantic.create_model(
    "StageSettings",
    __config__=pydantic.ConfigDict(extra="forbid", frozen=True),
    **{
        name: (stage.Parameters, pydantic.Field(default_factory=stage.Parameters))
        for name, stage in STAGES.items()
    },  # type: ignore[call-overload]  # the fields are only known at run time
)


class JobConfiguration(Settings):
    """Everything that a job can be told."""

    preset: str = "quickstart"
    missing: Literal["stop", "pending"] = "stop"
    inputs: InputSettings = InputSettings()
    decode: DecodeSettings = DecodeSettings()
    stages: StageSettings = pydantic.Field(default_factory=StageSettings)
    clip: ClipSettings = ClipSettings()
    gates: dict[str, GateSettings] = pydantic.Field(default_factory=dict)
    mix: MixSettings = MixSettings()
    sync: SyncSettings = SyncSettings()
    caption: CaptionSettings = CaptionSettings()
    pack: PackSettings = PackSettings()
    split: SplitSettings = SplitSettings()
    engine: EngineSettings = EngineSettings()

    @pydantic.field_validator("gates", mode="before")
    @classmethod
    def _plain_sql_is_a_gate(cls, gates: object) -> object:
        if not isinstance(gates, Mapping):
            return gates
        return {
            name: {"sql": gate} if isinstance(gate, str) else gate
            for name, gate in gates.items()
            if gate is not None and gate != ""
        }

    def gate_list(self) -> list[Gate]:
        """The gates by name; a mix is one of them."""
        gates = [
            Gate(name, gate.sql, gate.backends, gate.unmeasured)
            for name, gate in self.gates.items()
        ]
        if self.mix.shares:
            gates.append(Gate("mix", "mix.chosen"))
        return sorted(gates, key=lambda gate: gate.name)

    def expressions(self) -> list[Gate]:
        """Everything that has to be a scalar expression over `dataset`: gates, and the mix's."""
        grouping = [Gate("mix.by", f"({self.mix.by}\n) IS NOT NULL")] if self.mix.shares else []
        return [*self.gate_list(), *grouping]

    def stage_parameters(self, name: str) -> dict[str, Any]:
        """One stage's parameters as plain data."""
        parameters: pydantic.BaseModel = getattr(self.stages, name)
        return parameters.model_dump(mode="json")


def load_configuration(
    preset: str | None,
    file: Path | None,
    assignments: Sequence[str],
    base: Mapping[str, Any] | None = None,
    removed_gates: Collection[str] = (),
) -> JobConfiguration:
    """A configuration out of a preset, a YAML file over it, and assignments over both.

    Args:
        preset: a preset's name; None for the file's own choice, then `quickstart`.
        file: YAML, same keys as the configuration.
        assignments: `dotted.key=value`; the value is YAML. An empty value removes a gate; an
            expression alone keeps the gate's backends.
        base: a whole configuration to start from instead of a preset (that of an earlier job).
        removed_gates: names of gates that may be removed again: `base` had them once. So may those
            of its preset.

    Raises:
        UsageError: `unknown_preset`, `configuration_unreadable`, `unknown_setting` (names the
            nearest right one), `unknown_gate` (one that is removed is not there) or `bad_setting`.
    """
    overlay = read_settings(file) if file is not None else {}
    if base is not None and preset is None:
        values = dict(base)
    else:
        name = preset or overlay.get("preset", "quickstart")
        values = {**_read_preset(str(name)), "preset": name}
    gone = {*removed_gates, *_gates_of(base)} if base is not None and preset is None else set()
    values = _over(values, overlay, gone)
    if preset is not None:
        values["preset"] = preset
    for assignment in assignments:
        given = parse_assignment(assignment, text_keys=("gates",))
        values = _over(values, given, gone)
    return validate(JobConfiguration, _with_samples_as_long_as_clips(values))


def _gates_of(base: Mapping[str, Any]) -> Collection[str]:
    """Names of the gates of a configuration's preset."""
    preset = base.get("preset")
    return _read_preset(preset).get("gates", {}) if preset in preset_names() else ()


def _over(
    below: Mapping[str, Any], above: Mapping[str, Any], gone: Collection[str]
) -> dict[str, Any]:
    """Settings over others; they may remove what is there, or what is in `gone`."""
    gates = below.get("gates")
    check_removals(above, gates if isinstance(gates, Mapping) else (), gone)
    return merge(below, with_what_stays(above, below), whole=_is_gate)


def _with_samples_as_long_as_clips(values: Mapping[str, Any]) -> dict[str, Any]:
    """Samples have the clips' length and rate unless they are given their own."""
    clip, pack = values.get("clip") or {}, values.get("pack") or {}
    if not isinstance(clip, Mapping) or not isinstance(pack, Mapping):
        return dict(values)  # the validation says what is wrong
    followed = {name: clip[name] for name in ("frames", "fps") if name in clip}
    return {**values, "pack": {**followed, **pack}} if followed else dict(values)


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("curation") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def _read_preset(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise UsageError(
            "unknown_preset",
            f"There is no preset '{name}'.",
            subject="--preset",
            remedy=f"{did_you_mean(name, names)}Presets are {', '.join(names)}.",
        )
    text = (resources.files("curation") / "presets" / f"{name}.yaml").read_text()
    return dict(yaml.safe_load(text))


def _is_gate(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    """A gate that is given as a mapping replaces the one beneath whole."""
    return "sql" in below
