"""Encoding before training: the same numbers as on the fly, and nothing done twice."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
import webdataset
from safetensors.torch import load

from curation.cli.training import read_snapshot
from manifests.errors import MediaError
from manifests.store.store import Store
from stages.weights.find import WEIGHTS_VARIABLE
from tests.support.command_line import Finished, twinreel, twinreel_process
from tests.support.in_process import InProcessEngine
from tests.support.made_up_codecs import UMT5_WIDTH, write_umt5
from tests.support.made_up_weights import file_of
from training.codecs.log_mel import LogMel
from training.codecs.pixels import PixelPatches
from training.data.geometry import geometry_of
from training.data.latents import PARTS, LatentKeys, Latents
from training.recipe import load_recipe
from training.text.umt5 import Umt5

TEXT = f"text={{kind: umt5-xxl, dim: {UMT5_WIDTH}, length: 12}}"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    write_umt5(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def engine() -> Iterator[InProcessEngine]:
    with mock.patch("curation.encode.Engine", InProcessEngine()) as engine:
        yield engine


@pytest.fixture
def out(curated: Path, tmp_path: Path) -> Path:
    """A data set of one's own."""
    return Path(shutil.copytree(curated, tmp_path / "out"))


def encode(out: Path, recipe: Path, *more: str) -> dict[str, int]:
    finished = twinreel("encode", out, "--recipe", recipe, "--set", TEXT, *more, "--json")
    assert finished.code == 0, finished.err
    counts: dict[str, int] = finished.json()
    return counts


def parts_of(out: Path, recipe: Path) -> tuple[int, int]:
    """How many latents a data set has, and how many captions, the empty one among them."""
    snapshot = read_snapshot(str(out))
    shapes = [geometry_of(load_recipe(recipe)).shape_of(one) for one in snapshot.train]
    shapes += [geometry_of(load_recipe(recipe)).shape_of(one) for one in snapshot.held_out]
    latents = sum(bool(shape.frames) + bool(shape.audio_samples) for shape in shapes)
    captions = {one.caption or "" for one in (*snapshot.train, *snapshot.held_out)}
    return latents, len(captions | {""})


def train(recipe: Path, data: Path, run: Path) -> Finished:
    settings = ("--set", TEXT, "--set", "steps=3", "--set", "caption_dropout=0.5")
    return twinreel("train", recipe, "--data", data, "--run", run, *settings)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_training_on_latents_gives_the_losses_of_training_on_media(
    out: Path, curated: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = train(recipe_file, curated, tmp_path / "on the fly")
    assert finished.code == 0, finished.err
    latents, captions = parts_of(out, recipe_file)
    counts = encode(out, recipe_file, "--batch", "3")
    assert counts == {"there": 0, "encoded": latents + captions, "failed": 0, "errors": []}

    def refuse(*_: object) -> None:
        raise AssertionError("it is there already")

    for codec in (PixelPatches, LogMel, Umt5):
        monkeypatch.setattr(codec, "encode", refuse)
    finished = train(recipe_file, out, tmp_path / "read")
    assert finished.code == 0, finished.err
    before = losses(tmp_path / "on the fly")
    assert len(before) > 3
    assert losses(tmp_path / "read") == pytest.approx(before, rel=1e-6)


def test_what_is_there_is_not_encoded_again(
    out: Path, recipe_file: Path, weights: Path, engine: InProcessEngine
) -> None:
    total = sum(parts_of(out, recipe_file))
    latents, captions = parts_of(out, recipe_file)
    encode(out, recipe_file)
    engine.subjects.clear()
    assert encode(out, recipe_file)["there"] == total
    assert engine.subjects == []
    # A caption that has changed, and nothing else.
    store = Store(str(out))
    names = [name for name in store.schema("captions").names if name[:6] != "commit"]
    row = store.read("captions", names).to_pylist()[0]
    store.commit({"captions": [{**row, "text": "other words"}]})
    assert encode(out, recipe_file)["encoded"] == 1
    # Another codec: its part alone.
    with_sound = sum(
        bool(geometry_of(load_recipe(recipe_file)).shape_of(one).audio_samples)
        for split in (read_snapshot(str(out)).train, read_snapshot(str(out)).held_out)
        for one in split
    )
    other = encode(out, recipe_file, "--set", "audio.codec.mels=8")
    assert (other["encoded"], other["failed"]) == (with_sound, 0)
    # Other weights of the text encoder.
    path = weights / "umt5-xxl" / file_of("umt5-xxl")
    tensors = torch.load(path)
    torch.save(tensors | {"norm.weight": 2 * tensors["norm.weight"]}, path)
    captions = parts_of(out, recipe_file)[1]
    assert encode(out, recipe_file)["encoded"] == captions
    # A shard that is lost: what was in it.
    (shard,) = (out / "latents").glob("video-*/*.tar")
    shard.unlink()
    assert encode(out, recipe_file)["encoded"] == latents - with_sound


def test_one_bad_sample_stops_nothing_and_is_named(out: Path, recipe_file: Path) -> None:
    bad = read_snapshot(str(out)).train[0]
    whole = (out / bad.shard).read_bytes()
    with (out / bad.shard).open("r+b") as file:
        file.seek(bad.offset_bytes + bad.bytes // 2)
        file.write(bytes(1000))
    latents, captions = parts_of(out, recipe_file)
    shape = geometry_of(load_recipe(recipe_file)).shape_of(bad)
    lost = bool(shape.frames) + bool(shape.audio_samples)
    for there, encoded in ((0, latents + captions - lost), (latents + captions - lost, 0)):
        counts = encode(out, recipe_file)
        assert (counts["there"], counts["encoded"], counts["failed"]) == (there, encoded, lost)
        assert bad.sample_id in str(counts)
    rows = [row for row in Store(str(out)).read("latents").to_pylist() if row["error"]]
    assert {row["error"]["code"] for row in rows} == {"sample_corrupt"}
    finished = twinreel("encode", out, "--recipe", recipe_file, "--set", TEXT)
    assert finished.code == 0
    assert f"{lost} failed" in finished.out
    (out / bad.shard).write_bytes(whole)
    counts = encode(out, recipe_file)
    assert (counts["encoded"], counts["failed"]) == (lost, 0)


def test_a_codec_that_fails_on_one_sample_costs_that_one(
    out: Path, recipe_file: Path, engine: InProcessEngine
) -> None:
    victim = read_snapshot(str(out)).train[3].sample_id

    def fault(task: object) -> None:
        samples = task.argument.samples  # type: ignore[attr-defined]
        if victim in {one.sample.sample_id for one in samples}:
            raise MediaError("decoder_crashed", f"{victim} brings it down.")

    engine.fault = fault
    counts = encode(out, recipe_file)
    # Its caption too, if no other sample has it.
    assert counts["failed"] in (2, 3)
    assert counts["encoded"] + counts["failed"] == sum(parts_of(out, recipe_file))
    engine.fault = lambda task: None


def test_stopped_it_goes_on_from_what_is_committed(
    out: Path, recipe_file: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.phases.encode._SAMPLES_A_TASK", 3)

    def stop_at_third(task: object) -> None:
        if len(engine.subjects) == 3:
            raise KeyboardInterrupt

    engine.fault = stop_at_third
    assert twinreel("encode", out, "--recipe", recipe_file, "--set", TEXT).code != 0
    done = Store(str(out)).read("latents").num_rows
    assert done > 6
    engine.fault = lambda task: None
    counts = encode(out, recipe_file)
    assert counts["there"] == done
    assert counts["there"] + counts["encoded"] == sum(parts_of(out, recipe_file))


def test_a_sidecar_shard_is_a_webdataset(out: Path, recipe_file: Path, tmp_path: Path) -> None:
    encode(out, recipe_file)
    recipe = load_recipe(recipe_file, [TEXT])
    snapshot, shape_of = read_snapshot(str(out)), geometry_of(recipe).shape_of
    keys = LatentKeys.of(recipe, [snapshot.train], shape_of)
    # As the other ranks get it: mapped from the first rank's file.
    sent = pickle.dumps(Latents.find(str(out), keys, tmp_path / "latents.arrow"))
    assert len(sent) < 1000
    latents = pickle.loads(sent)
    sample = snapshot.train[0]
    for part in PARTS:
        (shard,) = (out / "latents").glob(f"{part}-{keys.encoders[part]}/*.tar")
        read = {
            one["__key__"]: one[f"{part}.safetensors"]
            for one in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        }
        name = keys.text_key(sample.caption or "") if part == "text" else sample.sample_id
        (tensor,) = load(read[name]).values()
        found = latents.read(sample, shape_of(sample), part)
        assert found is not None
        assert torch.equal(found, tensor)
    # Trimmed: no padding is stored.
    assert latents.read_empty_text().shape == (1, UMT5_WIDTH)  # type: ignore[union-attr]


def test_a_latent_that_was_damaged_is_named(out: Path, recipe_file: Path, tmp_path: Path) -> None:
    encode(out, recipe_file)
    (shard,) = (out / "latents").glob("audio-*/*.tar")
    data = bytearray(shard.read_bytes())
    for at in range(0, len(data), 100):
        data[at] ^= 1
    shard.write_bytes(data)
    finished = train(recipe_file, out, tmp_path / "run")
    assert finished.code == 1
    assert "[latent_corrupt]" in finished.err
    assert str(shard) in finished.err


@pytest.mark.soak
def test_on_ray_it_does_the_same(out: Path, recipe_file: Path) -> None:
    finished = twinreel_process(
        "encode", out, "--recipe", recipe_file, "--set", TEXT, "--workers", "1", "--json"
    )
    assert finished.code == 0, finished.err
    assert finished.json()["encoded"] == sum(parts_of(out, recipe_file))
