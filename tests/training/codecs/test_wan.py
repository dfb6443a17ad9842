"""Wan 2.2's VAE: latents of the stated shape and scale, from either layout of its weights."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from manifests.errors import UsageError
from stages.weights.find import WEIGHTS_VARIABLE
from tests.support.made_up_codecs import original_wan_names, small_wan, write_wan
from tests.support.made_up_weights import file_of
from training.codecs.wan import WanSettings

SETTINGS = WanSettings(kind="wan-2.2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder that has the codec's, in the original's layout."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    write_wan(tmp_path / "weights")
    return tmp_path / "weights"


def frames(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(1, 3, count, 32, 64, generator=generator) - 1


@torch.no_grad()
def test_latents_have_the_stated_shape_and_frames_come_back(folder: Path) -> None:
    codec = SETTINGS.build()
    for count in (1, 9):
        latent = codec.encode(frames(count))
        assert latent.shape == (1, *SETTINGS.latent_shape(count, 32, 64))
        decoded = codec.decode(latent)
        assert decoded.shape == (1, 3, count, 32, 64)
        assert decoded.abs().max() <= 1
    assert torch.equal(codec.encode(frames(9)), latent)
    # Causal: what comes later has no part in a latent.
    torch.testing.assert_close(codec.encode(frames(9)[:, :, :5]), latent[:, :, :2])


@torch.no_grad()
def test_latents_are_the_posteriors_mean_normalised_by_channel(folder: Path) -> None:
    latent = SETTINGS.build().encode(frames(5))
    network: Any = small_wan()
    mean = network.encode(frames(5)).latent_dist.mean
    # Of the first and last channel, in vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers.
    torch.testing.assert_close(latent[:, 0], (mean[:, 0] + 0.2289) / 0.4765)
    torch.testing.assert_close(latent[:, 47], (mean[:, 47] + 0.0667) / 0.7744)


@torch.no_grad()
def test_every_layout_gives_the_same_latents(folder: Path, tmp_path: Path) -> None:
    latent = SETTINGS.build().encode(frames(5))
    network: Any = small_wan()
    network.save_pretrained(tmp_path / "diffusers")
    (path,) = (tmp_path / "diffusers").glob("*.safetensors")
    save_file(original_wan_names(network.state_dict()), tmp_path / "original.safetensors")
    for place in (tmp_path / "diffusers", path, tmp_path / "original.safetensors"):
        codec = WanSettings(kind="wan-2.2", file=str(place)).build()
        assert torch.equal(codec.encode(frames(5)), latent)


@torch.no_grad()
def test_threads_do_not_disturb_each_other(folder: Path) -> None:
    codec = SETTINGS.build()
    clips = [frames(9, seed) for seed in range(6)]
    alone = [codec.encode(clip) for clip in clips]
    with ThreadPoolExecutor(3) as executor:
        together = list(executor.map(torch.no_grad()(codec.encode), clips))
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one, other)


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / file_of("wan-2.2-vae")
    weights = torch.load(path)
    del weights["decoder.head.0.gamma"]
    torch.save(weights, path)
    with pytest.raises(UsageError, match=r"It lacks 'decoder.norm_out.gamma'"):
        SETTINGS.build()
    path.unlink()
    with pytest.raises(UsageError) as caught:
        SETTINGS.build()
    assert caught.value.code == "missing_weights"
    assert "twinreel weights fetch wan-2.2-vae" in str(caught.value)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "diffusers" else there(name)
    )
    with pytest.raises(UsageError) as caught:
        SETTINGS.build()
    assert caught.value.code == "missing_package"
    assert "twinreel[train]" in str(caught.value)


def test_a_vae_with_other_latents_is_refused(folder: Path) -> None:
    path = folder / file_of("wan-2.2-vae")
    torch.save(torch.load(path) | {"conv2.weight": torch.zeros(16, 16, 1, 1, 1)}, path)
    with pytest.raises(UsageError, match="16 channels instead of 48"):
        SETTINGS.build()
