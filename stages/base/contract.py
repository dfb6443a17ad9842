"""What a stage is: one subject measured, one struct owned, one fingerprint.

Three kinds of stages exist. A `SignalStage` watches the one decode of a source and leaves time
series behind (`signals`); a clip's struct is computed from those series, so cutting clips
differently decodes nothing. A `ClipStage` looks at the clip itself, decoded again, and only where
its precondition holds. A `ModelStage` is a clip stage whose looking is done by a model, for many
clips at once, in another process than the decoding.
"""

from __future__ import annotations

import abc
import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import pydantic

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from stages.media.blocks import AudioBlock, FloatArray, Frame, SourceFormat


class StageParameters(pydantic.BaseModel):
    """Settings of a stage; all of them are part of its fingerprint. Unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    backend: str = "auto"


P = TypeVar("P", bound=StageParameters)
Prepared = TypeVar("Prepared")
Model = TypeVar("Model")


@dataclasses.dataclass(frozen=True)
class Backend:
    """A resolved backend: its name, and the hash of its weights where it has any."""

    name: str
    weights_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class StageCall:
    """A stage as a job has resolved it, for workers: its parameters are JSON.

    Whoever measures uses this backend and no other, for the fingerprint speaks of it.
    """

    name: str
    parameters: str
    backend: Backend
    fingerprint: str


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

    def frame(self, frame: Frame) -> None:  # noqa: B027 - need not be overridden
        """See the next frame, in presentation order."""

    def audio(self, block: AudioBlock) -> None:  # noqa: B027 - need not be overridden
        """Hear the next block of samples, in presentation order."""

    @abc.abstractmethod
    def finish(self, start_s: float, end_s: float) -> Observation:
        """The unit's signals over its decoded span."""


class Stage(abc.ABC, Generic[P]):
    """A stage with its parameters; its backend is resolved once a job.

    Args:
        parameters: the stage's settings.
        backend: what the job has resolved; resolved here if not given.

    Raises:
        UsageError: as `resolve_backend`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raise whenever equal inputs may give another result."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Names of the stages whose results this one uses."""
    Parameters: ClassVar[type[StageParameters]]
    Record: ClassVar[type]
    """Dataclass of the struct's own fields, units in their names."""

    def __init__(self, parameters: P, backend: Backend | None = None) -> None:
        self.parameters = parameters
        self.backend = backend or self.resolve_backend()

    @abc.abstractmethod
    def resolve_backend(self) -> Backend:
        """The backend the parameters ask for.

        Raises:
            UsageError: the backend is unknown, or its weights are missing (says how to get them).
        """

    def check_backend(self) -> None:
        """Make sure that this machine has the packages and the very weights that the job found.

        To be called where they are about to be loaded: results of others must not be written under
        the job's fingerprint.

        Raises:
            UsageError: `other_weights`, or as `resolve_backend`; always retryable, because another
                machine may have them, or this one later.
        """
        try:
            named = self.parameters.model_copy(update={"backend": self.backend.name})
            here = type(self)(named).backend
        except UsageError as error:
            error.retryable = True
            raise
        except OSError as error:
            raise self._other_weights(f"cannot be read here ({error})") from error
        if here != self.backend:
            raise self._other_weights("are not here those that the job began with")

    def _other_weights(self, what: str) -> UsageError:
        return UsageError(
            "other_weights",
            f"The weights of {self.backend.name} {what} (on {platform.node()}).",
            subject=f"stages.{self.name}.backend",
            remedy="Put the same files on all machines, and run the same command again.",
            retryable=True,
        )

    @classmethod
    def weights(cls, backend: str) -> tuple[str, ...]:
        """Names in `stages.weights.catalogue` of what a backend loads; none for embedded ones."""
        return ()

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

    def model_stage(self) -> ModelStage[Any, Any, Any] | None:
        """The model that completes the record, under the same name, if the backend has one.

        Where there is one, a clip's struct is not written from the signals alone: what `summarise`
        returns reaches the model as `ClipTask.signals_record`.
        """
        return None


class ClipStage(Stage[P]):
    """Looks at a clip itself, decoded again at the size it needs."""

    side_tables: ClassVar[tuple[str, ...]] = ()
    """Tables that the stage writes rows to beside the clip's struct, see `Findings`."""

    @property
    @abc.abstractmethod
    def precondition(self) -> str:
        """SQL over the view `dataset`: where false, the struct says `not_applicable`."""

    @abc.abstractmethod
    def measure(self, clip: ClipTask) -> object:
        """The clip's record (an instance of `Record`), `NotApplicable`, or `Findings`.

        Raises:
            MediaError: the clip cannot be decoded.
        """


@dataclasses.dataclass(frozen=True)
class Findings:
    """A clip's record with rows for side tables, by table.

    Side rows are dicts without `clip_id` and `fingerprint`, which the caller adds.
    """

    record: object
    side_rows: Mapping[str, Sequence[dict[str, Any]]]


class ModelStage(ClipStage[P], Generic[P, Prepared, Model]):
    """A clip stage with a model that looks at many clips at once.

    `prepare` runs where media is decoded, in a child process that can be killed, and hands on
    arrays; `load` and `infer` run in a process that holds the model and, where there is one, a GPU.
    What a clip comes to does not depend on which clips are in its batch, nor on their order (in
    full precision to 1e-4, since batched arithmetic rounds differently; half precision is coarser).
    """

    @property
    def needs_model(self) -> bool:
        """Whether the backend has a model at all; without one `prepare` is always `Ready`."""
        return bool(self.weights(self.backend.name))

    @abc.abstractmethod
    def prepare(self, clip: ClipTask) -> Prepared | NotApplicable | Ready:
        """What the model needs to see of a clip, or `Ready` where no model is needed after all.

        Returns:
            A dataclass of numpy arrays and plain values.

        Raises:
            MediaError: the clip cannot be decoded.
        """

    @abc.abstractmethod
    def load(self, device: str) -> Model:
        """The model with its weights on `device` (`cpu`, `cuda`), ready for `infer`.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """

    @abc.abstractmethod
    def infer(self, model: Model, batch: Sequence[Prepared]) -> list[object]:
        """Per clip its record, `NotApplicable` or `Findings`, in the order of the batch.

        An instance of `TwinreelError` in a clip's place is that clip's own failure.

        Args:
            model: what `load` gave.
            batch: any number of clips, at least one; how many go through the model at once is for
                the stage to choose.
        """

    def measure(self, clip: ClipTask) -> object:
        """One clip on its own, on the CPU: the model is loaded for it alone."""
        prepared = self.prepare(clip)
        if isinstance(prepared, NotApplicable):
            return prepared
        if isinstance(prepared, Ready):
            return prepared.record
        return self.infer(self.load("cpu"), [prepared])[0]


@dataclasses.dataclass(frozen=True)
class Ready:
    """A clip's result that `prepare` already knows: an instance of `Record`, or `Findings`."""

    record: object


@dataclasses.dataclass(frozen=True)
class ClipTask:
    """A clip to look at: its source, its span and what is known of it already.

    `side_rows` are the rows of its unit (or, of tables that clip stages write, its own) by table.
    `structs` holds the clip's structs of the stages in `reads`, by stage (null ones left out).
    `signals_record` is what a signal stage makes of the clip's signals, for the model that
    completes its record.
    """

    clip_id: str
    uri: str
    source: SourceFormat
    start_s: float
    end_s: float
    side_rows: Mapping[str, Sequence[Mapping[str, Any]]]
    structs: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    signals_record: object = None
