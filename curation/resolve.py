"""From a configuration to what results depend on: stages with backends, and their fingerprints."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curation.captions.attributes import ATTRIBUTES_VERSION
from curation.captions.carried import CARRIED_VERSION
from curation.config import JobConfiguration
from curation.phases.missing import lacking_for_captions, missing_parts
from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.policy.gates import policy_fingerprint
from manifests.policy.mix import MIX_VERSION
from manifests.store.selection import Selection
from manifests.store.selection_file import SavedSelection, StageOrigin
from stages.base.backends import Backend
from stages.base.contract import ClipStage, SignalStage, Stage, StageCall
from stages.packing.sample import PackProfile
from stages.registry import SIDE_TABLES, STAGES
from stages.run.unit import failed_unit_fingerprint

CAPTION_VERSION = 2
"""Raise whenever requests or the reading of answers change."""
PROBE_VERSION = 2
"""Raise whenever the probe reads the same file differently."""
_PACKED_WINDOWS = {"all": ("full",), "sound": ("full", "short")}
_MISSING = ("missing_weights", "missing_package")


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a configuration comes to: enabled stages, and the fingerprint of every kind of row.

    `signal_stages` watch the decoding of sources; `summed_stages` are those of them that sum up a
    clip from their signals alone. `clip_stages` look at clips again: first the models that complete
    what signal stages know, then the others in the registry's order; `calls` tell workers of any of
    them. `unavailable` are enabled stages whose weights or packages are missing: nothing is
    measured, their structs stay null. `profile` is what samples are packed to.
    """

    signal_stages: dict[str, SignalStage[Any]]
    summed_stages: dict[str, SignalStage[Any]]
    clip_stages: dict[str, ClipStage[Any]]
    calls: dict[str, StageCall]
    unavailable: dict[str, UsageError]
    fingerprints: dict[str, str]
    unit: str
    segmentation: str
    selection: Selection
    profile: PackProfile


@dataclasses.dataclass(frozen=True)
class Remembered:
    """What an earlier resolution found on its machine: enough to see its results without weights.

    `backends` holds the stages that were available; `caption` the fingerprint of the captions,
    which depends on prompts that may lie on that machine alone.
    """

    backends: Mapping[str, Backend]
    caption: str


def resolve(configuration: JobConfiguration, remembered: Remembered | None = None) -> Resolved:
    """Resolve every enabled stage's backend, and all fingerprints.

    Args:
        configuration: the job's.
        remembered: what the job found, to look at its results on a machine that may lack what it
            loaded; nothing is looked for then.

    Raises:
        UsageError: a backend is unknown; `missing_parts` if weights or packages are missing and the
            configuration does not say to go on without.
    """
    unit = configuration.decode.unit_fingerprint()
    stages, unavailable = _build(configuration, remembered)
    fingerprints = _fingerprints(stages, unit)
    fingerprints |= {
        name: fingerprint({"unavailable": name}) for name in unavailable if name in STAGES
    }
    cuts = "loudness" if configuration.clip.cut == "silences" else "shots"
    segmentation = configuration.clip.fingerprint(unit, fingerprints.get(cuts, "disabled"))
    profile = _profile(configuration, fingerprints)
    signal_stages = {n: s for n, s in stages.items() if isinstance(s, SignalStage)}
    model_stages = {
        name: model_stage
        for name, stage in signal_stages.items()
        if (model_stage := stage.model_stage()) is not None
    }
    selection = Selection(
        segmentation=segmentation,
        policy=policy_fingerprint(configuration.gate_list()),
        stages=fingerprints,
        probe=fingerprint({"probe": PROBE_VERSION, **configuration.decode.media_key()}),
        units=unit,
        failed_units=failed_unit_fingerprint(unit),
        caption=(
            configuration.caption.style,
            remembered.caption if remembered else _captions(configuration, fingerprints),
        ),
        mix=_mix(configuration, fingerprints),
        profile=profile.profile_id,
        packed_windows=_PACKED_WINDOWS[configuration.decode.media],
        side_tables=SIDE_TABLES,
    )
    return Resolved(
        signal_stages=signal_stages,
        summed_stages={n: s for n, s in signal_stages.items() if n not in model_stages},
        clip_stages={
            **model_stages,
            **{n: s for n, s in stages.items() if isinstance(s, ClipStage)},
        },
        calls=_calls(configuration, {**stages, **model_stages}, fingerprints),
        unavailable=unavailable,
        fingerprints=fingerprints,
        unit=unit,
        segmentation=segmentation,
        selection=_with_decided_under(selection, configuration),
        profile=profile,
    )


def selection_to_save(
    configuration: JobConfiguration,
    resolved: Resolved,
    schemas: Mapping[str, pa.Schema],
    *,
    finished: bool,
) -> SavedSelection:
    """What has to be kept with a job's results, so that they can be read without this code.

    Args:
        configuration: the job's.
        resolved: what it came to.
        schemas: of the tables that hold what stages own.
        finished: whether the job has come to its end.
    """
    # The model that completes a signal stage goes by its name and its fingerprint.
    stages = {**resolved.clip_stages, **resolved.signal_stages}
    return SavedSelection(
        selection=resolved.selection,
        schemas=schemas,
        gates=_plain_gates(configuration),
        origins={
            name: StageOrigin(
                version=stage.version,
                parameters=stage.parameters.model_dump(mode="json", exclude={"enabled"}),
                backend=stage.backend.name,
                weights_sha256=stage.backend.weights_sha256,
                reads=_read_by(stage, resolved.fingerprints),
            )
            for name, stage in stages.items()
        },
        finished=finished,
    )


def decided_otherwise(saved: SavedSelection, configuration: JobConfiguration) -> SavedSelection:
    """A job's results decided by the gates of a configuration: all that was measured stays."""
    selection = dataclasses.replace(
        saved.selection,
        policy=policy_fingerprint(configuration.gate_list()),
        mix=_mix(configuration, saved.selection.stages),
    )
    return dataclasses.replace(
        saved,
        selection=_with_decided_under(selection, configuration),
        gates=_plain_gates(configuration),
    )


def _plain_gates(configuration: JobConfiguration) -> dict[str, dict[str, Any]]:
    return {
        gate.name: {"sql": gate.sql, "backends": gate.backends, "unmeasured": gate.unmeasured}
        for gate in configuration.gate_list()
    }


def remember(resolved: Resolved) -> Remembered:
    """What has to be kept with a job's results."""
    stages = {**resolved.signal_stages, **resolved.clip_stages}
    assert resolved.selection.caption is not None
    return Remembered(
        {name: stage.backend for name, stage in sorted(stages.items())},
        resolved.selection.caption[1],
    )


def _build(
    configuration: JobConfiguration, remembered: Remembered | None
) -> tuple[dict[str, Stage[Any]], dict[str, UsageError]]:
    """The enabled stages, and of those that lack something what it is."""
    stages: dict[str, Stage[Any]] = {}
    unavailable: dict[str, UsageError] = {}
    for name, stage in STAGES.items():
        parameters = getattr(configuration.stages, name)
        if not parameters.enabled:
            continue
        if remembered is not None:
            backend = remembered.backends.get(name)
            if backend is not None:
                stages[name] = stage(parameters, backend)
            elif configuration.missing == "pending":
                unavailable[name] = UsageError("missing_weights", "It was not there.")
            # Else the job was not asked for it: its version did not have the stage.
            continue
        _check_reads(configuration, stage)
        try:
            stages[name] = stage(parameters)
        except UsageError as error:
            # Without shots no clip can be cut: there is no going on without them.
            if error.code not in _MISSING or name == "shots":
                raise
            unavailable[name] = error
    lacking = lacking_for_captions(configuration.caption) if remembered is None else None
    if lacking is not None:
        unavailable["caption"] = lacking
    if remembered is None and unavailable and configuration.missing == "stop":
        raise missing_parts(configuration, unavailable)
    return stages, unavailable


def _calls(
    configuration: JobConfiguration,
    stages: Mapping[str, Stage[Any]],
    fingerprints: Mapping[str, str],
) -> dict[str, StageCall]:
    """Every stage that can be had, by name, as workers are told of it."""
    return {
        name: StageCall(
            name,
            json.dumps(configuration.stage_parameters(name), sort_keys=True),
            stage.backend,
            fingerprints[name],
        )
        for name, stage in stages.items()
    }


def _check_reads(configuration: JobConfiguration, stage: type[Stage[Any]]) -> None:
    off = [name for name in stage.reads if not getattr(configuration.stages, name).enabled]
    if off:
        raise UsageError(
            "stage_disabled",
            f"It reads what {' and '.join(off)} measure, which is switched off.",
            subject=f"stages.{stage.name}",
            remedy=f"Set stages.{stage.name}.enabled=false too, or switch {off[0]} on.",
        )


def _fingerprints(stages: Mapping[str, Stage[Any]], unit: str) -> dict[str, str]:
    fingerprints: dict[str, str] = {}
    while len(fingerprints) < len(stages):
        ready = [
            name
            for name, stage in stages.items()
            if name not in fingerprints
            and all(read in fingerprints or read not in stages for read in stage.reads)
        ]
        assert ready, "stages read each other in a circle"
        for name in ready:
            reads = _read_by(stages[name], fingerprints)
            # Unit boundaries end tracks, shots and segments: they are part of every result.
            fingerprints[name] = fingerprint([unit, stages[name].fingerprint(reads)])
    return fingerprints


def _read_by(stage: Stage[Any], fingerprints: Mapping[str, str]) -> dict[str, str]:
    return {read: fingerprints.get(read, "disabled") for read in stage.reads}


def _profile(configuration: JobConfiguration, fingerprints: Mapping[str, str]) -> PackProfile:
    """What samples are packed to; where sound is shifted, also by whose measurements."""
    profile = configuration.pack.profile()
    if not configuration.sync.repair:
        return profile
    return profile.model_copy(update={"repaired_by": fingerprints.get("sync", "disabled")})


def _captions(configuration: JobConfiguration, fingerprints: Mapping[str, str]) -> str:
    """What captions depend on.

    Sentences made of measurements follow them, and where a file brings no words there are such. A
    model's words cost money and do not: they stay
    when a measurement that its prompt mentions is made anew.
    """
    caption = configuration.caption
    measured = [ATTRIBUTES_VERSION, caption.style, dict(fingerprints)]
    if caption.backend == "attributes":
        return fingerprint(measured)
    if caption.backend == "carried":
        return fingerprint([CARRIED_VERSION, *measured])
    return fingerprint([CAPTION_VERSION, caption.backend, caption.words_key()])


def _with_decided_under(selection: Selection, configuration: JobConfiguration) -> Selection:
    """The selection with the fingerprint of what the configuration's gates may read under it."""
    expressions = " ".join(gate.sql for gate in configuration.gate_list())
    # Words and places come after the measurements, and few gates speak of them: new captions alone
    # must not make every clip undecided.
    later = {
        name: value
        for name, value in (("caption", selection.caption), ("mix", selection.mix))
        if re.search(rf"\b{name}\b", expressions, re.IGNORECASE)
    }
    under = fingerprint([selection.probe, selection.segmentation, dict(selection.stages), later])
    return dataclasses.replace(selection, decided_under=under)


def _mix(configuration: JobConfiguration, fingerprints: Mapping[str, str]) -> str | None:
    """Which mix: its settings, and who competes for a place in it."""
    mix = configuration.mix
    if not mix.shares:
        return None
    gates = policy_fingerprint(configuration.gate_list())
    return fingerprint([MIX_VERSION, mix.model_dump(mode="json"), gates, dict(fingerprints)])
