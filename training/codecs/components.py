"""Principal components: the few directions in which given vectors differ most."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from manifests.errors import UsageError

_ITERATIONS = 4
_SEED = 0


class Components(nn.Module):
    """The largest principal components of vectors, each brought towards unit variance.

    A component's number is divided by the square root of its deviation, and all by one factor that
    makes their mean variance 1: a generator then has something to learn of fine components too, and
    errors in coarse ones, which the eye or ear minds more, still count for more.

    Args:
        width: numbers of a vector.
        count: components kept.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(count, width))
        self.register_buffer("scale", torch.ones(count))
        self.mean: Tensor
        self.basis: Tensor
        self.scale: Tensor

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Find the components of vectors [count, width]; equal vectors, equal components.

        By subspace iteration on random projections (Halko, Martinsson and Tropp, 2011).
        """
        mean = vectors.mean(0)
        centred = vectors - mean
        count = len(self.basis)
        found = min(count, *centred.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            _, values, basis = torch.svd_lowrank(centred, q=found, niter=_ITERATIONS)
        deviations = values / len(vectors) ** 0.5
        scale = deviations.clamp(min=1e-3 * float(deviations[0])).sqrt()
        scale = scale * float((deviations / scale).square().mean().sqrt())
        self.mean.copy_(mean)
        self.basis.zero_()[:found] = basis.T
        self.scale.fill_(float(scale[-1]))[:found] = scale

    def encode(self, vectors: Tensor) -> Tensor:
        """Numbers [..., count] of vectors [..., width].

        Raises:
            UsageError: `codec_not_fitted`.
        """
        if not self.basis.any():
            raise UsageError(
                "codec_not_fitted",
                "This codec is fitted to the samples of a training run, and has not been.",
                remedy="Train with it; to encode ahead, take a codec that is not fitted.",
            )
        return (vectors - self.mean) @ self.basis.T / self.scale

    def decode(self, numbers: Tensor) -> Tensor:
        """Vectors [..., width] that numbers [..., count] stand for."""
        return numbers * self.scale @ self.basis + self.mean


def gathered(parts: Iterable[Tensor], most: int) -> Tensor:
    """Rows of the parts [rows, width] together, evenly thinned out to at most `most`."""
    rows = torch.cat(list(parts))
    step = -(-len(rows) // most)
    return rows[::step]
