"""What the demo's model makes of prompts that it was never trained on, beside what it was.

    make demo
    python -m benchmarks.demo_sheet demo/run [--prompts 2] [--sheet docs/demo.png]
        [--out benchmarks/results/demo.md]

For some held-out captions of each kind of event: stills and spectrogram of a generated clip, and
under it the training clip that is nearest to it, moved in time to where it fits best. A model that
only repeats what it has seen would show the same stills twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from manifests.store.storage import open_storage
from training.codecs.spectra import log_mel, mel_filters
from training.data.geometry import geometry_of
from training.data.media import read_media
from training.data.samples import KeptSample
from training.generate.request import Request
from training.generate.sampler import Sampler
from training.run import read_dataset, read_recipe

KINDS = ("ball", "lamp", "person")
"""Words of captions: an event's kind."""
STILLS = 9
SEED = 1
_SHIFTS = range(-48, 49, 2)
_EVERY = 4  # frames compared
_MELS = 64


@dataclasses.dataclass(frozen=True)
class Shown:
    """A clip at the model's size: uint8 `[frames, rows, columns, 3]`, its waveform, its words."""

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    caption: str


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The training clip that looks most like another.

    Attributes:
        clip: it.
        shift: frames by which it is moved: positive, it begins earlier.
        psnr_db: over every fourth of the frames that both then have.
    """

    clip: Shown
    shift: int
    psnr_db: float


def main() -> None:
    """Generate, compare, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=2, help="of each kind")
    parser.add_argument("--sheet", type=Path, default=Path("docs/demo.png"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/demo.md"))
    given = parser.parse_args()
    recipe, snapshot = read_recipe(given.run), read_dataset(given.run)
    storage, geometry = open_storage(snapshot.out, create=False), geometry_of(recipe)

    def shown(sample: KeptSample) -> Shown:
        shape = geometry.shape_of(sample)
        media = read_media(storage, sample, shape, recipe.audio.codec.rate_hz)
        assert media.frames is not None and media.waveform is not None
        pixels = ((media.frames.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
        return Shown(pixels, media.waveform.numpy(), sample.caption or "")

    trained = [shown(sample) for sample in snapshot.train]
    sampler, pairs, lines = Sampler(given.run), [], []
    for real in chosen(snapshot.held_out, given.prompts, {one.caption for one in trained}):
        truth = shown(real)
        made = sampler.generate(Request(truth.caption, seed=SEED))
        assert made.frames is not None and made.audio is not None
        clip = Shown(made.frames, made.audio, truth.caption)
        near, near_real = nearest(clip, trained), nearest(truth, trained)
        pairs.append((clip, near))
        lines.append(
            f"| {clip.caption} | {near.clip.caption} | {near.psnr_db:.1f} dB |"
            f" {near_real.psnr_db:.1f} dB |"
        )
        print(lines[-1], flush=True)
    draw(pairs, given.sheet)
    exact_db = codec_psnr_db(sampler, trained)
    given.out.write_text(report(given.run, len(trained), lines, exact_db, given.sheet))


def chosen(held_out: Iterable[KeptSample], count: int, seen: set[str]) -> list[KeptSample]:
    """Held-out samples of each kind whose words were not trained on, as far apart as words sort."""
    found: list[KeptSample] = []
    for kind in KINDS:
        captions: dict[str, KeptSample] = {}
        for sample in held_out:
            words = sample.caption or ""
            if f" {kind} " in words.partition("<")[0] and words not in seen:
                captions.setdefault(words, sample)
        ordered = sorted(captions)
        places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round()
        found += [captions[ordered[int(place)]] for place in places]
    return found


def nearest(clip: Shown, trained: list[Shown]) -> Nearest:
    """The training clip with the smallest squared error, at whichever shift in time."""
    best: Nearest | None = None
    frames = clip.frames.astype(np.float32)
    for other in trained:
        if other.frames.shape[1:] != frames.shape[1:]:
            continue
        count = min(len(frames), len(other.frames))
        for shift in _SHIFTS:
            first, second = max(0, -shift), max(0, shift)
            length = count - abs(shift)
            mine = frames[first : first + length : _EVERY]
            error = mine - other.frames[second : second + length : _EVERY]
            psnr_db = float(10 * np.log10(255**2 / np.square(error).mean()))
            if best is None or psnr_db > best.psnr_db:
                best = Nearest(other, shift, psnr_db)
    assert best is not None
    return best


def codec_psnr_db(sampler: Sampler, trained: list[Shown]) -> float:
    """How exact the codec is on clips trained on: what a clip learned by heart could come to."""
    errors = []
    for clip in trained:
        pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        decoded = sampler.video_codec.decode(sampler.video_codec.encode(pixels))
        errors.append(float((decoded - pixels).square().mean()))
    return float(10 * np.log10(2**2 / np.mean(errors)))


def draw(pairs: list[tuple[Shown, Nearest]], path: Path) -> None:
    """Two rows a prompt: what was generated, and under it the nearest training clip."""
    filters = mel_filters(16_000, _MELS)
    figure, axes = plt.subplots(
        2 * len(pairs), 2, figsize=(11, 1.36 * len(pairs)), width_ratios=(4.2, 1)
    )
    for row, (clip, near) in enumerate(pairs):
        at = np.linspace(2, len(clip.frames) - 3, STILLS).round().astype(int)
        # Where the training clip has no frame at this shift, its first or last is shown.
        moved = (at + near.shift).clip(0, len(near.clip.frames) - 1)
        for line, (what, picked) in enumerate(((clip, at), (near.clip, moved))):
            left, right = axes[2 * row + line]
            left.imshow(
                np.concatenate(what.frames[picked], axis=1), interpolation="nearest", aspect="auto"
            )
            mel = log_mel(torch.from_numpy(what.waveform)[None], filters)[0]
            right.imshow(mel, origin="lower", aspect="auto", vmin=-4, vmax=1)
            title = f"{'nearest in training' if line else 'prompt'}: {what.caption}"
            left.set_title(textwrap.shorten(title, 140), fontsize=6, loc="left", pad=1.5)
            for axis in (left, right):
                axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.2, h_pad=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=75)
    plt.close(figure)
    # 256 colours do: a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)


def report(run: Path, trained: int, lines: list[str], exact_db: float, sheet: Path) -> str:
    """The report as Markdown."""
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = max(line["step"] for line in log if line["kind"] == "step")
    return "\n".join(
        [
            "# The demo's clips, and what they were learned from",
            "",
            "`make demo`, then `python -m benchmarks.demo_sheet demo/run`: recipe `tiny`, "
            f"{steps} steps on {trained} clips. Prompts are captions of held-out files; no training"
            " clip has their words, though each of the words was trained on in other company. Of"
            " each kind, the captions that sort first and last are shown.",
            "",
            f"![stills and spectrograms](../../{sheet.as_posix()})",
            "",
            "How near is the nearest training clip, moved in time to where it fits best: to the"
            " generated clip, and to the real one of the prompt. The codec alone is exact to"
            f" {exact_db:.1f} dB on training clips: one learned by heart would be as near as that.",
            "",
            "| prompt | nearest training clip | generated | real |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
