"""Solvers: back to the data, by the reference's way, and faster than first order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.conftest import SHARED
from tests.golden.files import Golden
from tests.golden.unipc import check
from training.generate.solver import SOLVERS, SolverName
from training.objective.flow import interpolate, sigma_grid


def test_unipc_walks_as_the_released_sampler() -> None:
    checks = list(check(Golden.read(SHARED / "golden" / "unipc.safetensors")))
    assert sum("trajectory" in one.output for one in checks) == 3
    for one in checks:
        assert one.ok
        assert one.error is not None
        assert one.error < 2e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_perfect_model_leads_back_to_the_data(solver: SolverName) -> None:
    data, noise = torch.randn(1, 5), torch.randn(1, 5)

    def towards(latents: tuple[Tensor, ...], sigma: float) -> tuple[Tensor, ...]:
        return (noise - data,)

    steps: list[int] = []
    start = interpolate(data, noise, sigma_grid(10, 3.0)[:1])
    (found,) = SOLVERS[solver](
        (start,), towards, sigma_grid(10, 3.0), lambda done, _: steps.append(done)
    )
    torch.testing.assert_close(found, data, atol=1e-5, rtol=0)
    assert steps == list(range(1, 11))


def test_two_orders_beat_one() -> None:
    """On a velocity that bends, halving the step quarters the error."""

    def bent(latents: tuple[Tensor, ...], sigma: float) -> tuple[Tensor, ...]:
        return (latents[0] * sigma,)

    def error(steps: int) -> float:
        sigmas = torch.linspace(1.0, 0.0, steps + 1)
        start = torch.ones(1, dtype=torch.float64)
        (found,) = SOLVERS["adams-bashforth"]((start,), bent, sigmas)
        return abs(float(found) - float(torch.tensor(-0.5).exp()))

    assert error(20) / error(40) == pytest.approx(4.0, rel=0.25)
