"""What a run reads its samples with: codecs as they are fitted, and latents that are there."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from training.codecs.fit import begin_fit
from training.data.encoders import Encoders
from training.data.geometry import geometry_of
from training.data.latents import LatentKeys, Latents
from training.data.loader import SampleReader
from training.distributed import DistributedContext
from training.recipe import Recipe
from training.run import Start

_LATENTS = "latents.arrow"


def open_reader(
    recipe: Recipe, run: Path, start: Start, context: DistributedContext
) -> SampleReader:
    """Reads a data set's latents where they are there, and encodes the others.

    Where nothing is there the codecs are built now, so that what is missing is said now.

    Args:
        recipe: whose codecs and frozen text encoder.
        run: folder of the run, which gets a list of the latents.
        start: where the run begins or goes on.
        context: of the ranks, which call this together. One looks for all.

    Raises:
        UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        StorageError: the tables cannot be read, or as `begin_fit`.
        MediaError: `sample_unreadable`.
    """
    snapshot = start.snapshot
    encoders = Encoders.of(recipe, context.device)
    latents = None
    if context.is_first and Latents.are_there(snapshot.out):
        shape_of = geometry_of(recipe).shape_of
        keys = LatentKeys.of(recipe, [snapshot.train, snapshot.held_out], shape_of)
        latents = Latents.find(snapshot.out, keys, run / _LATENTS)
    latents = cast("Latents | None", context.broadcast(latents))
    if latents is None:
        encoders.build()
    return SampleReader(
        snapshot.out,
        begin_fit(encoders, recipe, run, start, context),
        latents=latents,
        text_length=recipe.text.length,
        cache_mb=recipe.loader.cache_mb,
    )
