"""Ovi's fusion model: every case `out.<case>.<modality>` that the file has."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from tests.golden.files import Check, Checks, Golden, compare, not_implemented
from training.models.ovi.model import OviModel
from training.models.ovi.released import released_configuration

_CASE = re.compile(r"out\.(?P<case>\w+)\.(?P<modality>video|audio)")


def check(golden: Golden) -> Checks:
    """Run each case once and compare its outputs."""
    model = _model(golden)
    cases: dict[str, list[str]] = {}
    for name in golden.tensors:
        if (match := _CASE.fullmatch(name)) is not None:
            cases.setdefault(match["case"], []).append(match["modality"])
        elif name.startswith("out."):
            yield not_implemented(name)
    for case, modalities in sorted(cases.items()):
        settings = _settings(case, golden)
        names = [f"out.{case}.{modality}" for modality in sorted(modalities)]
        if settings is None:
            yield from map(not_implemented, names)
            continue
        outputs = _run(model, golden, settings)
        for name in names:
            found = outputs[name.rpartition(".")[2]]
            if found is None:
                yield Check(name, False, note="no such output")
            else:
                yield compare(name, found, golden.tensors[name])


def _model(golden: Golden) -> OviModel:
    towers = (
        released_configuration(golden.metadata[name]) for name in ("video_config", "audio_config")
    )
    model = OviModel(*towers)
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in golden.tensors.items()
        if name.startswith("model.")
    }
    model.load_state_dict(weights or golden.filled_state_dict(), strict=True)
    return model.eval()


def _settings(case: str, golden: Golden) -> dict[str, Any] | None:
    """The arguments that make a case, beyond the latents, or None if the case is unknown."""
    if case == "t2av":
        return {}
    if case == "i2av":
        return {"video_given": _first_frame(golden)}
    if case in ("audio_only", "video_only"):
        return {"only": case.removesuffix("_only")}
    if (skipped := re.fullmatch(r"slg(\d+)", case)) is not None:
        return {"skip_blocks": (int(skipped[1]),)}
    return None


def _first_frame(golden: Golden) -> Tensor:
    """Which video tokens are given when the first latent frame is: bool [B, tokens]."""
    video = golden.tensors["in.video"]
    patch = golden.metadata["video_config"]["patch_size"]
    frames, rows, columns = (
        size // side for size, side in zip(video.shape[2:], patch, strict=True)
    )
    given = (torch.arange(frames) == 0).repeat_interleave(rows * columns)
    return given.expand(video.shape[0], -1)


def _run(model: OviModel, golden: Golden, settings: dict[str, Any]) -> dict[str, Tensor | None]:
    only = settings.get("only")
    arguments = {name: value for name, value in settings.items() if name != "only"}
    with torch.no_grad():
        video, audio = model(
            None if only == "audio" else golden.tensors["in.video"],
            None if only == "video" else golden.tensors["in.audio"],
            golden.tensors["in.timestep"],
            golden.tensors["in.text"],
            **arguments,
        )
    return {"video": video, "audio": audio}
