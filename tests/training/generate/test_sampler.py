"""Clips out of a run: playable, repeatable, and true to what was given."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from torch import Tensor

from tests.support.command_line import twinreel
from training.generate.given import read_audio, read_image, read_video
from training.generate.request import Request
from training.generate.sampler import Sampler
from training.recipe import load_recipe


def test_a_prompt_becomes_a_playable_clip(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    finished = twinreel("generate", run, "--prompt", "A voice", "--out", out, "--scale", "4")
    assert finished.code == 0, finished.err
    assert "49 frames of 128 x 64, 2.04 s of audio" in finished.out
    with av.open(str(out)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (128, 64, 24)
        audio_s = float(audio.duration * audio.time_base)
        frames = list(container.decode(video))
    assert len(frames) == 49
    assert float(frames[-1].time or 0) == pytest.approx(2.0, abs=0.01)
    assert audio_s == pytest.approx(32_667 / 16_000, abs=0.13)


def test_equal_seeds_give_equal_clips(run: Path) -> None:
    sampler = Sampler(run)
    first, again = (sampler.generate(Request("A wide video clip")) for _ in range(2))
    other = sampler.generate(Request("A wide video clip", seed=1))
    assert first.frames is not None
    assert other.frames is not None
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.audio, again.audio)
    assert not np.array_equal(first.frames, other.frames)


def as_bytes(frames: Tensor) -> np.ndarray:
    """[3, frames, rows, columns] in [-1, 1] as uint8 [frames, rows, columns, 3]."""
    return ((frames.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()


def test_an_image_is_the_first_frame(run: Path, clip: Path, tmp_path: Path) -> None:
    generated = Sampler(run).generate(Request("words", image=clip))
    assert generated.frames is not None
    rows, columns = generated.frames.shape[1:3]
    wanted = as_bytes(read_image(clip, width=columns, height=rows))[0]
    luma = np.array([0.2126, 0.7152, 0.0722])
    difference = np.abs(generated.frames[0] @ luma - wanted @ luma)
    assert difference.mean() < 6
    assert np.abs(generated.frames[30] @ luma - wanted @ luma).mean() > 12


def test_given_parts_come_back(run: Path, clip: Path) -> None:
    sampler = Sampler(run)
    foley = sampler.generate(Request("words", video=clip))
    assert foley.frames is not None
    assert foley.audio is not None
    columns, rows = foley.frames.shape[2], foley.frames.shape[1]
    wanted = read_video(clip, frames=49, fps=24, width=columns, height=rows)
    found = foley.frames[0].astype(float).mean(), foley.frames[45].astype(float).mean()
    assert found[0] == pytest.approx(float(wanted[:, 0].mean() + 1) * 127.5, abs=4)
    assert found[1] == pytest.approx(float(wanted[:, 45].mean() + 1) * 127.5, abs=4)

    painted = sampler.generate(Request("words", audio=clip))
    assert painted.audio is not None
    assert len(painted.audio) == 32_667
    given = read_audio(clip, samples=24_000, rate_hz=16_000).numpy()
    assert np.array_equal(painted.audio[:24_000], given)
    assert np.abs(painted.audio[26_000:]).max() < 1e-4


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
    tall = sampler.generate(Request("words", aspect=(9, 16))).frames
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
        (("--out", "no such folder/clip.mp4"), "[folder_missing]"),
        (("--prompts", "prompts.txt"), "[prompt_missing]"),
    ],
)
def test_what_cannot_be_generated_is_said(
    run: Path, clip: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "recipe.yaml").write_text("words: 1")
    given = [
        str(tmp_path / part)
        if part.endswith((".yaml", ".avi", "folder/clip.mp4"))
        else part.replace("CLIP", str(clip))
        for part in arguments
    ]
    out = () if "--out" in given else ("--out", tmp_path / "clip.mp4")
    finished = twinreel("generate", run, "--prompt", "words", *out, *given)
    assert finished.code != 0
    assert words in finished.message
    assert not (tmp_path / "no such folder").exists()


def test_a_folder_without_checkpoints_is_named(curated: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    arguments = ("--prompt", "words", "--out", tmp_path / "clip.mp4")
    assert "[not_a_run]" in twinreel("generate", curated, *arguments).message
    recipe = load_recipe("tiny")
    (tmp_path / "begun" / "recipe.yaml").write_text(recipe.to_yaml())
    assert "[no_checkpoint]" in twinreel("generate", tmp_path / "begun", *arguments).message
