"""`CuratedSamples`: what is packed, in the trainer's order, and what is left after a stop."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import twinreel
from training.data.samples import kept_samples_sql
from twinreel import CuratedSamples


def packed(out: Path) -> dict[str, dict[str, bytes]]:
    """The files of every sample, read with `tarfile` alone."""
    found: dict[str, dict[str, bytes]] = {}
    for shard in out.glob("shards/*/*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                name, _, extension = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(name, {})[extension] = file.read()
    return found


def test_a_sample_is_what_was_packed(curated: Path) -> None:
    samples = CuratedSamples(curated)
    assert len(samples) == 5
    files = packed(curated)
    for sample in (samples[index] for index in range(2)):
        members = files[sample["sample_id"]]
        wave, rate_hz = soundfile.read(io.BytesIO(members["flac"]), dtype="float32")
        assert rate_hz == sample["audio_rate_hz"]
        assert np.array_equal(sample["audio"].numpy(), wave)
        with av.open(io.BytesIO(members["mp4"])) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert sample["frames"].dtype == torch.uint8
        assert sample["frames"].shape == (len(frames), 3, *frames[0].shape[:2])
        difference = sample["frames"].permute(0, 2, 3, 1).numpy().astype(int) - np.stack(frames)
        assert np.abs(difference).mean() < 1.0
        assert sample["caption"] == members["txt"].decode()
        assert sample["fps"] == 24.0


def ids(samples: Any) -> list[str]:
    return [sample["sample_id"] for sample in samples]


def test_iterating_goes_through_epochs_and_on_from_a_state(curated: Path) -> None:
    samples = CuratedSamples(curated, seed=4)
    first, second, *later = (ids(samples) for _ in range(6))
    assert sorted(first) == sorted(second) == ids(samples[index] for index in range(5))
    # One of 120 orders comes twice in a row now and then, but not six times.
    assert any(first != other for other in (second, *later))
    begun = CuratedSamples(curated, seed=4)
    taken = [sample["sample_id"] for sample, _ in zip(begun, range(2), strict=False)]
    # `zip` takes a third sample before it sees that the numbers are at an end.
    state = begun.state_dict()
    resumed = CuratedSamples(curated, seed=4)
    resumed.load_state_dict(state)
    assert [*taken, first[2], *ids(resumed)] == first
    assert ids(resumed) == second


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_a_loader_resumes_after_the_last_batch_that_it_gave(curated: Path, workers: int) -> None:
    samples = CuratedSamples(curated)
    whole = samples.loader(2, seed=7)
    assert len(whole) == 3
    first = [batch["sample_id"] for batch in whole]
    assert sorted(one for batch in first for one in batch) == sorted(ids(samples))
    second = [batch["sample_id"] for batch in whole]
    begun = samples.loader(2, seed=7, num_workers=workers)
    batch = next(iter(begun))
    assert batch["sample_id"] == first[0]
    assert batch["frames"].shape[:3] == (len(first[0]), 25, 3)
    assert batch["audio"].shape[0] == len(first[0])
    resumed = CuratedSamples(curated).loader(2, seed=7, num_workers=workers)
    resumed.load_state_dict(begun.state_dict())
    assert [batch["sample_id"] for batch in resumed] == first[1:]
    assert [batch["sample_id"] for batch in resumed] == second


def test_a_loader_has_the_seed_of_its_samples(curated: Path) -> None:
    orders = [
        [batch["sample_id"] for batch in loader]
        for loader in (
            CuratedSamples(curated, seed=7).loader(2),
            CuratedSamples(curated).loader(2, seed=7),
            CuratedSamples(curated, seed=7).loader(2, seed=0),
        )
    ]
    assert orders[0] == orders[1] != orders[2]


def test_what_is_held_out_needs_nothing_to_train_on(
    curated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = f"SELECT * REPLACE ('held_out' AS split) FROM ({kept_samples_sql()})"
    assert len(CuratedSamples(curated, split="held_out")) == 0
    monkeypatch.setattr("training.data.snapshot.kept_samples_sql", lambda: held_out)
    assert len(CuratedSamples(curated, split="held_out")) == 5
    for split, code in (("train", "empty_selection"), ("held-out", "unknown_split")):
        with pytest.raises(twinreel.TwinreelError) as caught:
            CuratedSamples(curated, split=split)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_ranks_share_each_batch(curated: Path) -> None:
    samples = CuratedSamples(curated)
    whole = [batch["sample_id"] for batch in samples.loader(2)]
    shares = [list(samples.loader(2, rank=rank, ranks=2)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        counted = [
            sample
            for part in parts
            for sample, weight in zip(part["sample_id"], part["weight"], strict=True)
            if weight
        ]
        assert counted == batch


def test_a_state_of_other_samples_is_refused(curated: Path, tmp_path: Path) -> None:
    state = CuratedSamples(curated).state_dict()
    with pytest.raises(twinreel.TwinreelError) as caught:
        CuratedSamples(curated, seed=1).load_state_dict(state)
    assert (caught.value.code, caught.value.subject) == ("dataset_changed", "seed")
    shutil.copytree(curated, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "shards")
    with pytest.raises(twinreel.TwinreelError) as caught:
        CuratedSamples(tmp_path / "out")
    assert caught.value.code == "shard_missing"


def test_a_forked_worker_is_refused_and_does_not_hang(curated: Path) -> None:
    samples = CuratedSamples(curated)
    loader = DataLoader(samples, num_workers=1, multiprocessing_context="fork")
    # PyTorch hands on what a worker raises as text.
    with pytest.raises(RuntimeError, match="forked_worker"):
        next(iter(loader))
