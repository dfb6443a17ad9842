"""Events are seen when they are heard, and their words tell which they are."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.demo_bucket import (
    EVENT_SHAPE,
    ClipTruth,
    Event,
    event_clip,
    event_design,
    stage_event,
)
from curation.demo_bucket.events.design import RGB, EventColour, EventKind
from stages.media.blocks import AudioBlock, Frame
from stages.media.decode import decode_unit
from stages.media.probe import probe
from stages.registry import SIGNAL_STAGES, build_signal_stage

SHORT = dataclasses.replace(EVENT_SHAPE, duration_s=4.0)
KINDS: tuple[EventKind, ...] = ("ball", "lamp", "speaker")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[EventKind, tuple[Path, ClipTruth]]:
    """One clip of each kind."""
    folder = tmp_path_factory.mktemp("events")
    return {
        kind: (
            folder / f"{kind}.mp4",
            event_clip(
                folder / f"{kind}.mp4",
                Event(kind=kind, colour="green", setting="second", tempo="fast"),
                seed=5,
                shape=SHORT,
            ),
        )
        for kind in KINDS
    }


def pictures(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in seconds, and RGB `[frames, height, width, 3]`."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times_s = np.array([frame.time for frame in frames], np.float64)
    return times_s, np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)


def loudness(path: Path, times_s: NDArray[np.float64], span_s: float) -> NDArray[np.float64]:
    """RMS of the sound within `span_s` after each time."""
    with av.open(str(path)) as container:
        blocks = list(container.decode(audio=0))
    rate_hz = blocks[0].sample_rate
    samples = np.concatenate([block.to_ndarray() for block in blocks], axis=1)[0]
    spans = [(round(at * rate_hz), round((at + span_s) * rate_hz)) for at in times_s]
    return np.array([np.sqrt(np.mean(samples[max(0, a) : b] ** 2)) for a, b in spans])


def test_every_combination_comes_once_and_has_words_of_its_own() -> None:
    design = event_design()
    assert len(set(design)) == len(design) == 3 * 4 * 2 * 2
    captions = {
        stage_event(event, shape=SHORT).caption for event in design if event.kind != "speaker"
    }
    assert len(captions) == 2 * 4 * 2 * 2
    for one, other in itertools.combinations(
        [field.name for field in dataclasses.fields(Event)], 2
    ):
        counts = collections.Counter((getattr(e, one), getattr(e, other)) for e in design)
        assert len(set(counts.values())) == 1


def test_the_ball_is_lowest_where_it_thumps(
    clips: dict[EventKind, tuple[Path, ClipTruth]],
) -> None:
    path, truth = clips["ball"]
    assert truth.event is not None
    times_s, rgb = pictures(path)
    greenness = np.clip(rgb[..., 1] - np.maximum(rgb[..., 0], rgb[..., 2]) - 40, 0, None)
    rows = np.arange(rgb.shape[1])[:, None]
    height = (greenness * rows).sum((1, 2)) / greenness.sum((1, 2))
    for moment_s in truth.event.moments_s:
        near = np.abs(times_s - moment_s) < 0.25
        assert abs(times_s[near][np.argmax(height[near])] - moment_s) <= 1.5 / 24
    inner = np.array([each for each in truth.event.moments_s if 0.1 < each < 3.8])
    assert len(inner) >= 4
    after, before = loudness(path, inner, 0.05), loudness(path, inner - 0.06, 0.05)
    assert (after > 4 * before).all()


@pytest.mark.parametrize(("colour", "pitch_hz"), [("red", 330), ("yellow", 600), ("blue", 2000)])
def test_the_lamps_colour_tells_the_pitch(colour: EventColour, pitch_hz: float) -> None:
    staged = stage_event(Event(kind="lamp", colour=colour), seed=3, shape=SHORT)
    spectrum = np.abs(np.fft.rfft(staged.samples))
    loudest_hz = np.fft.rfftfreq(len(staged.samples), 1 / 48_000)[np.argmax(spectrum)]
    assert loudest_hz == pytest.approx(pitch_hz, abs=3)
    unlit, lit = (staged.draw(staged.moments_s[0] + after_s) for after_s in (0.0, 0.3))
    glow = np.abs(lit.astype(float) - unlit).sum(2) > 60
    hue = lit[glow].mean(0) / lit[glow].mean()
    away = {name: np.abs(hue - np.array(rgb) / np.mean(rgb)).sum() for name, rgb in RGB.items()}
    assert min(away, key=lambda name: away[name]) == colour


def test_the_lamp_is_as_bright_as_its_sound_is_loud(
    clips: dict[EventKind, tuple[Path, ClipTruth]],
) -> None:
    path, _ = clips["lamp"]
    times_s, rgb = pictures(path)
    brightness = rgb[..., 1].mean((1, 2))
    inner = slice(2, -2)
    heard = loudness(path, times_s[inner] - 0.01, 0.02)
    assert np.corrcoef(brightness[inner], heard)[0, 1] > 0.9


def test_the_speaker_is_silent_with_a_shut_mouth(
    clips: dict[EventKind, tuple[Path, ClipTruth]],
) -> None:
    path, truth = clips["speaker"]
    assert (truth.face_kind, truth.sync, truth.offset_frames) == ("single", "synced", 0)
    times_s, rgb = pictures(path)
    height, width = rgb.shape[1:3]
    mouth = rgb[
        :, round(0.55 * height) : round(0.75 * height), round(0.4 * width) : round(0.6 * width)
    ]
    dark = (mouth.mean(3) < 70).mean((1, 2))
    heard = loudness(path, times_s - 0.02, 0.04)
    loud = heard > np.quantile(heard, 0.7)
    quiet = heard < np.quantile(heard, 0.2)
    assert dark[loud].mean() > 2 * dark[quiet].mean()
    assert len(truth.speech_segments_s) >= 1


def test_the_seed_moves_what_the_words_leave_open() -> None:
    event = Event(kind="lamp")
    one, again, other = (stage_event(event, seed=seed, shape=SHORT) for seed in (1, 1, 2))
    assert one.moments_s == again.moments_s != other.moments_s
    assert one.caption == other.caption
    assert np.array_equal(one.draw(1.0), again.draw(1.0))


def as_measured(path: Path) -> dict[str, Any]:
    """Return what the signal stages say of the file's first 121 frames, as a row of `dataset`."""
    source = probe(str(path))
    stages = [build_signal_stage(name, {}) for name in SIGNAL_STAGES]
    observers = [stage.observer(source) for stage in stages]
    media = [stage.media for stage in stages]

    def on_frame(picture: Frame) -> None:
        for observer in itertools.compress(observers, (each == "video" for each in media)):
            observer.frame(picture)

    def on_audio(block: AudioBlock) -> None:
        for observer in itertools.compress(observers, (each == "audio" for each in media)):
            observer.audio(block)

    span = decode_unit(
        str(path),
        source,
        -math.inf,
        math.inf,
        on_frame=on_frame,
        on_audio=on_audio,
    )
    assert span.start_s is not None and span.end_s is not None
    row: dict[str, Any] = {"width": source.width, "height": source.height}
    for stage, observer in zip(stages, observers, strict=True):
        observation = observer.finish(span.start_s, span.end_s)
        end_s = span.start_s + 121 / 24
        record = stage.summarise(observation.signals, span.start_s, end_s, observation.side_rows)
        assert dataclasses.is_dataclass(record) and not isinstance(record, type)
        row[stage.name] = dataclasses.asdict(record)
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_gates_have_nothing_against_an_event(
    clips: dict[EventKind, tuple[Path, ClipTruth]], kind: EventKind
) -> None:
    path, truth = clips[kind]
    row = as_measured(path)
    assert row["shots"]["count"] == 1
    assert row["motion"]["static_share"] < 0.9
    assert row["motion"]["frozen_share"] < 0.5
    assert row["loudness"]["mean_volume_db"] > -40
    assert row["faces"]["kind"] == truth.face_kind
    assert (row["speech"]["speech_ratio"] > 0.3) == (kind == "speaker")
