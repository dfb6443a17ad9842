"""Codecs fitted to clips: what differs among clips comes back, and comes in at unit variance."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from training.codecs.components import Components
from training.codecs.log_mel_pca import LogMelPca, LogMelPcaSettings
from training.codecs.pca import Pca, PcaSettings

SETTINGS = PcaSettings(kind="pca", rows=8, columns=16, frames=4, components=12)


def moving_bar(phase: float, *, frames: int = 13) -> Tensor:
    """A soft bright column that swings over a dark picture, [3, frames, 8, 16] in [-1, 1]."""
    time = torch.arange(frames)[:, None, None] / 12
    middle = 8 + 5 * torch.sin(2 * math.pi * (time + phase))
    column = torch.arange(16)[None, None]
    bar = 2 * torch.exp(-(((column - middle) / 3) ** 2)) - 1
    return bar.expand(frames, 8, 16) * torch.tensor([1.0, 0.5, -0.5])[:, None, None, None]


def fitted() -> Pca:
    codec = SETTINGS.build()
    codec.fit(moving_bar(phase) for phase in np.linspace(0, 1, 40, endpoint=False))
    return codec


def test_a_clip_it_has_not_seen_comes_back() -> None:
    codec, clip = fitted(), moving_bar(0.3141)[None]
    latent = codec.encode(clip)
    assert latent.shape == (1, *SETTINGS.latent_shape(13, 8, 16)) == (1, 12, 4, 1, 1)
    decoded = codec.decode(latent)
    assert decoded.shape == clip.shape
    assert (decoded - clip).square().mean() < 1e-3
    # As good as predicting the mean of all clips would be a hundred times worse.
    assert (clip - clip.mean((2, 3, 4), keepdim=True)).square().mean() > 0.1


def test_pictures_of_several_blocks_are_put_together_in_their_places() -> None:
    codec = fitted()
    tiles = [[moving_bar(0.0), moving_bar(0.2)], [moving_bar(0.5), moving_bar(0.7)]]
    whole = torch.cat([torch.cat(row, dim=3) for row in tiles], dim=2)[None]
    latent = codec.encode(whole)
    assert latent.shape == (1, 12, 4, 2, 2)
    torch.testing.assert_close(latent[..., 1, 0], codec.encode(tiles[1][0][None])[..., 0, 0])
    assert (codec.decode(latent) - whole).square().mean() < 1e-3


def test_the_first_frame_stands_alone() -> None:
    codec, clip = fitted(), moving_bar(0.1)[None]
    other = torch.cat((clip[:, :, :1], moving_bar(0.6)[None][:, :, 1:]), dim=2)
    one, two = codec.encode(clip), codec.encode(other)
    torch.testing.assert_close(one[:, :, 0], two[:, :, 0])
    image = codec.encode(clip[:, :, :1])
    torch.testing.assert_close(image[:, :, 0], one[:, :, 0])
    assert (codec.decode(image) - clip[:, :, :1]).abs().mean() < 0.05


def test_latents_have_unit_variance_and_equal_clips_equal_fits() -> None:
    codec, again = fitted(), fitted()
    for name, tensor in codec.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    clips = torch.stack([moving_bar(phase) for phase in np.linspace(0, 1, 40, endpoint=False)])
    latents = codec.encode(clips).transpose(0, 1).flatten(1)
    assert abs(float(latents.square().mean()) - 1) < 0.05
    # Coarse components come first, and stay the larger ones.
    spread = latents.std(1)
    assert spread[0] == spread.max()
    assert spread[0] < 6 * spread[5]


def test_fewer_vectors_than_components_do_no_harm() -> None:
    components = Components(10, 8)
    components.fit(torch.eye(3, 10))
    found = components.decode(components.encode(torch.eye(3, 10)))
    torch.testing.assert_close(found, torch.eye(3, 10), atol=1e-4, rtol=0)
    assert torch.isfinite(components.encode(torch.randn(4, 10))).all()


def beeps(pitch_hz: float, start_s: float) -> Tensor:
    """A second of silence with 0.2 s of a tone."""
    time = torch.arange(16_000) / 16_000
    inside = (time >= start_s) & (time < start_s + 0.2)
    return 0.3 * torch.sin(2 * math.pi * pitch_hz * time) * inside


def loudest(wave: Tensor) -> tuple[float, float]:
    """Middle in seconds, and the loudest frequency in Hz."""
    energy = wave.square()
    middle = float((energy * torch.arange(len(wave))).sum() / energy.sum() / 16_000)
    return middle, float(torch.fft.rfft(wave).abs().argmax() * 16_000 / len(wave))


def test_sound_comes_back_at_its_time_and_pitch() -> None:
    settings = LogMelPcaSettings(kind="log-mel-pca", mels=48, frames=8, components=32)
    codec: LogMelPca = settings.build()
    starts = np.linspace(0, 0.75, 16)
    codec.fit(beeps(pitch, start) for pitch in (400.0, 1500.0) for start in starts)
    for pitch_hz, start_s in ((400.0, 0.33), (1500.0, 0.61)):
        wave = beeps(pitch_hz, start_s)
        latent = codec.encode(wave[None])
        assert latent.shape == (1, settings.latent_length(16_000), 32)
        decoded = codec.decode(latent)
        assert decoded.shape == (1, latent.shape[1] * settings.stride)
        middle_s, loudest_hz = loudest(decoded[0])
        # A latent spans 0.128 s: its components say where in it a sound begins.
        assert abs(middle_s - (start_s + 0.1)) < 0.03
        assert abs(loudest_hz - pitch_hz) < 60
