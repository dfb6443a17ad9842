"""Reading samples: equal latents whoever reads, checked bytes, bounded memory."""

from __future__ import annotations

import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from curation.cli.training import read_snapshot
from manifests.errors import MediaError, StorageError
from training.codecs.pixels import PixelPatches
from training.data.encoders import Encoders
from training.data.geometry import geometry_of
from training.data.loader import Loader, SampleReader
from training.data.order import GlobalBatch, Position, Shape
from training.data.samples import KeptSample
from training.data.snapshot import Snapshot
from training.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="module")
def snapshot(curated: Path) -> Snapshot:
    return read_snapshot(str(curated))


class CountingPatches(PixelPatches):
    """Counts how often frames are encoded."""

    calls = 0

    def encode(self, frames: Tensor) -> Tensor:
        self.calls += 1
        return super().encode(frames)


def reader_of(
    snapshot: Snapshot, recipe: Recipe, cache_mb: int
) -> tuple[SampleReader, CountingPatches]:
    patches = CountingPatches(patch=4, frames=8, terms=1)
    encoders = Encoders(
        lambda: patches, recipe.audio.codec.build, audio_rate_hz=recipe.audio.codec.rate_hz
    )
    return SampleReader(snapshot.out, encoders, cache_mb=cache_mb), patches


def test_what_is_remembered_is_not_read_again(snapshot: Snapshot, recipe: Recipe) -> None:
    geometry = geometry_of(recipe)
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
    geometry = geometry_of(recipe)
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
        reader.read(sample, geometry_of(recipe).shape_of(sample))
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
    encoders = Encoders.of(recipe, torch.device("cpu"))
    with pytest.raises(MediaError) as unreadable:
        SampleReader(str(tmp_path), encoders, cache_mb=0).read(
            lying, geometry_of(recipe).shape_of(lying)
        )
    assert unreadable.value.code == "sample_unreadable"
    assert "shard.tar" in str(unreadable.value)


def test_sounds_of_other_lengths_share_a_batch_and_change_nothing(
    recipe: Recipe, tmp_path: Path
) -> None:
    """A sound's latents are those of all of it, whatever the batch and whatever its neighbours."""
    codec = recipe.audio.codec.build()
    lengths = (20_600, 20_481, 20_700)
    waves = [torch.rand(length, generator=torch.manual_seed(length)) - 0.5 for length in lengths]
    samples = [packed_sound(tmp_path, str(index), wave) for index, wave in enumerate(waves)]
    geometry = geometry_of(recipe)
    (shape,) = {geometry.shape_of(sample) for sample in samples}
    loader = Loader(
        SampleReader(str(tmp_path), Encoders.of(recipe, torch.device("cpu")), cache_mb=0),
        rank=0, ranks=1, micro_batch=4, threads=2, ahead=1, device=torch.device("cpu"),
    )  # fmt: skip
    order = [(GlobalBatch(shape, "t2a", tuple(samples)), Position(1, 0))]
    ((micro,),) = [batch.micro_batches for batch in loader.batches(iter(order))]
    loader.close()
    assert micro.audio is not None
    for latents, wave in zip(micro.audio, waves, strict=True):
        torch.testing.assert_close(latents, codec.encode(wave[None])[0], atol=1e-3, rtol=0)


def packed_sound(folder: Path, name: str, wave: Tensor) -> KeptSample:
    """A sample of sound alone in a shard of its own."""
    data = io.BytesIO()
    soundfile.write(data, wave.numpy(), 16_000, format="FLAC", subtype="PCM_24")
    with tarfile.open(folder / f"{name}.tar", "w") as archive:
        member = tarfile.TarInfo(f"{name}.flac")
        member.size = len(data.getvalue())
        archive.addfile(member, io.BytesIO(data.getvalue()))
    packed = (folder / f"{name}.tar").read_bytes()
    return KeptSample(
        name, name, f"{name}.tar", 0, len(packed), hashlib.sha256(packed).hexdigest(),
        0, 0.0, 0, 0, 16_000, len(wave), "train", None,
    )  # fmt: skip
