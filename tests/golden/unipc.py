"""The released sampler: its grid of noise levels and its solver, for every case of the file."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.golden.files import Checks, Golden, compare
from training.generate.solver import Latents, unipc
from training.objective.flow import sigma_grid


def check(golden: Golden) -> Checks:
    """Noise levels, timesteps (whole thousandths of them) and the latent after every step."""
    cases = {name.partition(".")[0] for name in golden.tensors if name.endswith(".sigmas")}
    for case in sorted(cases):
        settings = golden.metadata[case]
        sigmas = sigma_grid(int(settings["steps"]), float(settings["shift"]))
        yield compare(f"{case}.sigmas", sigmas, golden.tensors[f"{case}.sigmas"])
        told, trajectory = trajectory_of(golden, case, sigmas)
        reference = golden.tensors[f"{case}.timesteps"]
        yield compare(f"{case}.timesteps", told, reference, exact=True)
        if f"{case}.trajectory" in golden.tensors:
            yield compare(f"{case}.trajectory", trajectory, golden.tensors[f"{case}.trajectory"])


def trajectory_of(golden: Golden, case: str, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The timesteps that the model was told, and the latents [steps + 1, ...] from the noise on."""
    target, noise = golden.tensors[f"{case}.target"], golden.tensors[f"{case}.noise"]
    timesteps, trajectory = [], [noise]

    def velocity_of(latents: Latents, sigma: float) -> Latents:
        """The made-up model that the README of the golden files describes."""
        timesteps.append(round(1000 * sigma))
        (x,) = latents
        return ((x - target) * (0.8 + 0.4 * sigma) + 0.3 * torch.sin(3 * x) * sigma,)

    unipc((noise,), velocity_of, sigmas, lambda _, latents: trajectory.append(latents[0]))
    return torch.tensor(timesteps), torch.stack(trajectory)
