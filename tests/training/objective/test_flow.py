"""Flow matching: the path, the target, noise levels, and the way back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import SHARED
from training.objective.flow import (
    LEAST_SIGMA,
    draw_sigma,
    interpolate,
    shift_sigma,
    sigma_grid,
    velocity,
    velocity_towards,
)
from training.objective.keys import generator, key, uniform


def test_the_path_leads_from_data_to_noise() -> None:
    data, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(interpolate(data, noise, torch.zeros(2)), data)
    torch.testing.assert_close(interpolate(data, noise, torch.ones(2)), noise)
    mixed = interpolate(data, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(mixed, torch.stack((data[0], noise[1])))
    # The velocity is the path's derivative in sigma.
    step = interpolate(data, noise, torch.full((2,), 0.75)) - interpolate(
        data, noise, torch.full((2,), 0.25)
    )
    torch.testing.assert_close(step / 0.5, velocity(data, noise))


def test_data_says_the_same_as_a_velocity() -> None:
    data, noise = torch.randn(3, 4), torch.randn(3, 4)
    sigma = torch.tensor([1.0, 0.4, LEAST_SIGMA])
    noisy = interpolate(data, noise, sigma)
    torch.testing.assert_close(
        velocity_towards(noisy, data, sigma), velocity(data, noise), atol=1e-5, rtol=0
    )
    # Next to the data no error grows without bounds.
    wrong = velocity_towards(data, data + 0.01, torch.zeros(3))
    torch.testing.assert_close(wrong, torch.full((3, 4), -0.01 / LEAST_SIGMA))


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_the_grid_is_that_of_the_released_sampler(case: str) -> None:
    path = SHARED / "golden" / "unipc.safetensors"
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()[case])
    grid = sigma_grid(settings["steps"], settings["shift"])
    torch.testing.assert_close(grid, load_file(path)[f"{case}.sigmas"], atol=1e-6, rtol=0)


def test_levels_are_drawn_as_told() -> None:
    many = [generator("level", index) for index in range(4000)]
    drawn = draw_sigma(many, "uniform", 1.0)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(12**-0.5, abs=0.02)
    normal = draw_sigma([generator("level", index) for index in range(4000)], "logit-normal", 1.0)
    assert float(normal.std()) < float(drawn.std())
    shifted = draw_sigma([generator("level", index) for index in range(4000)], "uniform", 5.0)
    torch.testing.assert_close(shifted, shift_sigma(drawn, 5.0))
    assert float(shifted.mean()) > 0.7


def test_keys_tell_parts_apart() -> None:
    assert key("a", "b") == key("a", "b") != key("ab") != key("a", "", "b")
    values = [uniform("dropout", index) for index in range(2000)]
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
