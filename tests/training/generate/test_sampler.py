"""Clips out of a run: playable, repeatable, and true to what was given."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from curation.demo_bucket import Shape, scenery_clip
from tests.support.command_line import twinreel
from training.data.media import (
    fit_size,
    read_picture,
    read_pictures,
    read_sound_file,
    read_video_file,
)
from training.generate.sampler import Request, Sampler
from training.recipe import load_recipe


@pytest.fixture(scope="module")
def run(curated: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "run"
    finished = twinreel(
        "train", recipe_file, "--data", curated, "--run", folder, "--set", "evaluation.samples=0"
    )
    assert finished.code == 0, finished.err
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scenery_clip(path, seed=3, shape=Shape(320, 180, 25, 3.0))
    return path


def test_a_prompt_becomes_a_playable_clip(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "clip.mp4"
    finished = twinreel("generate", run, "--prompt", "A voice", "--out", out, "--scale", "4")
    assert finished.code == 0, finished.err
    assert "121 frames of 128 x 64, 5.04 s of sound" in finished.out
    with av.open(str(out)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (128, 64, 24)
        frames = list(container.decode(video))
    assert len(frames) == 121
    assert float(frames[-1].time or 0) == pytest.approx(5.0, abs=0.01)
    sound = read_sound_file(out, rate_hz=16_000)
    assert len(sound) == pytest.approx(80_667, abs=2100)


def test_equal_seeds_give_equal_clips(run: Path) -> None:
    sampler = Sampler(run)
    first, again = (sampler.generate(Request("A wide video clip")) for _ in range(2))
    other = sampler.generate(Request("A wide video clip", seed=1))
    assert first.pictures is not None
    assert other.pictures is not None
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.sound, again.sound)
    assert not np.array_equal(first.pictures, other.pictures)


def test_an_image_is_the_first_picture(run: Path, clip: Path, tmp_path: Path) -> None:
    generated = Sampler(run).generate(Request("words", image=clip))
    assert generated.pictures is not None
    rows, columns = generated.pictures.shape[1:3]
    wanted = read_picture(clip, width=columns, height=rows)
    luma = np.array([0.2126, 0.7152, 0.0722])
    difference = np.abs(generated.pictures[0] @ luma - wanted @ luma)
    assert difference.mean() < 6
    assert np.abs(generated.pictures[60] @ luma - wanted @ luma).mean() > 12


def test_given_parts_come_back(run: Path, clip: Path) -> None:
    sampler = Sampler(run)
    foley = sampler.generate(Request("words", video=clip))
    assert foley.pictures is not None
    assert foley.sound is not None
    columns, rows = foley.pictures.shape[2], foley.pictures.shape[1]
    wanted = read_video_file(clip, frames=121, fps=24, width=columns, height=rows)
    found = foley.pictures[0].astype(float).mean(), foley.pictures[100].astype(float).mean()
    assert found[0] == pytest.approx(float(wanted[:, 0].mean() + 1) * 127.5, abs=4)
    assert found[1] == pytest.approx(float(wanted[:, 100].mean() + 1) * 127.5, abs=4)

    painted = sampler.generate(Request("words", audio=clip))
    assert painted.sound is not None
    sound = read_sound_file(clip, rate_hz=16_000).numpy()
    assert np.array_equal(painted.sound[: len(sound)], sound)
    assert not painted.sound[len(sound) :].any()


def test_tasks_without_a_modality_leave_it_out(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    arguments = ("generate", run, "--prompt", "words", "--out", out, "--guidance", "1")
    silent = twinreel(*arguments, "--task", "t2v")
    assert silent.code == 0, silent.err
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    heard = twinreel(*arguments, "--task", "t2a")
    assert heard.code == 0, heard.err
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["audio"]


def test_sizes_are_aspects(run: Path) -> None:
    sampler = Sampler(run)
    tall = sampler.generate(Request("words", aspect=(9, 16))).pictures
    assert tall is not None
    assert tall.shape[1:3] == (32, 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "i2av"), "needs --image"),
        (("--task", "t2av", "--image", "CLIP"), "is given nothing"),
        (("--image", "CLIP", "--audio", "CLIP"), "Give one of them"),
        (("--task", "t2x"), "Tasks are a2v, extend"),
        (("--size", "16:9"), "such as 16x9"),
        (("--image", "recipe.yaml"), "[image_unreadable]"),
        (("--video", "missing.mp4"), "[image_unreadable]"),
        (("--audio", "recipe.yaml"), "[sound_unreadable]"),
        (("--out", "clip.avi"), "[not_an_mp4]"),
    ],
)
def test_what_cannot_be_generated_is_said(
    run: Path, clip: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "recipe.yaml").write_text("words: 1")
    given = [
        str(tmp_path / part)
        if part.endswith((".yaml", ".avi"))
        else part.replace("CLIP", str(clip))
        for part in arguments
    ]
    out = () if "--out" in given else ("--out", tmp_path / "clip.mp4")
    finished = twinreel("generate", run, "--prompt", "words", *out, *given)
    assert finished.code != 0
    assert words in finished.message


def test_a_folder_without_checkpoints_is_named(curated: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    arguments = ("--prompt", "words", "--out", tmp_path / "clip.mp4")
    assert "[not_a_run]" in twinreel("generate", curated, *arguments).message
    recipe = load_recipe("tiny")
    (tmp_path / "begun" / "recipe.yaml").write_text(recipe.to_yaml())
    assert "[no_checkpoint]" in twinreel("generate", tmp_path / "begun", *arguments).message


@pytest.mark.parametrize(
    ("size", "area_px", "multiple", "wanted"),
    [
        ((720, 720), 518_400, 32, (704, 704)),
        ((960, 960), 921_600, 32, (960, 960)),
        ((960, 540), 518_400, 32, (960, 544)),
        ((540, 960), 518_400, 32, (544, 960)),
        ((1000, 10), 2048, 8, (456, 8)),
    ],
)
def test_sizes_are_multiples_nearest_to_the_area(
    size: tuple[int, int], area_px: int, multiple: int, wanted: tuple[int, int]
) -> None:
    assert fit_size(*size, area_px=area_px, multiple=multiple) == wanted


def test_pictures_are_cropped_and_not_squeezed(clip: Path) -> None:
    """A square out of 320 x 180 is the middle 180 x 180."""
    square = read_pictures(clip.read_bytes(), "mp4", frames=9, width=60, height=60, subject="clip")
    assert square.shape == (3, 9, 60, 60)
    whole = read_pictures(clip.read_bytes(), "mp4", frames=9, width=107, height=60, subject="clip")
    middle = whole[..., 23:83]
    assert (square - middle).abs().mean() < 0.03
    assert (square - whole[..., :60]).abs().mean() > 0.1


def test_videos_are_read_by_time(tmp_path: Path) -> None:
    """At 12 frames a second each second picture of 24 is seen; a short video holds its last."""
    path = tmp_path / "clip.mp4"
    scenery_clip(path, seed=5, shape=Shape(64, 36, 24, 1.0))
    every = read_video_file(path, frames=24, fps=24, width=64, height=36)
    half = read_video_file(path, frames=12, fps=12, width=64, height=36)
    assert (half - every[:, ::2]).abs().amax() < 1e-6 or (half - every[:, 1::2]).abs().amax() < 1e-6
    longer = read_video_file(path, frames=30, fps=24, width=64, height=36)
    assert (longer[:, 24:] == longer[:, 23:24]).all()


def test_sound_files_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    times = np.arange(48_000) / 48_000
    soundfile.write(path, np.sin(2 * np.pi * 440 * times).astype(np.float32), 48_000)
    sound = read_sound_file(path, rate_hz=16_000).numpy()
    assert len(sound) == pytest.approx(16_000, abs=32)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.argmax(spectrum) * 16_000 / len(sound) == pytest.approx(440, abs=2)
