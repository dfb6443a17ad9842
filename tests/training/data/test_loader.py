"""Reading samples: equal latents whoever reads, checked bytes, bounded memory."""

from __future__ import annotations

import hashlib
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from curation.cli.training import read_snapshot
from manifests.errors import MediaError, StorageError
from tests.training.conftest import TINY
from training.codecs import PixelPatches
from training.data.geometry import Geometry
from training.data.loader import Loader, SampleReader
from training.data.order import GlobalBatch, Position, Shape
from training.data.snapshot import Snapshot
from training.distributed import join_ranks, leave_ranks
from training.metrics.held_out import held_out_loss
from training.models.generator import build_codecs, build_generator
from training.objective.loss import rate_factor
from training.recipe import Recipe, load_recipe
from training.train import build_optimizer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("loader") / "recipe.yaml"
    path.write_text(TINY)
    return load_recipe(path)


@pytest.fixture(scope="module")
def snapshot(curated: Path) -> Snapshot:
    return read_snapshot(str(curated))


class CountingPatches(PixelPatches):
    """Counts how often pictures are encoded."""

    calls = 0

    def encode(self, pictures: Tensor) -> Tensor:
        self.calls += 1
        return super().encode(pictures)


def reader_of(
    snapshot: Snapshot, recipe: Recipe, cache_mb: int
) -> tuple[SampleReader, CountingPatches]:
    patches = CountingPatches(patch=4, frames=8, terms=1)
    audio = build_codecs(recipe)[1]
    return SampleReader(snapshot.out, patches, audio, cache_mb=cache_mb), patches


def test_what_is_remembered_is_not_read_again(snapshot: Snapshot, recipe: Recipe) -> None:
    geometry = Geometry(recipe)
    sample = snapshot.train[0]
    shape = geometry.shape_of(sample)
    remembering, patches = reader_of(snapshot, recipe, cache_mb=100)
    first, again = remembering.read(sample, shape), remembering.read(sample, shape)
    assert patches.calls == 1
    forgetful, patches = reader_of(snapshot, recipe, cache_mb=0)
    third, _ = forgetful.read(sample, shape), forgetful.read(sample, shape)
    assert patches.calls == 2
    for other in (again, third):
        assert first.video is not None
        assert first.audio is not None
        assert other.video is not None
        assert other.audio is not None
        assert torch.equal(first.video, other.video)
        assert torch.equal(first.audio, other.audio)
    assert tuple(first.video.shape) == geometry.video_latent(shape)
    assert tuple(first.audio.shape) == geometry.audio_latent(shape)


def test_latents_do_not_depend_on_threads_or_ranks(snapshot: Snapshot, recipe: Recipe) -> None:
    geometry = Geometry(recipe)
    shape = geometry.shape_of(snapshot.train[0])
    same = [sample for sample in snapshot.train if geometry.shape_of(sample) == shape]
    order = [(GlobalBatch(shape, "t2av", tuple(same)), Position(1, 0))]

    def latents(ranks: int, threads: int) -> dict[str, Tensor]:
        found = {}
        for rank in range(ranks):
            loader = Loader(
                reader_of(snapshot, recipe, cache_mb=100)[0],
                rank=rank,
                ranks=ranks,
                micro_batch=2,
                threads=threads,
                ahead=2,
                device=torch.device("cpu"),
            )
            for batch in loader.batches(iter(order)):
                assert batch.after == Position(1, 0)
                for micro in batch.micro_batches:
                    assert micro.video is not None
                    found.update(zip(micro.sample_ids, micro.video, strict=True))
            loader.close()
        return found

    one, many = latents(1, 1), latents(3, 3)
    assert one.keys() == many.keys() == {sample.sample_id for sample in same}
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_memory_stays_within_its_bound(snapshot: Snapshot, recipe: Recipe) -> None:
    reader, patches = reader_of(snapshot, recipe, cache_mb=1)
    shapes = [Shape(33, 16, 64 + 8 * index, 8192) for index in range(60)]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda shape: reader.read(snapshot.train[0], shape), shapes))
    total = sum(one.nbytes() for one in read)
    assert total > 1.2 * (1 << 20)
    held = 0
    for shape, encoded in zip(shapes, read, strict=True):
        before = patches.calls
        reader.read(snapshot.train[0], shape)
        held += encoded.nbytes() * (patches.calls == before)
    assert 0.7 * (1 << 20) < held <= 1 << 20


def test_a_sample_that_lies_about_itself_is_named(
    snapshot: Snapshot, recipe: Recipe, tmp_path: Path
) -> None:
    import dataclasses

    sample = dataclasses.replace(snapshot.train[0], sha256="0" * 64)
    reader, _ = reader_of(snapshot, recipe, cache_mb=0)
    with pytest.raises(StorageError) as found:
        reader.read(sample, Geometry(recipe).shape_of(sample))
    assert found.value.code == "sample_corrupt"

    # Whole bytes, and in them no video: a tar of one text.
    path = tmp_path / "shard.tar"
    (tmp_path / "words.mp4").write_text("no video")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "words.mp4", "s.mp4")
    data = path.read_bytes()
    lying = dataclasses.replace(
        sample, shard="shard.tar", offset_bytes=0, bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    patches, audio = build_codecs(recipe)
    with pytest.raises(MediaError) as unreadable:
        SampleReader(str(tmp_path), patches, audio, cache_mb=0).read(
            lying, Geometry(recipe).shape_of(lying)
        )
    assert unreadable.value.code == "sample_unreadable"
    assert "shard.tar" in str(unreadable.value)


def test_mismatches_change_what_they_say_and_nothing_else(
    snapshot: Snapshot, recipe: Recipe
) -> None:
    generator = build_generator(recipe)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # All of them: only the faces' captions differ from the rest.
    assert len({sample.caption for sample in snapshot.train}) > 1
    evaluation = recipe.evaluation.model_copy(update={"samples": 100, "sigmas": (0.5, 1.0)})
    recipe = recipe.model_copy(update={"evaluation": evaluation})
    reader, _ = reader_of(snapshot, recipe, cache_mb=100)
    ranks = join_ranks()
    try:

        def loss(mismatch: str, task: str = "t2av") -> dict[str, float]:
            return held_out_loss(
                generator,
                snapshot.train,
                reader,
                recipe,
                ranks,
                task=task,  # type: ignore[arg-type]
                mismatch=mismatch,  # type: ignore[arg-type]
            )

        own = loss("none")
        assert own.keys() == {"video", "audio", "loss"}
        assert loss("none") == own
        words = loss("captions")
        assert words["video"] != own["video"]
        assert words["audio"] != own["audio"]
        pictures = loss("video")
        assert pictures.keys() == {"audio", "loss"}
        assert pictures["audio"] != own["audio"]
        assert loss("none", "t2v").keys() == {"video", "loss"}
        # Where the tower of the pictures does not run, other pictures change nothing.
        assert loss("video", "t2a")["audio"] == loss("none", "t2a")["audio"]
    finally:
        leave_ranks()


def test_rates_follow_names(recipe: Recipe) -> None:
    settings = recipe.optimizer.model_copy(
        update={"rates": {"*.audio_model.patch_embedding.*": 0.5, "text_encoder.*": 0.0}}
    )
    changed = recipe.model_copy(update={"optimizer": settings})
    assert rate_factor("model.audio_model.patch_embedding.0.weight", changed) == 0.5
    assert rate_factor("model.video_model.patch_embedding.weight", changed) == 1.0
    generator = build_generator(changed)
    groups = {
        group["factor"]: len(group["params"])
        for group in build_optimizer(generator, changed).param_groups
    }
    assert groups[0.5] == 5
    assert groups[0.0] == len(list(generator.text_encoder.parameters()))
    assert sum(groups.values()) == len(list(generator.parameters()))
