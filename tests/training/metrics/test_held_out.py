"""The loss on held-out sources: the same again, and another where a condition is another's."""

from __future__ import annotations

from pathlib import Path

import torch

from curation.cli.training import read_snapshot
from training.data.encoders import Encoders
from training.data.loader import SampleReader
from training.distributed import distributed_context
from training.metrics.held_out import HeldOutLoss
from training.models.generator import build_generator
from training.recipe import load_recipe


def test_mismatches_change_what_they_say_and_nothing_else(curated: Path, recipe_file: Path) -> None:
    recipe, snapshot = load_recipe(recipe_file), read_snapshot(str(curated))
    generator = build_generator(recipe)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # All of them: only the faces' captions differ from the rest.
    assert len({sample.caption for sample in snapshot.train}) > 1
    evaluation = recipe.evaluation.model_copy(update={"samples": 100, "sigmas": (0.5, 1.0)})
    recipe = recipe.model_copy(update={"evaluation": evaluation})
    reader = SampleReader(snapshot.out, Encoders.of(recipe, torch.device("cpu")), cache_mb=100)
    with distributed_context() as context:

        def loss(mismatch: str, task: str = "t2av") -> dict[str, float]:
            return HeldOutLoss.of(recipe).measure(
                generator,
                snapshot.train,
                reader,
                context,
                task=task,  # type: ignore[arg-type]
                mismatch=mismatch,  # type: ignore[arg-type]
            )

        own = loss("none")
        assert own.keys() == {"video", "audio", "loss"}
        assert loss("none") == own
        words = loss("captions")
        assert words["video"] != own["video"]
        assert words["audio"] != own["audio"]
        frames = loss("video")
        assert frames.keys() == {"audio", "loss"}
        assert frames["audio"] != own["audio"]
        assert loss("none", "t2v").keys() == {"video", "loss"}
        # Where the tower of the video does not run, another video changes nothing.
        assert loss("video", "t2a")["audio"] == loss("none", "t2a")["audio"]
