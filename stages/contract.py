"""What a stage is: one subject measured, one struct owned, one fingerprint.

Two kinds of stages exist. A `SignalStage` watches the one decode of a source and leaves time series
behind (`signals`); a clip's struct is computed from those series, so cutting clips differently
decodes nothing. A `ClipStage` looks at the clip itself, decoded again, and only where its
precondition holds.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pydantic

from manifests.fingerprint import fingerprint
from stages.media.blocks import AudioBlock, Picture, SourceFormat

FloatArray = npt.NDArray[np.float64]


class StageParameters(pydantic.BaseModel):
    """Settings of a stage; all of them are part of its fingerprint. Unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    backend: str = "auto"


P = TypeVar("P", bound=StageParameters)


@dataclasses.dataclass(frozen=True)
class Backend:
    """A resolved backend: its name, and the hash of its weights where it has any."""

    name: str
    weights_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class NotApplicable:
    """The stage has nothing to say of this source or clip (no sound, no face)."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Signals:
    """A stage's time series over one unit.

    Bin i covers `start_s + i / rate_hz` to `start_s + (i + 1) / rate_hz`. Each series is one
    float64 array [bins]; NaN where a bin has no observation.
    """

    start_s: float
    rate_hz: float
    series: Mapping[str, FloatArray]

    def weights(self, start_s: float, end_s: float) -> FloatArray:
        """The share (0..1) of every bin that lies inside `start_s`..`end_s`: float64 [bins].

        A span's sums are then weighted sums, right to a fraction of a bin at its ends.
        """
        bins = len(next(iter(self.series.values())))
        edges = self.start_s + np.arange(bins + 1) / self.rate_hz
        overlap = np.minimum(edges[1:], end_s) - np.maximum(edges[:-1], start_s)
        return np.clip(overlap * self.rate_hz, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Observation:
    """What an observer leaves behind: its signals, and rows for side tables by table name.

    Side rows are dicts without `source_id`, `unit_index` and `fingerprint`, which the caller adds.
    """

    signals: Signals
    side_rows: Mapping[str, Sequence[dict[str, Any]]] = dataclasses.field(default_factory=dict)


class Observer(abc.ABC):
    """Watches one unit go by; decodes nothing itself. Sees, hears, or both, as it overrides."""

    def picture(self, picture: Picture) -> None:  # noqa: B027 - need not be overridden
        """See the next picture, in presentation order."""

    def audio(self, block: AudioBlock) -> None:  # noqa: B027 - need not be overridden
        """Hear the next block of samples, in presentation order."""

    @abc.abstractmethod
    def finish(self, start_s: float, end_s: float) -> Observation:
        """The unit's signals over its decoded span."""


class Stage(abc.ABC, Generic[P]):
    """A stage with its parameters; resolved once a job."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raise whenever equal inputs may give another result."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Names of the stages whose results this one uses."""
    Parameters: ClassVar[type[StageParameters]]
    Record: ClassVar[type]
    """Dataclass of the struct's own fields, units in their names."""

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters
        self.backend = self.resolve_backend()

    @abc.abstractmethod
    def resolve_backend(self) -> Backend:
        """The backend the parameters ask for.

        Raises:
            UsageError: the backend is unknown, or its weights are missing (says how to get them).
        """

    def fingerprint(self, upstream: Mapping[str, str]) -> str:
        """Hash of the code version, parameters, backend, weights and fingerprints of `reads`.

        Args:
            upstream: fingerprints by stage name, at least those in `reads`.
        """
        return fingerprint(
            {
                "stage": self.name,
                "version": self.version,
                "parameters": self.parameters.model_dump(mode="json", exclude={"enabled"}),
                "backend": dataclasses.asdict(self.backend),
                "reads": {name: upstream[name] for name in self.reads},
            }
        )


class SignalStage(Stage[P]):
    """Measures a source while it is decoded once; clips are summaries of its series."""

    media: ClassVar[Literal["video", "audio"]]
    series: ClassVar[tuple[str, ...]]
    """Names of the list columns this stage owns in `signals` (prefixed by the stage's name)."""

    @abc.abstractmethod
    def observer(self, source: SourceFormat) -> Observer:
        """A fresh observer for one unit of a source."""

    @abc.abstractmethod
    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> object:
        """The clip's record (an instance of `Record`) or `NotApplicable`, from the signals alone.

        Args:
            signals: this stage's series over the clip's unit.
            start_s: the clip's start.
            end_s: the clip's end.
            side_rows: this unit's rows of the side tables that the stage wrote.
        """


class ClipStage(Stage[P]):
    """Looks at a clip itself, decoded again at the size it needs."""

    @property
    @abc.abstractmethod
    def precondition(self) -> str:
        """SQL over the view `dataset`: where false, the struct says `not_applicable`."""

    @abc.abstractmethod
    def measure(self, clip: ClipTask) -> object:
        """The clip's record (an instance of `Record`) or `NotApplicable`.

        Raises:
            MediaError: the clip cannot be decoded.
        """


@dataclasses.dataclass(frozen=True)
class ClipTask:
    """A clip to look at: its source, its span and the side rows of its unit that overlap it."""

    clip_id: str
    uri: str
    source: SourceFormat
    start_s: float
    end_s: float
    side_rows: Mapping[str, Sequence[Mapping[str, Any]]]
