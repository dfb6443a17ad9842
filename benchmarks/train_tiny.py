"""Does a model of small tokens, trained on the demo's shards, learn and read its conditions?

    python benchmarks/train_tiny.py [--recipe tiny-patches] [--folder DIR]
        [--out benchmarks/results/train_tiny.md]

Renders the demo bucket, curates it as `make demo` does, trains the recipe `tiny-patches` (or the
demo's own, `tiny`, of which `benchmarks/demo_sheet.py` shows the clips), and measures the held-out
loss with everything in place and with captions, video or audio taken from another held-out clip.
Then trains on four clips alone, generates each from its caption, and compares it with the clip
itself. Writes figures, curves and sheets of frames beside the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import matplotlib.pyplot as plt
import numpy as np
import torch

from curation.cli.training import read_snapshot
from manifests.explore.open import open_view
from manifests.store.sql import quote_text
from manifests.store.storage import open_storage
from training.checkpoint import latest_checkpoint, load_weights
from training.codecs.fit import load_fit
from training.codecs.spectra import log_mel, mel_filters
from training.data.encoders import Encoders
from training.data.geometry import geometry_of
from training.data.loader import SampleReader
from training.data.media import read_frames, read_waveform
from training.data.samples import read_members
from training.distributed import distributed_context
from training.generate.clip import write_clip
from training.generate.request import Request
from training.generate.sampler import Sampler
from training.metrics.held_out import HeldOutLoss
from training.models.generator import build_generator
from training.recipe import SamplingSettings
from training.run import read_dataset, read_recipe

HERE = Path(__file__).parent
FOUR = ("uri LIKE '%/ball%'", "uri LIKE '%/speaker%'", "uri LIKE '%/lamp%' AND text LIKE '%dark%'",
        "uri LIKE '%/lamp%' AND text LIKE '%grey%'")  # fmt: skip
"""What the four clips to learn by heart are: told apart by their captions."""
CURATION = ("split.held_out_share=0.2", "caption.backend=carried", "pack.area_px=36864",
            "gates.captioned=caption.model = 'carried'")  # fmt: skip
"""As the Makefile's demo."""
OVERFIT_STEPS = 2500
MEL_FILTERS = 80
DB_OF_LOG10 = 20.0
_MATCH = ("psnr_db", "psnr_codec_db", "psnr_other_db", "mel_db", "mel_codec_db", "mel_other_db")


def main() -> None:
    """Run all of it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, default=Path("/tmp/twinreel-train-tiny"))
    arguments.add_argument("--recipe", default="tiny-patches")
    arguments.add_argument("--out", type=Path, default=HERE / "results" / "train_tiny.md")
    arguments.add_argument("--overfit-steps", type=int, default=OVERFIT_STEPS)
    given = arguments.parse_args()
    folder: Path = given.folder
    report: Path = given.out

    out = curated(folder)
    seconds = trained(given.recipe, folder / "run", out)
    table = conditions(folder / "run")
    draw_curves(folder / "run", report.with_suffix(".svg"))

    four = folder / "four"
    if not four.exists():
        subprocess.run(["cp", "-r", str(out), str(four)], check=True)
        twinreel("select", four, "--set", f"gates.four=uri IN ({four_of(out)})")
    overfit_s = trained(
        given.recipe, folder / "run_four", four, f"steps={given.overfit_steps}",
        "evaluation.samples=0", "caption_dropout=0", "log.every=50",
        "tasks={t2av: 1.0, i2av: 0, a2v: 0, v2a: 0}", "checkpoint.every=1000",
    )  # fmt: skip
    matches = overfitted(folder / "run_four", folder / "generated", report.parent)
    report.write_text(
        written(
            given.recipe, folder, table, seconds, matches, overfit_s, given.overfit_steps, report
        )
    )
    print(f"wrote {report}")


def four_of(out: Path) -> str:
    """Addresses of the four, as a list for SQL: the first of each sort that is trained on."""
    found = []
    for sort in FOUR:
        with open_view(str(out)) as connection:
            rows = connection.sql(
                "SELECT min(uri) FROM (SELECT uri, caption.text AS text FROM dataset"
                f" WHERE state = 'keep' AND split = 'train') WHERE {sort}"
            ).fetchall()
        found.append(rows[0][0])
    return ", ".join(quote_text(uri) for uri in found)


def twinreel(*arguments: object) -> None:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "curation", *map(str, arguments)]
    subprocess.run(command, check=True)


def curated(folder: Path) -> Path:
    """The demo's OUT with a fifth held out; the split goes by path, so it is the same again."""
    out = folder / "out"
    if not (out / "job.yaml").exists():
        twinreel("demo-bucket", folder / "raw")
        settings = (part for setting in CURATION for part in ("--set", setting))
        twinreel("curate", folder / "raw", "--out", out, *settings)
    return out


def trained(recipe: str, run: Path, out: Path, *settings: str) -> float:
    """Train unless that was done; how long it took by the log."""
    marker = run / "seconds.json"
    if not marker.exists():
        started = time.perf_counter()
        assignments = [part for setting in settings for part in ("--set", setting)]
        twinreel("train", recipe, "--data", out, "--run", run, "--resume", *assignments)
        marker.write_text(json.dumps(time.perf_counter() - started))
    return float(json.loads(marker.read_text()))


def conditions(run: Path) -> list[dict[str, Any]]:
    """Held-out losses with and without each condition in place, for three tasks."""
    recipe, snapshot = read_recipe(run), read_dataset(run)
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    generator = build_generator(recipe)
    load_weights(checkpoint, generator)
    encoders = load_fit(Encoders.of(recipe, torch.device("cpu")), run)
    reader = SampleReader(snapshot.out, encoders, cache_mb=1024)
    held_out = HeldOutLoss.of(recipe)
    rows = []
    with distributed_context() as context:
        for task in ("t2av", "v2a", "a2v"):
            for mismatch in ("none", "captions", "video", "audio"):
                losses = held_out.measure(
                    generator, snapshot.held_out, reader, context, task=task, mismatch=mismatch
                )
                if losses:
                    rows.append({"task": task, "mismatch": mismatch, **losses})
    return rows


def draw_curves(run: Path, path: Path) -> None:
    """Training and held-out loss over steps."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True)
    for axis, name in zip(axes, ("video", "audio"), strict=True):
        for kind, style in (("step", "-"), ("evaluation", "o-")):
            points = [
                (one["step"], one[name]) for one in lines if one["kind"] == kind and name in one
            ]
            label = "training" if kind == "step" else "held out"
            axis.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=3)
        axis.set(title=f"{name}: squared error of the velocity", xlabel="step", ylim=(0, None))
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def overfitted(run: Path, generated: Path, results: Path) -> list[dict[str, Any]]:
    """Each of the four clips generated from its caption, beside itself."""
    recipe = read_recipe(run)
    sampling = SamplingSettings(steps=50, shift=5.0, video_guidance=1.0, audio_guidance=1.0)
    sampler = Sampler(run, sampling)
    snapshot, geometry = read_dataset(run), geometry_of(recipe)
    storage = open_storage(snapshot.out)
    truths, made, names = [], [], []
    for sample in snapshot.train:
        members = read_members(storage, sample)
        shape = geometry.shape_of(sample)
        pixels = read_frames(
            members["mp4"], "mp4", frames=shape.frames, width=shape.width, height=shape.height,
            subject=sample.sample_id,
        )  # fmt: skip
        waveform = read_waveform(
            members["flac"], samples=sample.audio_samples, rate_hz=16_000, subject=sample.sample_id
        )
        truths.append((as_bytes(pixels), waveform.numpy()))
        request = Request(sample.caption or "", aspect=(sample.width, sample.height), seed=1)
        generated_clip = sampler.generate(request)
        assert generated_clip.frames is not None
        assert generated_clip.audio is not None
        made.append((generated_clip.frames, generated_clip.audio))
        names.append(provenance(members))
        write_clip(generated_clip, generated / f"{sample.sample_id}.mp4", scale=8)
    draw_sheet(truths, made, names, results / "train_tiny_four.png")
    rows = []
    for index, (name, truth, clip) in enumerate(zip(names, truths, made, strict=True)):
        others = [one for at, one in enumerate(truths) if at != index]
        alike = [one for one in others if one[0].shape == truth[0].shape]
        ceiling = through_codecs(truth, sampler)
        rows.append(
            {
                "clip": name,
                "psnr_db": psnr_db(clip[0], truth[0]),
                "psnr_codec_db": psnr_db(ceiling[0], truth[0]),
                "psnr_other_db": max((psnr_db(clip[0], one[0]) for one in alike), default=None),
                "mel_db": mel_distance_db(clip[1], truth[1]),
                "mel_codec_db": mel_distance_db(ceiling[1], truth[1]),
                "mel_other_db": min(mel_distance_db(clip[1], other[1]) for other in others),
            }
        )
    return rows


def provenance(members: dict[str, bytes]) -> str:
    """The file that a sample was cut from."""
    uri = json.loads(members["json"])["provenance"]["uri"]
    return "/".join(uri.split("/")[-2:])


def as_bytes(pixels: torch.Tensor) -> np.ndarray:
    """[3, frames, rows, columns] in [-1, 1] as uint8 [frames, rows, columns, 3]."""
    return ((pixels.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()


def through_codecs(
    truth: tuple[np.ndarray, np.ndarray], sampler: Sampler
) -> tuple[np.ndarray, np.ndarray]:
    """A clip encoded and decoded: the best that any model with these codecs can do."""
    pixels = torch.from_numpy(truth[0]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    video = sampler.video_codec.decode(sampler.video_codec.encode(pixels))[0]
    audio = sampler.audio_codec
    wave = audio.decode(audio.encode(torch.from_numpy(truth[1])[None]))[0]
    return as_bytes(video), wave.numpy()


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all pixels of all frames both have."""
    frames = min(len(one), len(other))
    error = np.square(one[:frames].astype(float) - other[:frames]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def in_db(value: float | None) -> str:
    """A cell of the table; a clip of its own shape has no other to be compared with."""
    return "-" if value is None else f"{value:.1f} dB"


def mel_distance_db(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of 80-band log-mel spectra, in dB."""
    samples = min(len(one), len(other))
    filters = mel_filters(16_000, MEL_FILTERS)
    pair = torch.from_numpy(np.stack((one[:samples], other[:samples])))
    mel = log_mel(pair, filters)
    return float(DB_OF_LOG10 * (mel[0] - mel[1]).abs().mean())


def draw_sheet(
    truths: list[tuple[np.ndarray, np.ndarray]],
    made: list[tuple[np.ndarray, np.ndarray]],
    names: list[str],
    path: Path,
) -> None:
    """Frames and log-mels, truth above what was generated."""
    filters = mel_filters(16_000, 48)
    figure, axes = plt.subplots(
        2 * len(names), 2, figsize=(11, 2.1 * len(names)), width_ratios=(3, 1)
    )
    for row, (name, pair) in enumerate(zip(names, zip(truths, made, strict=True), strict=True)):
        for line, (what, (frames, wave)) in enumerate(zip(("real", "made"), pair, strict=True)):
            strip = np.concatenate(frames[::20], axis=1)
            left, right = axes[2 * row + line]
            left.imshow(strip, interpolation="nearest", aspect="auto")
            left.set_ylabel(what)
            left.set(xticks=[], yticks=[])
            if not line:
                left.set_title(name, fontsize=8, loc="left")
            mel = log_mel(torch.from_numpy(wave)[None], filters)[0]
            right.imshow(mel, origin="lower", aspect="auto", vmin=-5, vmax=1)
            right.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)


def written(
    name: str,
    folder: Path,
    table: list[dict[str, Any]],
    seconds: float,
    matches: list[dict[str, Any]],
    overfit_s: float,
    overfit_steps: int,
    report: Path,
) -> str:
    """The report."""
    recipe, snapshot = read_recipe(folder / "run"), read_snapshot(str(folder / "out"))
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if line["kind"] == "evaluation"]
    steps = [line for line in lines if line["kind"] == "step"][1:]
    rate = sum(line["tokens_per_s"] for line in steps) / len(steps)
    waits = sum(line["data_wait_s"] for line in steps) / sum(line["step_s"] for line in steps)
    text = [
        "# A tiny model on the demo's shards",
        "",
        f"`python benchmarks/train_tiny.py --recipe {name} --folder {folder}` on"
        f" {os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__},"
        f" PyAV {av.__version__}. The split goes by the files' paths, so another folder holds"
        " other clips out.",
        "",
        "## Learning",
        f"Recipe `{name}`, {recipe.steps} steps of {recipe.batch} samples on {len(snapshot.train)}"
        f" clips, {len(snapshot.held_out)} clips of held-out sources; {seconds:.0f} s from command"
        f" to end, {rate:,.0f} tokens/s, {waits:.1%} of the time waiting for data.",
        "",
        "Squared error of the velocity on held-out sources, at fixed noise and levels:",
        "",
        "| after | loss | video | audio |",
        "|---|---|---|---|",
        *(
            f"| {line['step']} steps | "
            + " | ".join(f"{line[name]:.3f}" for name in ("loss", "video", "audio"))
            + " |"
            for line in held_out
        ),
        "",
        f"![curves]({report.with_suffix('.svg').name})",
        "",
        "## Reading the conditions",
        "The same held-out loss with one condition taken from another held-out clip. In `t2av` both"
        " modalities are noisy; in `v2a` the video, in `a2v` the audio is given clean.",
        "",
        "| task | taken from another clip | video | audio |",
        "|---|---|---|---|",
    ]
    for row in table:
        base = next(one for one in table if one["task"] == row["task"])
        cells = [
            f"{row[name]:.3f} ({row[name] / base[name] - 1:+.1%})" if name in row else "-"
            for name in ("video", "audio")
        ]
        text.append(f"| {row['task']} | {row['mismatch']} | {cells[0]} | {cells[1]} |")
    text += [
        "",
        "## Four clips by heart",
        f"Trained on four clips alone ({overfit_steps} steps, {overfit_s:.0f} s), each generated"
        " from its caption and other noise. `codec` is the clip encoded and decoded: no model with"
        " these codecs can come nearer. `nearest other` is the best match among the other three"
        " clips.",
        "",
        "| clip | PSNR | codec | nearest other | log-mel distance | codec | nearest other |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['clip']} | " + " | ".join(in_db(row[name]) for name in _MATCH) + " |"
            for row in matches
        ),
        "",
        "![four clips, real above made](train_tiny_four.png)",
        "",
        "Not measured: anything at a size worth watching, any learned codec, any GPU.",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    main()
