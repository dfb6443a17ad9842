"""The demo bucket: which clips it holds, and the command's one function, `render_bucket`."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from curation.demo_bucket.clips import (
    Shape,
    audio_clip,
    cuts_clip,
    dropped_clip,
    fade_clip,
    flash_beep_clip,
    frozen_clip,
    letterbox_clip,
    pan_clip,
    scenery_clip,
    still_clip,
    talking_face_clip,
    two_faces_clip,
)
from curation.demo_bucket.events import event_clip, event_design
from curation.demo_bucket.render import AudioTrack, VideoFormat, mp4_boxes
from curation.demo_bucket.sounds import silence, speech_like_sound, stereo, tone
from curation.demo_bucket.truth import TRUTH_FILE, BucketTruth, ClipTruth
from manifests.errors import UsageError
from stages.media.blocks import Margins
from twinreel._names import claim

Recipe = Callable[[Path], ClipTruth]


def render_bucket(
    directory: Path,
    *,
    seed: int = 0,
    on_clip: Callable[[ClipTruth], None] | None = None,
    processes: int = 1,
) -> BucketTruth:
    """Render a small raw bucket of video and audio files with known truth.

    Equal seeds give equal bytes, however many processes render them. Files of an earlier demo
    bucket in `directory` are overwritten. Beside an event lies its caption (`.txt`).

    Args:
        directory: where to write; created if need be. The truth goes beside the media, to
            `truth.json`.
        seed: chooses scenes, persons and voices; the known numbers are the same for every seed.
        on_clip: told of each file as soon as it and those before it are written.
        processes: that render side by side; 1 is this one.

    Raises:
        UsageError: `directory` holds other files, is no directory, or cannot be written.
    """
    recipes = bucket_recipes(seed)
    captions = {PurePosixPath(file).with_suffix(".txt").as_posix() for file in recipes}
    _check_directory(directory, {*recipes, *captions, TRUTH_FILE})
    clips: list[ClipTruth] = []
    try:
        for file in recipes:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
        render = partial(_render, directory, seed)
        with contextlib.ExitStack() as stack:
            rendered: Iterable[ClipTruth] = map(render, sorted(recipes))
            if processes > 1:
                # Not forked: the libraries that draw and encode have threads of their own.
                context = multiprocessing.get_context("spawn")
                # Before they are given anything: they look for our names in the working folder too.
                executor = ProcessPoolExecutor(processes, context, initializer=claim)
                pool = stack.enter_context(executor)
                rendered = pool.map(render, sorted(recipes))
            for clip in rendered:
                clips.append(clip)
                if on_clip is not None:
                    on_clip(clip)
        truth = BucketTruth(seed, tuple(clips))
        (directory / TRUTH_FILE).write_text(truth.to_json(), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "directory_not_writable",
            f"the demo bucket cannot be written: {error}.",
            subject=str(directory),
            remedy="Name a directory that you may write, with about 60 MB free.",
        ) from error
    return truth


def _render(directory: Path, seed: int, file: str) -> ClipTruth:
    """Render one file of a bucket, and the caption beside it if it has one."""
    path = directory / file
    clip = replace(bucket_recipes(seed)[file](path), file=file)
    if clip.event is not None:
        path.with_suffix(".txt").write_text(clip.event.caption + "\n", encoding="utf-8")
    return clip


def _check_directory(directory: Path, own: set[str]) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(
            "not_a_directory",
            "the demo bucket needs a directory, and this is a file.",
            subject=str(directory),
            remedy="Name a new or empty directory.",
        )
    present = (path for path in directory.rglob("*") if not path.is_dir())
    foreign = sorted(
        name for path in present if (name := path.relative_to(directory).as_posix()) not in own
    )
    if foreign:
        raise UsageError(
            "directory_not_empty",
            f"the directory holds files that are not the demo bucket's, such as {foreign[0]}.",
            subject=str(directory),
            remedy="Name a new or empty directory.",
        )


def bucket_recipes(seed: int) -> dict[str, Recipe]:
    """Return {path within the bucket: function that renders it} for a seed."""
    base = seed * 10_000
    return {
        **_scene_recipes(base),
        **_face_recipes(base),
        **_timing_recipes(base),
        **_sound_recipes(base),
        **_event_recipes(base),
        **_format_recipes(base),
        **_broken_recipes(base),
    }


def _scene_recipes(base: int) -> dict[str, Recipe]:
    hd = Shape(width=1280, height=720)
    return {
        "scenes/cuts.mp4": partial(cuts_clip, cut_times_s=(5.5, 11.0), seed=base + 1),
        "scenes/fade.mp4": partial(fade_clip, fade_span_s=(5.5, 7.0), seed=base + 2),
        "scenes/still.mp4": partial(still_clip, seed=base + 3),
        "scenes/pan_slow.mp4": partial(pan_clip, speed_px_s=48.0, seed=base + 4, shape=hd),
        "scenes/pan_fast.mp4": partial(pan_clip, speed_px_s=-240.0, seed=base + 5),
        "scenes/frozen.mp4": partial(frozen_clip, frozen_share=0.3, seed=base + 6),
        "scenes/dropped.mp4": partial(dropped_clip, dropped_share=0.2, seed=base + 7),
        "scenes/letterbox.mp4": partial(
            letterbox_clip, margins=Margins(top=70, bottom=70), seed=base + 8
        ),
        "scenes/pillarbox.mp4": partial(
            letterbox_clip, margins=Margins(left=120, right=120), seed=base + 9
        ),
    }


def _face_recipes(base: int) -> dict[str, Recipe]:
    talk = partial(talking_face_clip, shape=Shape(width=640, height=360, fps=25, duration_s=8.0))
    pair = Shape(width=960, height=540, fps=25, duration_s=7.0)
    return {
        "faces/synced_0.mp4": partial(talk, offset_frames=0, seed=base + 20),
        "faces/synced_early_5.mp4": partial(talk, offset_frames=5, seed=base + 21),
        "faces/synced_late_7.mp4": partial(talk, offset_frames=-7, seed=base + 22),
        "faces/swapped.mp4": partial(talk, kind="swapped", seed=base + 23),
        "faces/still_mouth.mp4": partial(talk, kind="still", seed=base + 24),
        "faces/two_faces.mp4": partial(two_faces_clip, seed=base + 25, shape=pair),
        "faces/rotated.mp4": partial(
            talking_face_clip,
            seed=base + 27,
            face_height_share=0.33,
            shape=Shape(
                width=960, height=540, fps=25, duration_s=6, video=VideoFormat(rotation_deg=90)
            ),
            upright_turn=1,
        ),
    }


def _timing_recipes(base: int) -> dict[str, Recipe]:
    return {
        "timing/flash_beep_25.mp4": partial(flash_beep_clip, seed=base + 40),
        "timing/flash_beep_24.mp4": partial(flash_beep_clip, seed=base + 41, shape=Shape(fps=24)),
        "timing/flash_beep_60.mp4": partial(
            flash_beep_clip, seed=base + 42, shape=Shape(width=640, height=360, fps=60)
        ),
        "timing/flash_beep_late_video.mp4": partial(
            flash_beep_clip, seed=base + 43, shape=Shape(fps=30, video_start_s=0.5)
        ),
        "timing/flash_beep_variable.mp4": partial(
            flash_beep_clip, seed=base + 44, shape=Shape(fps=None)
        ),
        "timing/flash_beep_rotated.mp4": partial(
            flash_beep_clip,
            seed=base + 45,
            shape=Shape(fps=30, video=VideoFormat(rotation_deg=270)),
            upright_turn=3,
        ),
    }


def _sound_recipes(base: int) -> dict[str, Recipe]:
    def tone_recipe(level_db: float, number: int) -> Recipe:
        samples = stereo(tone(6.0, frequency_hz=440.0, level_db=level_db))
        what = f"A scene with a 440 Hz tone at {level_db:g} dBFS RMS."
        return partial(scenery_clip, seed=base + number, audio=AudioTrack(samples), what=what)

    def speech_only(path: Path) -> ClipTruth:
        voice = speech_like_sound(10.0, seed=base + 64, rate_hz=16_000)
        track = AudioTrack(voice.samples, rate_hz=16_000, codec="pcm_s16le")
        what = "A voice without pictures."
        return audio_clip(path, what, track, speech_segments_s=voice.segments_s)

    def tone_only(path: Path) -> ClipTruth:
        track = AudioTrack(stereo(tone(6.0, level_db=-23.0)), codec="flac")
        return audio_clip(path, "A 440 Hz tone at -23 dBFS RMS, without pictures.", track)

    return {
        "sounds/tone_20_db.mp4": tone_recipe(-20.0, 60),
        "sounds/tone_70_db.mp4": tone_recipe(-70.0, 61),
        "sounds/silent.mp4": partial(
            scenery_clip,
            seed=base + 62,
            audio=AudioTrack(stereo(silence(6.0))),
            what="A scene with a sound track of digital silence.",
        ),
        "sounds/no_audio.mp4": partial(
            scenery_clip, seed=base + 63, audio=None, what="A scene without a sound track."
        ),
        "sounds/speech.wav": speech_only,
        "sounds/tone.flac": tone_only,
    }


def _event_recipes(base: int) -> dict[str, Recipe]:
    return {
        f"events/{event.kind}_{number:02d}.mp4": partial(
            event_clip, event=event, seed=base + 100 + number
        )
        for number, event in enumerate(event_design())
    }


def _format_recipes(base: int) -> dict[str, Recipe]:
    def shaped(number: int, what: str, shape: Shape) -> Recipe:
        return partial(scenery_clip, seed=base + number, shape=shape, what=what)

    small = Shape(width=640, height=360)
    return {
        "formats/variable_rate.mp4": shaped(
            80, "A phone's variable frame rate.", Shape(fps=None, duration_s=7.0)
        ),
        "formats/vp9_opus.webm": partial(
            talking_face_clip,
            seed=base + 81,
            shape=Shape(
                width=640, height=360, fps=25, duration_s=6, video=VideoFormat(codec="libvpx-vp9")
            ),
            audio_codec="libopus",
        ),
        "formats/hevc.mp4": shaped(
            82, "HEVC in mp4.", replace(small, video=VideoFormat(codec="libx265"))
        ),
        "formats/full_range.mkv": shaped(
            83, "Luma over the full range.", replace(small, video=VideoFormat(full_range=True))
        ),
        "formats/anamorphic.mov": shaped(
            84,
            "Pixels 4/3 as wide as high.",
            Shape(width=720, height=540, video=VideoFormat(pixel_aspect=Fraction(4, 3))),
        ),
        "formats/ntsc.mp4": shaped(
            85, "30000/1001 frames per second.", replace(small, fps=30_000 / 1001)
        ),
    }


def _broken_recipes(base: int) -> dict[str, Recipe]:
    def broken(what: str, expected: str, damage: Callable[[bytes], bytes]) -> Recipe:
        def recipe(path: Path) -> ClipTruth:
            data = damage(_sound_clip_bytes(base + 99, index_first=expected == "no_frames"))
            path.write_bytes(data)
            modality = "none" if expected in ("empty_file", "not_media") else "video"
            return ClipTruth(file=path.name, what=what, modality=modality, expected=expected)

        return recipe

    return {
        "broken/empty.mp4": broken("No bytes at all.", "empty_file", lambda _: b""),
        "broken/truncated.mp4": broken(
            "An upload cut short: the index at the end is missing.",
            "truncated",
            lambda data: data[: len(data) * 6 // 10],
        ),
        "broken/header_only.mp4": broken(
            "An index without the media that it points to.", "no_frames", _index_without_media
        ),
        "broken/random.mp4": broken(
            "Random bytes named .mp4.",
            "not_media",
            lambda _: np.random.default_rng((base, 929)).bytes(50_000),
        ),
        "broken/corrupt_middle.mp4": _corrupt_middle_recipe(base + 98),
    }


def _corrupt_middle_recipe(seed: int) -> Recipe:
    def recipe(path: Path) -> ClipTruth:
        shape = Shape(width=640, height=360, fps=24, duration_s=9.0)
        truth = scenery_clip(path, seed=seed, shape=shape)
        data = bytearray(path.read_bytes())
        start, end = mp4_boxes(bytes(data))["mdat"]
        first, last = start + (end - start) * 45 // 100, start + (end - start) * 55 // 100
        data[first:last] = np.random.default_rng((seed, 937)).bytes(last - first)
        path.write_bytes(bytes(data))
        what = "A readable file whose bitstream is noise between 45 and 55 % of its bytes."
        return replace(truth, what=what, expected="corrupt_bitstream")

    return recipe


def _sound_clip_bytes(seed: int, *, index_first: bool) -> bytes:
    """Return the bytes of a small sound mp4, whose index (moov) comes first or last."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.mp4"
        video = VideoFormat(container_options={"movflags": "+faststart"} if index_first else {})
        shape = Shape(width=320, height=180, duration_s=2.0, video=video)
        scenery_clip(path, seed=seed, shape=shape)
        return path.read_bytes()


def _index_without_media(data: bytes) -> bytes:
    return data[: mp4_boxes(data)["mdat"][0]]
