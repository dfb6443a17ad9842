"""Faces: how many people look at the camera, how large, and where their mouths are.

Frames are sampled twice a second at proxy size. The detector is YuNet where its weights are found,
or else OpenCV's own Haar cascade, which sees frontal faces only. Faces are linked into tracks, and
only tracks that were seen often enough count: a detector's single false positive is nobody. A clear
face begins a track; a fainter one (turned away, half hidden) carries it on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pydantic

from stages.base.backends import BackendDeclaration
from stages.base.clip import NotApplicable
from stages.base.contract import SignalStage, StageParameters
from stages.base.series import (
    VIDEO_BIN_RATE_HZ,
    BinGrid,
    inner_bins,
    observed_weights,
    weighted_mean,
)
from stages.base.signals import Observation, Observer, Signals
from stages.media.blocks import ByteImage, Frame, SourceFormat
from stages.video.faces.detectors import FaceDetector, HaarCascade, YuNet
from stages.video.faces.tracks import Face, FaceSample, FaceTrack, link_faces

_SAME_FRAME_CHANGE = 0.3
"""Mean change of luma (0..255) below which a face cannot have moved: slides, stills, pauses."""
_THUMBNAIL_SIZE = (32, 18)

PersonKind = Literal["none", "single", "multi"]


class FacesParameters(StageParameters):
    """How faces are looked for, linked and counted."""

    samples_hz: float = pydantic.Field(
        default=2.0, gt=0, le=120, description="pictures looked at a second"
    )
    yunet_score: float = pydantic.Field(
        default=0.65, gt=0, lt=1, description="least score of a YuNet face that begins a track"
    )
    yunet_next_score: float = pydantic.Field(
        default=0.5, gt=0, lt=1, description="least score of one that carries a track on"
    )
    haar_neighbours: int = pydantic.Field(
        default=7, ge=1, description="detections that must agree on a Haar face"
    )
    min_height_share: float = pydantic.Field(
        default=0.06,
        gt=0,
        lt=1,
        description="least size of a face as a share of the picture's short side",
    )
    min_overlap: float = pydantic.Field(
        default=0.3, gt=0, lt=1, description="overlap of doubled boxes that links a face to a track"
    )
    max_missed: int = pydantic.Field(
        default=2, ge=0, description="samples in a row that a track may miss"
    )
    min_track_samples: int = pydantic.Field(
        default=3,
        ge=1,
        description="samples a face must be seen in; fewer in a unit of fewer samples",
    )
    kind_share: float = pydantic.Field(
        default=0.2, gt=0, lt=1, description="share of samples from which faces, or several, matter"
    )
    same_scene_correlation: float = pydantic.Field(
        default=0.5, ge=-1, le=1, description="correlation of thumbnails below which tracks are cut"
    )


@dataclasses.dataclass(frozen=True)
class FacesRecord:
    """The faces of a clip.

    `count` is the median number of faces at a time, `max_count` the largest; `kind` is none, single
    or multi by what most of the clip shows; `largest_share` is the area of the largest face's box
    as a share (0..1) of the frame, mean over the samples that show a face, 0 without any.
    """

    count: int
    max_count: int
    kind: PersonKind
    largest_share: float


@dataclasses.dataclass(frozen=True)
class FaceTrackRow:
    """One face followed through a unit at the sampling rate: a row of `face_tracks`.

    Boxes are shares (0..1) of the displayed picture; `mouth_*` are the mouth's centre where the
    detector knows it.
    """

    track_index: int
    times_s: list[float]
    left: list[float]
    top: list[float]
    width: list[float]
    height: list[float]
    score: list[float]
    mouth_x: list[float | None]
    mouth_y: list[float | None]


class FacesStage(SignalStage[FacesParameters]):
    """Backends `yunet` (needs weights) and `haar`; `auto` is the first that can be had."""

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 2
    media: ClassVar[Literal["video", "audio"]] = "video"
    series: ClassVar[tuple[str, ...]] = (
        "samples",
        "with_none",
        "with_one",
        "with_several",
        "max_count",
        "largest_share",
    )
    backends: ClassVar[tuple[BackendDeclaration, ...]] = (
        BackendDeclaration("yunet", weights=("yunet",)),
        BackendDeclaration("haar"),
    )
    side_tables: ClassVar[Mapping[str, type]] = {"face_tracks": FaceTrackRow}
    Parameters: ClassVar[type[StageParameters]] = FacesParameters
    Record: ClassVar[type] = FacesRecord

    def observer(self, source: SourceFormat) -> Observer:
        """A fresh observer for one unit.

        Raises:
            UsageError: `missing_weights`, if they have gone since the job began.
        """
        return _FacesObserver(self.parameters, self._detector())

    def _detector(self) -> FaceDetector:
        settings = self.parameters
        if self.backend.name == "yunet":
            return YuNet(
                self.require_weights("yunet"),
                first_score=settings.yunet_score,
                next_score=settings.yunet_next_score,
                min_height_share=settings.min_height_share,
            )
        return HaarCascade(
            neighbours=settings.haar_neighbours, min_height_share=settings.min_height_share
        )

    def summarise(
        self,
        signals: Signals,
        start_s: float,
        end_s: float,
        side_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> FacesRecord | NotApplicable:
        """Counts over the clip's samples."""
        series = signals.series
        samples = np.nan_to_num(series["samples"])
        spread = observed_weights(samples > 0, signals.weights(start_s, end_s))
        total = float(np.dot(spread, samples))
        if total <= 0:
            return NotApplicable("no picture was looked at in this span")
        none, one, several = (
            float(np.dot(spread, np.nan_to_num(series[name]))) / total
            for name in ("with_none", "with_one", "with_several")
        )
        inside = inner_bins(spread) & ~np.isnan(series["max_count"])
        counts = series["max_count"][inside]
        largest_share = weighted_mean(series["largest_share"], spread * samples * (samples > 0))
        return FacesRecord(
            count=int(np.median(counts)) if len(counts) else 0,
            max_count=int(counts.max()) if len(counts) else 0,
            kind=person_kind(none, one, several, self.parameters.kind_share),
            largest_share=largest_share or 0.0,
        )


def person_kind(none: float, one: float, several: float, least_share: float) -> PersonKind:
    """`none` if faces show in too few samples, `multi` if several do in enough of those that have.

    Args:
        none: share of samples without a face.
        one: share of samples with one.
        several: share of samples with more.
        least_share: what is too few.
    """
    with_faces = one + several
    if with_faces < least_share or none >= 1.0:
        return "none"
    return "multi" if several / with_faces >= least_share else "single"


class _FacesObserver(Observer):
    def __init__(self, parameters: FacesParameters, detector: FaceDetector) -> None:
        self._parameters = parameters
        self._detector = detector
        self._next_s = -np.inf
        self._thumbnail: ByteImage | None = None
        self._looked_at: tuple[ByteImage, list[Face]] | None = None
        self._samples: list[FaceSample] = []

    def frame(self, frame: Frame) -> None:
        if frame.time_s < self._next_s:
            return
        self._next_s = frame.time_s + 1.0 / self._parameters.samples_hz - 1e-6
        thumbnail = cv2.resize(frame.luma, _THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
        before, self._thumbnail = self._thumbnail, np.asarray(thumbnail, dtype=np.uint8)
        after_cut = before is not None and not self._same_scene(before, self._thumbnail)
        faces = self._faces(frame)
        self._samples.append(FaceSample(frame.time_s, faces, after_cut))

    def _faces(self, frame: Frame) -> list[Face]:
        """The frame's faces; those of the last one looked at where the two are the same."""
        if self._looked_at is not None:
            change = cv2.norm(frame.luma, self._looked_at[0], cv2.NORM_L1) / frame.luma.size
            if change < _SAME_FRAME_CHANGE:
                return self._looked_at[1]
        self._looked_at = (frame.luma.copy(), self._detector.faces(frame))
        return self._looked_at[1]

    def finish(self, start_s: float, end_s: float) -> Observation:
        tracks = self._stable_tracks()
        counts = np.zeros(len(self._samples))
        largest = np.full(len(self._samples), np.nan)
        for track in tracks:
            counts[track.samples[0] : track.samples[-1] + 1] += 1
            for sample, face in zip(track.samples, track.faces, strict=True):
                largest[sample] = np.fmax(largest[sample], face.width * face.height)
        times_s = [sample.time_s for sample in self._samples]
        grid = BinGrid(start_s, end_s, VIDEO_BIN_RATE_HZ)
        most = np.full(grid.bins, np.nan)
        if times_s:
            np.fmax.at(most, grid.index(times_s), counts)
        series = {
            "samples": grid.counts(times_s),
            "with_none": grid.sums(times_s, np.where(counts == 0, 1.0, 0.0)),
            "with_one": grid.sums(times_s, np.where(counts == 1, 1.0, 0.0)),
            "with_several": grid.sums(times_s, np.where(counts > 1, 1.0, 0.0)),
            "max_count": most,
            "largest_share": grid.means(times_s, largest),
        }
        rows = [self._row(index, track) for index, track in enumerate(tracks)]
        return Observation(Signals(start_s, grid.rate_hz, series), {"face_tracks": rows})

    def _same_scene(self, before: ByteImage, after: ByteImage) -> bool:
        """Whether two thumbnails look alike; a face at the same place may be another person's."""
        one = before.astype(np.float64) - before.mean()
        two = after.astype(np.float64) - after.mean()
        energy = float(np.sqrt(np.sum(one * one) * np.sum(two * two)))
        if energy < 1e-6:
            return True
        return float(np.sum(one * two)) / energy >= self._parameters.same_scene_correlation

    def _stable_tracks(self) -> list[FaceTrack]:
        tracks = link_faces(
            self._samples,
            min_overlap=self._parameters.min_overlap,
            max_missed=self._parameters.max_missed,
            min_first_score=self._detector.first_score,
        )
        least = min(self._parameters.min_track_samples, max(1, (len(self._samples) + 1) // 2))
        # A face that was missed in more samples than it was found in was probably never there.
        return [
            track
            for track in tracks
            if len(track.samples) >= least
            and 2 * len(track.samples) > track.samples[-1] - track.samples[0] + 1
        ]

    def _row(self, index: int, track: FaceTrack) -> dict[str, Any]:
        faces = track.faces
        return {
            "track_index": index,
            "times_s": [self._samples[sample].time_s for sample in track.samples],
            **{
                name: [getattr(face, name) for face in faces]
                for name in ("left", "top", "width", "height", "score", "mouth_x", "mouth_y")
            },
        }
