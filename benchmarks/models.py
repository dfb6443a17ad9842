"""Clips per second of the stages that have a model, preparing and looking apart.

    TWINREEL_WEIGHTS=FOLDER python -m benchmarks.models CLIP.mp4 [--clips 8] [--stages motion,sync]

CLIP is a talking head of at least five seconds; what is timed are copies of its first window. Each
stage's `prepare` runs on one core; its model runs on the GPU if there is one, or else on the CPU
with as many threads as torch takes. Operations are counted by torch where the model is torch's
(multiply and add count as two); `--peak-tflops` states what the device can do, and the share of it
that was reached is printed beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.base.clip import ClipTask
from stages.base.contract import ModelStage
from stages.media.probe import probe
from stages.registry import CLIP_STAGES, build_clip_stage
from stages.video.motion.flow import MotionRecord

_WINDOW_S = 121 / 24
_FACE = {"left": 0.35, "top": 0.2, "width": 0.3, "height": 0.5}


def build(name: str) -> ModelStage[Any, Any, Any]:
    """The stage with its model backend; RAFT's size is that of the weights that are there."""
    if name in ("raft_large", "raft_small"):
        stage = build_clip_stage("motion", {"backend": name})
    else:
        settings = {"min_side_px": 0.0, "backend": "syncnet"} if name == "sync" else {}
        stage = build_clip_stage(name, settings)
    assert isinstance(stage, ModelStage)
    return stage


def task(path: Path) -> ClipTask:
    """The first window of the clip, with a face in its middle and somebody who speaks."""
    times_s = [index / 2 for index in range(11)]
    track = {
        "track_index": 0, "times_s": times_s, "score": [0.9] * 11,
        "mouth_x": [None] * 11, "mouth_y": [None] * 11,
        **{name: [value] * 11 for name, value in _FACE.items()},
    }  # fmt: skip
    return ClipTask(
        "clip", str(path), probe(str(path)), 0.0, _WINDOW_S,
        {"face_tracks": [track], "speech_segments": []},
        {"loudness": {"mean_volume_db": -20.0}, "speech": {"speech_ratio": 0.8}},
        signals_record=MotionRecord(None, None, None, None, 0.0, 0.0),
    )  # fmt: skip


def seconds(action: Callable[[], object], least_s: float = 2.0) -> float:
    """Seconds of one call: the mean over as many as take some time, after one to warm up."""
    action()
    _wait()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < least_s:
        action()
        _wait()
        count += 1
    return (time.perf_counter() - started) / count


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def operations(stage: ModelStage[Any, Any, Any], model: Any, batch: Sequence[Any]) -> float:  # noqa: ANN401
    """Operations of one clip; 0 where torch does not do them."""
    counter = FlopCounterMode(display=False)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        stage.infer(model, batch[:1])
    return float(counter.get_total_flops())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", type=Path)
    parser.add_argument("--clips", type=int, default=8, help="clips a batch")
    parser.add_argument(
        "--stages", default="raft_large,raft_small,aesthetic,sync,audio_class,transcript"
    )
    parser.add_argument("--peak-tflops", type=float, help="what the device can do")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"device: {device}; {arguments.clips} clips a batch\n")
    print("| stage | prepared clips/s, one core | clips/s of the model | GFLOP a clip | of peak |")
    print("|---|---|---|---|---|")
    clip = task(arguments.clip)
    for name in arguments.stages.split(","):
        assert name in CLIP_STAGES or name.startswith("raft_"), name
        stage = build(name)
        preparing_s = seconds(lambda stage=stage: stage.prepare(clip))  # type: ignore[misc]
        batch = [stage.prepare(clip)] * arguments.clips
        model = stage.load("cuda" if cuda else "cpu")
        looking_s = seconds(lambda s=stage, m=model, b=batch: s.infer(m, b)) / arguments.clips  # type: ignore[misc]
        flops = operations(stage, model, batch)
        peak = ""
        if arguments.peak_tflops and flops:
            peak = f"{flops / looking_s / (arguments.peak_tflops * 1e12):.1%}"
        counted = f"{flops / 1e9:.0f}" if flops else "not torch"
        print(f"| {name} | {1 / preparing_s:.2f} | {1 / looking_s:.3f} | {counted} | {peak} |")


if __name__ == "__main__":
    main()
