"""The model against the reference's numbers, its released layout and its own promises."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import SHARED
from training.models.ovi.configuration import TowerConfiguration
from training.models.ovi.model import OviModel
from training.models.ovi.parallelize import units
from training.models.ovi.released import released_configuration

GOLDEN = SHARED / "golden" / "ovi_fusion.safetensors"
LAYOUT = SHARED / "golden" / "ovi_11b_layout.json"
CASES: dict[str, dict[str, Any]] = {
    "t2av": {},
    "i2av": {"first frame given": True},
    "slg1": {"skip_blocks": (1,)},
    "audio_only": {"without": "video"},
    "video_only": {"without": "audio"},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor]) -> OviModel:
    with safe_open(GOLDEN, "pt") as file:
        metadata = file.metadata()
    model = OviModel(
        *(
            released_configuration(json.loads(metadata[name]))
            for name in ("video_config", "audio_config")
        )
    )
    weights = {
        name.removeprefix("model."): value
        for name, value in golden.items()
        if name.startswith("model.")
    }
    model.load_state_dict(weights)
    return model.eval()


def run(model: OviModel, golden: dict[str, Tensor], case: dict[str, Any]) -> dict[str, Tensor]:
    video, audio = golden["in.video"], golden["in.audio"]
    given = None
    if case.get("first frame given"):
        frames, rows, columns = video.shape[2], video.shape[3] // 2, video.shape[4] // 2
        given = (torch.arange(frames) == 0).repeat_interleave(rows * columns)
        given = given.expand(video.shape[0], -1)
    with torch.no_grad():
        outputs = model(
            None if case.get("without") == "video" else video,
            None if case.get("without") == "audio" else audio,
            golden["in.timestep"],
            golden["in.text"],
            video_given=given,
            skip_blocks=case.get("skip_blocks", ()),
        )
    return {
        name: output
        for name, output in zip(("video", "audio"), outputs, strict=True)
        if output is not None
    }


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_reference(
    model: OviModel, golden: dict[str, Tensor], case: str
) -> None:
    outputs = run(model, golden, CASES[case])
    wanted = {name for name in ("video", "audio") if f"out.{case}.{name}" in golden}
    assert outputs.keys() == wanted
    for name, output in outputs.items():
        reference = golden[f"out.{case}.{name}"]
        assert (output - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_full_size_has_the_released_layout() -> None:
    layout = json.loads(LAYOUT.read_text())
    with torch.device("meta"):
        full = OviModel(
            released_configuration(layout["video_config"]),
            released_configuration(layout["audio_config"]),
        )
    shapes = {name: list(value.shape) for name, value in full.state_dict().items()}
    assert shapes == layout["state_dict"]
    assert sum(one.numel() for one in full.parameters()) == layout["parameters"]
    # The units are all but the embeddings, the norms and the heads.
    in_units = [
        one.numel() for name in units(full) for one in full.get_submodule(name).parameters()
    ]
    assert 0.9 < sum(in_units) / layout["parameters"] < 1


def test_given_tokens_have_timestep_zero(model: OviModel, golden: dict[str, Tensor]) -> None:
    """All tokens given is the same as a timestep of 0."""
    video, audio, text = golden["in.video"], golden["in.audio"], golden["in.text"]
    all_video = torch.ones(2, 5 * 3 * 4, dtype=torch.bool)
    all_audio = torch.ones(2, audio.shape[1], dtype=torch.bool)
    with torch.no_grad():
        given = model(
            video,
            audio,
            golden["in.timestep"],
            text,
            video_given=all_video,
            audio_given=all_audio,
        )
        zero = model(video, audio, torch.zeros(2), text)
    for one, other in zip(given, zero, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_each_tower_reads_the_other(model: OviModel, golden: dict[str, Tensor]) -> None:
    case = run(model, golden, {})
    changed = dict(golden)
    changed["in.audio"] = golden["in.audio"].flip(1)
    assert (run(model, changed, {})["video"] - case["video"]).abs().max() > 1e-3
    changed = dict(golden)
    changed["in.video"] = golden["in.video"].flip(2)
    assert (run(model, changed, {})["audio"] - case["audio"]).abs().max() > 1e-3


def test_wrong_shapes_are_named(model: OviModel, golden: dict[str, Tensor]) -> None:
    timestep, text = golden["in.timestep"], golden["in.text"]
    with pytest.raises(ValueError, match=r"\[B, 8, F, H, W\].*not \[2, 8, 5, 5, 8\]"):
        model(golden["in.video"][:, :, :, :5], None, timestep, text)
    with pytest.raises(ValueError, match=r"\[B, L, 6\].*not \[2, 23, 5\]"):
        model(None, golden["in.audio"][..., :5], timestep, text)
    with pytest.raises(ValueError, match="heads"):
        TowerConfiguration(8, 90, 128, 32, 4, 2, 32, 8)
    small = {"channels": 4, "ffn_dim": 8, "freq_dim": 8, "heads": 1, "text_dim": 4}
    with pytest.raises(ValueError, match="equal"):
        OviModel(
            TowerConfiguration(dim=8, layers=2, text_length=2, **small),
            TowerConfiguration(dim=8, layers=3, text_length=2, **small),
        )
