"""What a stage is: one subject measured, one struct owned, one fingerprint.

Three kinds of stages exist. A `SignalStage` watches the one decode of a source and leaves time
series behind (`signals`); a clip's struct is computed from those series, so cutting clips
differently decodes nothing. A `ClipStage` looks at the clip itself, decoded again, and only where
its precondition holds. A `ModelStage` is a clip stage that runs a model on many clips at once, in
another process than the decoding.
"""

from __future__ import annotations

import abc
import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pydantic

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.store.selection import CLIP_KEY, UNIT_KEY
from stages.base.backends import (
    MISSING_CODES,
    Backend,
    BackendDeclaration,
    joined_sha256,
    require_packages,
    unknown_backend,
)
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.base.signals import Observer, Signals
from stages.media.blocks import SourceFormat
from stages.weights.catalogue import CATALOGUE
from stages.weights.find import find_set, require_weights, sha256_of, sha256_of_set


class StageParameters(pydantic.BaseModel):
    """Settings of a stage; all of them are part of its fingerprint. Unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    backend: str = "auto"


P = TypeVar("P", bound=StageParameters)
Prepared = TypeVar("Prepared")
Model = TypeVar("Model")


@dataclasses.dataclass(frozen=True)
class StageCall:
    """A stage as a job has resolved it, for workers: its parameters are JSON.

    Workers use this backend and no other: the fingerprint names it.
    """

    name: str
    parameters: str
    backend: Backend
    fingerprint: str


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
    backends: ClassVar[tuple[BackendDeclaration, ...]] = ()
    """What can compute it, the preferred one first."""
    side_tables: ClassVar[Mapping[str, type]] = {}
    """Tables of many rows a unit or clip beside the struct: the dataclass of a row's own columns by
    table name. `side_key` and `fingerprint` are added to them."""
    side_key: ClassVar[tuple[str, ...]]
    """The columns that say which unit or clip a row of a side table belongs to."""
    Parameters: ClassVar[type[StageParameters]]
    Record: ClassVar[type]
    """Dataclass of the struct's own fields, units in their names."""

    def __init__(self, parameters: P, backend: Backend | None = None) -> None:
        self.parameters = parameters
        self.backend = backend or self.resolve_backend()

    @property
    def setting(self) -> str:
        """The setting that chooses the backend, for messages."""
        return f"stages.{self.name}.backend"

    def resolve_backend(self) -> Backend:
        """The backend the parameters ask for; `auto` is the first declared one that can run here.

        Raises:
            UsageError: `unknown_backend`, `missing_package` or `missing_weights` (says how to get
                them), or as `check_parameters`.
        """
        asked = self.parameters.backend
        declared = [backend for backend in self.backends if asked in ("auto", backend.name)]
        if not declared:
            return self.undeclared_backend(asked)
        lacking: list[UsageError] = []
        for backend in declared:
            try:
                return self._found(backend)
            except UsageError as error:
                if error.code not in MISSING_CODES:
                    raise
                lacking.append(error)
        raise lacking[0]

    def undeclared_backend(self, name: str) -> Backend:
        """A backend that is not in `backends`, for stages that take a user's own.

        Raises:
            UsageError: `unknown_backend`.
        """
        raise unknown_backend(name, [known.name for known in self.backends], setting=self.setting)

    def check_parameters(self) -> None:
        """Check what only the backend's packages can tell; they are there when this is called.

        Raises:
            UsageError: a parameter has no meaning to them.
        """

    def _found(self, backend: BackendDeclaration) -> Backend:
        require_packages(backend.packages, needed_by=self.setting)
        self.check_parameters()
        hashes = [sha256_of_set(name, self.require_weights(name)) for name in backend.weights]
        if backend.packaged_weights is not None:
            hashes += [sha256_of(path) for path in backend.packaged_weights()]
        return Backend(backend.name, joined_sha256(hashes))

    def check_backend(self) -> None:
        """Make sure that this machine has the packages and the very weights that the job found.

        Call it just before they are loaded: results of others must not be written under
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
            subject=self.setting,
            remedy="Put the same files on all machines, and run the same command again.",
            retryable=True,
        )

    @classmethod
    def weights(cls, backend: str) -> tuple[str, ...]:
        """Names in `stages.weights.catalogue` of what a backend loads; none for embedded ones."""
        return next((known.weights for known in cls.backends if known.name == backend), ())

    @classmethod
    def find_weights(cls, name: str) -> Path | None:
        """Where a set of the catalogue lies on this machine; None unless all of it is there."""
        return find_set(CATALOGUE[name])

    def require_weights(self, name: str) -> Path:
        """Where a set of the catalogue lies: its file, or the folder of its files.

        Raises:
            UsageError: `missing_weights`: names the stage, the files and the command.
        """
        return self.find_weights(name) or require_weights(name, needed_by=self.setting)

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

    side_key: ClassVar[tuple[str, ...]] = UNIT_KEY
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

    side_key: ClassVar[tuple[str, ...]] = CLIP_KEY

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


class ModelStage(ClipStage[P], Generic[P, Prepared, Model]):
    """A clip stage with a model that looks at many clips at once.

    `prepare` runs where media is decoded, in a child process that can be killed, and hands on
    arrays; `load` and `infer` run in a process that holds the model and, where there is one, a GPU.
    A clip's result does not depend on which clips are in its batch, nor on their order (in
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
