"""Sizes that frames are brought to."""

from __future__ import annotations

import pytest

from training.data.geometry import fit_size, geometry_of
from training.data.samples import KeptSample
from training.recipe import load_recipe


@pytest.mark.parametrize(
    ("size", "area_px", "multiples", "wanted"),
    [
        ((720, 720), 518_400, (32, 32), (704, 704)),
        ((960, 960), 921_600, (32, 32), (960, 960)),
        ((960, 540), 518_400, (32, 32), (960, 544)),
        ((540, 960), 518_400, (32, 32), (544, 960)),
        ((1000, 10), 2048, (8, 8), (456, 8)),
        ((256, 144), 2048, (64, 32), (64, 32)),
        ((144, 256), 2048, (32, 64), (32, 64)),
    ],
)
def test_sizes_are_multiples_nearest_to_the_area(
    size: tuple[int, int], area_px: int, multiples: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert fit_size(*size, area_px=area_px, multiples=multiples) == wanted


def sound_of(samples: int, frames: int = 0) -> KeptSample:
    size = (704, 704) if frames else (0, 0)
    return KeptSample(
        "s", "s", "", 0, 0, "", frames, 24.0, *size, 16_000, samples, "train", None
    )  # fmt: skip


@pytest.mark.parametrize("name", ["tiny", "ovi"])
def test_sounds_of_one_latent_length_are_of_one_shape(name: str) -> None:
    """So that lengths up to 12 s fill batches, which no two lengths in samples would."""
    geometry = geometry_of(load_recipe(name))
    codec = geometry.audio.codec
    shapes = {}
    for samples in range(900, 12 * codec.rate_hz, 37):
        shape = geometry.shape_of(sound_of(samples))
        length = codec.latent_length(samples)
        assert geometry.audio_latent(shape) == (length, codec.channels) or not length
        # All of a sound is used, and it is the length of the latents alone that tells shapes apart.
        assert (samples <= shape.audio_samples) == (length > 0)
        assert shapes.setdefault(length, shape) == shape
    assert len(set(shapes.values())) == len(shapes) <= 12 * codec.rate_hz // codec.stride + 1


def test_a_clip_of_the_paper_has_157_audio_latents() -> None:
    geometry = geometry_of(load_recipe("ovi"))
    assert geometry.audio_tokens(geometry.shape_of(sound_of(80_667, frames=121))) == 157
    # What a longer sound has beyond the frames is left out.
    assert geometry.audio_tokens(geometry.shape_of(sound_of(200_000, frames=121))) == 157
