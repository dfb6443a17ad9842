"""From a configuration to what results depend on: stages with backends, and their fingerprints."""

from __future__ import annotations

import dataclasses
from typing import Any

from curation.config import JobConfiguration
from manifests.decide import policy_fingerprint
from manifests.fingerprint import fingerprint
from manifests.view import Selection
from stages.attributes import ATTRIBUTES_VERSION
from stages.contract import ClipStage, SignalStage, Stage
from stages.registry import STAGES

PROBE_VERSION = 1
"""Raise whenever the probe reads the same file differently."""


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a configuration comes to: enabled stages, and the fingerprint of every kind of row."""

    signal_stages: dict[str, SignalStage[Any]]
    clip_stages: dict[str, ClipStage[Any]]
    fingerprints: dict[str, str]
    unit: str
    segmentation: str
    selection: Selection


def resolve(configuration: JobConfiguration) -> Resolved:
    """Resolve every enabled stage's backend, and all fingerprints.

    Raises:
        UsageError: a backend is unknown or its weights are missing.
    """
    unit = configuration.decode.unit_fingerprint()
    stages: dict[str, Stage[Any]] = {}
    for name, stage in STAGES.items():
        parameters = getattr(configuration.stages, name)
        if parameters.enabled:
            stages[name] = stage(parameters)
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
            reads = {read: fingerprints.get(read, "disabled") for read in stages[name].reads}
            # Unit boundaries end tracks, shots and segments: they are part of every result.
            fingerprints[name] = fingerprint([unit, stages[name].fingerprint(reads)])
    segmentation = configuration.clip.fingerprint(unit, fingerprints.get("shots", "disabled"))
    caption = configuration.caption
    captions = fingerprint([ATTRIBUTES_VERSION, caption.model_dump(mode="json"), fingerprints])
    return Resolved(
        signal_stages={n: s for n, s in stages.items() if isinstance(s, SignalStage)},
        clip_stages={n: s for n, s in stages.items() if isinstance(s, ClipStage)},
        fingerprints=fingerprints,
        unit=unit,
        segmentation=segmentation,
        selection=Selection(
            segmentation=segmentation,
            policy=policy_fingerprint(configuration.gate_list()),
            stages=fingerprints,
            probe=fingerprint({"probe": PROBE_VERSION}),
            units=unit,
            caption=(caption.style, captions),
            profile=configuration.pack.profile().profile_id,
        ),
    )
