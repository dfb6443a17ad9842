"""Linking the faces of sampled frames into tracks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Face:
    """A detected face; places and sizes are shares (0..1) of the displayed picture.

    `mouth_x` and `mouth_y` are None where the detector does not know the mouth.
    """

    left: float
    top: float
    width: float
    height: float
    score: float
    mouth_x: float | None = None
    mouth_y: float | None = None


@dataclasses.dataclass(frozen=True)
class FaceSample:
    """The faces of one sampled frame; `after_cut` if it shows another scene than the last one."""

    time_s: float
    faces: Sequence[Face]
    after_cut: bool = False


@dataclasses.dataclass
class FaceTrack:
    """One face over time: the samples' numbers and the faces found in them."""

    samples: list[int]
    faces: list[Face]

    def covers(self, sample: int) -> bool:
        """Whether the face is taken to be there at a sample, found or missed."""
        return self.samples[0] <= sample <= self.samples[-1]


def link_faces(
    samples: Sequence[FaceSample],
    *,
    min_overlap: float,
    max_missed: int,
    min_first_score: float = 0.0,
) -> list[FaceTrack]:
    """Link faces into tracks, best overlap first.

    A face carries on the track whose last box it overlaps enough, unless the track has been missed
    for too long or a cut lies between. Faces are sampled about twice a second, so heads move far:
    boxes are compared at twice their size.

    Args:
        samples: in order of time.
        min_overlap: intersection over union of the enlarged boxes, at least.
        max_missed: samples in a row that a track may miss.
        min_first_score: least score of a face that begins a track; fainter ones only carry one on.
    """
    tracks: list[FaceTrack] = []
    open_tracks: list[FaceTrack] = []
    for number, sample in enumerate(samples):
        if sample.after_cut:
            open_tracks = []
        open_tracks = [
            track for track in open_tracks if number - track.samples[-1] <= max_missed + 1
        ]
        pairs = sorted(
            (
                (overlap(track.faces[-1], face, growth=2.0), track_place, face_place)
                for track_place, track in enumerate(open_tracks)
                for face_place, face in enumerate(sample.faces)
            ),
            key=lambda pair: (-pair[0], pair[1], pair[2]),
        )
        linked_tracks: set[int] = set()
        linked_faces: set[int] = set()
        for share, track_place, face_place in pairs:
            if share < min_overlap:
                break
            if track_place in linked_tracks or face_place in linked_faces:
                continue
            linked_tracks.add(track_place)
            linked_faces.add(face_place)
            open_tracks[track_place].samples.append(number)
            open_tracks[track_place].faces.append(sample.faces[face_place])
        for face_place, face in enumerate(sample.faces):
            if face_place not in linked_faces and sample.faces[face_place].score >= min_first_score:
                track = FaceTrack([number], [face])
                tracks.append(track)
                open_tracks.append(track)
    return tracks


def overlap(first: Face, second: Face, *, growth: float = 1.0) -> float:
    """Intersection over union (0..1) of two boxes, each enlarged `growth` times in place."""
    spans = []
    for start, size in (("left", "width"), ("top", "height")):
        one_size, two_size = getattr(first, size) * growth, getattr(second, size) * growth
        one = getattr(first, start) + getattr(first, size) / 2 - one_size / 2
        two = getattr(second, start) + getattr(second, size) / 2 - two_size / 2
        shared = min(one + one_size, two + two_size) - max(one, two)
        spans.append((max(0.0, shared), one_size, two_size))
    (across, one_width, two_width), (down, one_height, two_height) = spans
    shared_area = across * down
    union = one_width * one_height + two_width * two_height - shared_area
    return shared_area / union if union > 0 else 0.0
