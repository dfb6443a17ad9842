"""MMAudio's codec: the reference's numbers, and what the weights that lie somewhere come to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from curation.demo_bucket import speech_like_sound
from manifests.errors import UsageError
from stages.weights.find import WEIGHTS_VARIABLE
from tests.conftest import SHARED
from tests.golden.__main__ import main
from tests.support.made_up_codecs import write_mmaudio
from tests.support.made_up_weights import file_of
from training.codecs.mmaudio import MmAudio, MmAudioSettings

SETTINGS = MmAudioSettings(kind="mmaudio-16k")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder that has the codec's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    write_mmaudio(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.soak
@pytest.mark.parametrize("name", ["audio_vae_16k", "bigvgan_16k"])
def test_the_reference_is_met(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SHARED / "golden" / f"{name}.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("ok") for line in lines)
    assert "out.waveform" in lines[0] or "out.decoded_log_mel" in lines[-1]


@torch.no_grad()
def test_sound_becomes_latents_and_latents_a_wave(folder: Path) -> None:
    codec = SETTINGS.build()
    voice = speech_like_sound(1.0, seed=3, rate_hz=16_000).samples
    both = torch.stack((torch.from_numpy(voice), torch.zeros(len(voice))))
    latent = codec.encode(both)
    assert latent.shape == (2, SETTINGS.latent_length(len(voice)), SETTINGS.channels)
    assert torch.equal(latent, codec.encode(both))
    torch.testing.assert_close(latent[:1], codec.encode(both[:1]), atol=1e-5, rtol=1e-4)
    assert (latent[0] - latent[1]).abs().mean() > 0.01
    wave = codec.decode(latent)
    assert wave.shape == (2, latent.shape[1] * SETTINGS.stride)
    assert wave.abs().max() <= 1
    assert (wave[0] - wave[1]).abs().mean() > 1e-4


@torch.no_grad()
def test_magnitudes_of_stored_weights_have_no_part_in_the_latents(folder: Path) -> None:
    wave = torch.from_numpy(speech_like_sound(0.5, seed=1, rate_hz=16_000).samples)[None]
    before = SETTINGS.build().encode(wave)
    path = folder / file_of("mmaudio-vae-16k")
    weights = torch.load(path)
    for name in weights:
        if name.endswith(".weight"):
            weights[name] = 7 * weights[name]
    torch.save(weights, path)
    torch.testing.assert_close(SETTINGS.build().encode(wave), before, atol=5e-3, rtol=1e-2)


@torch.no_grad()
def test_weight_norm_by_its_older_names_gives_the_same_wave(folder: Path) -> None:
    latent = torch.randn(1, 6, SETTINGS.channels, generator=torch.Generator().manual_seed(0))
    before = SETTINGS.build().decode(latent)
    path = folder / file_of("mmaudio-bigvgan-16k")
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in torch.load(path)["generator"].items()
    }
    assert "conv_pre.weight_g" in older
    torch.save({"generator": older}, path)
    assert torch.equal(SETTINGS.build().decode(latent), before)


def test_the_vocoder_is_loaded_when_it_is_needed(folder: Path) -> None:
    path = folder / file_of("mmaudio-bigvgan-16k")
    path.write_bytes(b"no weights")
    codec = SETTINGS.build()
    assert isinstance(codec, MmAudio)
    with pytest.raises(UsageError, match="cannot be read"):
        codec.decode(torch.zeros(1, 2, SETTINGS.channels))


@pytest.mark.parametrize("name", SETTINGS.weights)
def test_missing_weights_are_named_with_their_licence(folder: Path, name: str) -> None:
    (folder / file_of(name)).unlink()
    with pytest.raises(UsageError) as caught:
        SETTINGS.build()
    assert caught.value.code == "missing_weights"
    assert caught.value.subject == "audio.codec:mmaudio-16k"
    assert f"twinreel weights fetch {name}" in str(caught.value)
    assert "CC-BY-NC" in str(caught.value)


def test_weights_of_another_codec_are_refused(folder: Path) -> None:
    path = folder / file_of("mmaudio-vae-16k")
    weights = torch.load(path)
    torch.save(weights | {"decoder.conv_in.weight": torch.zeros(32, 40, 3)}, path)
    with pytest.raises(UsageError, match="40 channels instead of 20"):
        SETTINGS.build()
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match=r"It lacks 'encoder.conv_in.weight'"):
        SETTINGS.build()
