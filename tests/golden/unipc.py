"""The released sampler: its grid of noise levels, for every case of the file."""

from __future__ import annotations

from tests.golden.files import Checks, Golden, compare, not_implemented
from training.objective.flow import sigma_grid


def check(golden: Golden) -> Checks:
    """Noise levels and timesteps (whole thousandths of them); the solver is not implemented."""
    cases = {name.partition(".")[0] for name in golden.tensors if name.endswith(".sigmas")}
    for case in sorted(cases):
        settings = golden.metadata[case]
        sigmas = sigma_grid(int(settings["steps"]), float(settings["shift"]))
        yield compare(f"{case}.sigmas", sigmas, golden.tensors[f"{case}.sigmas"])
        timesteps = (sigmas[:-1] * 1000).long()
        reference = golden.tensors[f"{case}.timesteps"]
        yield compare(f"{case}.timesteps", timesteps, reference, exact=True)
        if f"{case}.trajectory" in golden.tensors:
            yield not_implemented(f"{case}.trajectory")
