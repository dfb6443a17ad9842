"""Training runs through the command line: equal on any ranks, after any kill, with clear words."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.command_line import Finished, start_process, twinreel, twinreel_process
from tests.support.moto_bucket import moto_bucket, upload_folder
from training.checkpoint import latest_checkpoint, load_weights
from training.models.generator import build_generator
from training.run import read_recipe


def train(
    recipe: Path, data: Path | str, run: Path, *more: str, settings: Sequence[str] = ()
) -> Finished:
    assignments = [part for setting in settings for part in ("--set", setting)]
    arguments = ("train", recipe, "--data", data, "--run", run, *assignments, *more)
    # Starting torch takes longer than a short run does.
    alone = "--ranks" not in more or more[-1] == "1"
    return twinreel(*arguments) if alone else twinreel_process(*arguments)


def lines(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    text = (run / "log.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def same_part(line: dict[str, Any]) -> dict[str, Any]:
    """What two runs must agree on to the bit: all but the times."""
    return {name: value for name, value in line.items() if name not in TIMES}


TIMES = {"tokens_per_s", "step_s", "data_wait_s"}


def sql(out: Path, query: str) -> list[dict[str, Any]]:
    finished = twinreel("inspect", out, "--sql", query, "--json")
    assert finished.code == 0, finished.err
    rows: list[dict[str, Any]] = finished.json()
    return rows


def kept_ids(out: Path) -> set[str]:
    query = "SELECT sample.sample_id AS id FROM dataset WHERE state = 'keep' AND split = 'train'"
    return {row["id"] for row in sql(out, query)}


def epoch_ids(run: Path, epoch: int) -> list[str]:
    """Ids of an epoch in the order they were trained on; a line names the epoch that follows it."""
    found, at = [], 0
    for line in lines(run):
        if at == epoch:
            found += line["sample_ids"]
        at = line["epoch"]
    return found


@pytest.fixture(scope="module")
def undisturbed(curated: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on one rank."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = train(recipe_file, curated, run, settings=("steps=20", "evaluation.every=5"))
    assert finished.code == 0, finished.err
    return run


def test_a_run_learns_and_says_so(undisturbed: Path, curated: Path) -> None:
    steps = lines(undisturbed)
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert {line["task"] for line in steps} > {"t2av", "i2av"}
    assert all(line["tokens_per_s"] > 0 and line["data_wait_s"] >= 0 for line in steps)
    held_out = lines(undisturbed, "evaluation")
    assert [line["step"] for line in held_out] == [0, 5, 10, 15, 20]
    assert held_out[-1]["loss"] < 0.95 * held_out[0]["loss"]
    assert sorted(epoch_ids(undisturbed, 0)) == sorted(kept_ids(curated))
    assert sorted(path.name for path in (undisturbed / "checkpoints").iterdir()) == [
        "step-00000018",
        "step-00000020",
    ]


@pytest.fixture(scope="module")
def two_ranks(curated: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps on two ranks, with a checkpoint after each second."""
    run = tmp_path_factory.mktemp("two ranks") / "run"
    settings = ("steps=8", "checkpoint.every=2", "checkpoint.keep=9")
    finished = train(recipe_file, curated, run, "--ranks", "2", settings=settings)
    assert finished.code == 0, finished.err
    return run


def test_two_ranks_give_the_losses_of_one(undisturbed: Path, two_ranks: Path) -> None:
    for one, two in zip(lines(undisturbed)[:8], lines(two_ranks), strict=True):
        assert one["sample_ids"] == two["sample_ids"]
        assert one["task"] == two["task"]
        for name in ("loss", "video", "audio", "gradient_norm"):
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-5), (one["step"], name)


def test_killed_at_any_step_a_run_goes_on_to_the_bit(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("train", recipe_file, "--data", curated, "--run", run, "--set", "steps=20")
    arguments += ("--set", "evaluation.every=5")
    # Before the first checkpoint, and between two.
    for kill in (2, 11):
        with start_process(*arguments, "--resume") as process:
            wait_for_step(run, kill, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
    finished = twinreel(*arguments, "--resume")
    assert finished.code == 0, finished.err
    assert list(map(same_part, lines(run))) == list(map(same_part, lines(undisturbed)))
    assert lines(run, "evaluation") == lines(undisturbed, "evaluation")


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        log = run / "log.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was never reached")


@pytest.mark.soak
def test_two_ranks_go_on_as_one_and_as_four(
    undisturbed: Path, two_ranks: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    for ranks in ("1", "4"):
        run = tmp_path / f"then {ranks}"
        shutil.copytree(two_ranks, run)
        for later in sorted((run / "checkpoints").iterdir())[1:]:
            shutil.rmtree(later)
        finished = train(
            recipe_file, curated, run, "--resume", "--ranks", ranks, settings=("steps=8",)
        )
        assert finished.code == 0, finished.err
        assert sorted(epoch_ids(run, 0)) == sorted(kept_ids(curated))
        for line, same in zip(lines(run), lines(undisturbed)[:8], strict=True):
            assert line["sample_ids"] == same["sample_ids"]
            assert line["loss"] == pytest.approx(same["loss"], rel=1e-5)


def test_held_out_sources_are_never_trained_on(undisturbed: Path, curated: Path) -> None:
    query = "SELECT sample.sample_id AS id FROM dataset WHERE state = 'keep' AND split <> 'train'"
    held_out = {row["id"] for row in sql(curated, query)}
    assert held_out
    trained = {name for line in lines(undisturbed) for name in line["sample_ids"]}
    assert not trained & held_out


@pytest.fixture
def own_copy(curated: Path, tmp_path: Path) -> Path:
    """An OUT that a test may change."""
    return Path(shutil.copytree(curated, tmp_path / "out"))


def tars(out: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in out.rglob("shards/**/*.tar")
    }


def test_a_stricter_policy_takes_samples_out_of_training_at_once(
    own_copy: Path, undisturbed: Path, recipe_file: Path, tmp_path: Path
) -> None:
    before, tars_before = kept_ids(own_copy), tars(own_copy)
    selected = twinreel("select", own_copy, "--set", "gates.faceless=faces.kind = 'none'")
    assert selected.code == 0, selected.err
    after = kept_ids(own_copy)
    assert 0 < len(after) < len(before)
    run = tmp_path / "run"
    assert train(recipe_file, own_copy, run, settings=("steps=5",)).code == 0
    assert sorted(epoch_ids(run, 0)) == sorted(after)
    assert tars(own_copy) == tars_before

    resumed = Path(shutil.copytree(undisturbed, tmp_path / "resumed"))
    finished = train(recipe_file, own_copy, resumed, "--resume", settings=("steps=30",))
    assert "[dataset_changed]" in finished.message
    assert f"{len(before) - len(after)} went" in finished.message or "went" in finished.message
    accepted = train(
        recipe_file, own_copy, resumed, "--resume", "--accept-changes", settings=("steps=26",)
    )
    assert accepted.code == 0, accepted.err
    trained = {name for line in lines(resumed)[20:] for name in line["sample_ids"]}
    assert trained <= after


def test_another_recipe_is_named_setting_by_setting(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    finished = train(
        recipe_file, curated, run, "--resume", settings=("optimizer.learning_rate=2e-3", "seed=1")
    )
    assert "[recipe_changed]" in finished.message
    assert "optimizer.learning_rate: 0.001 -> 0.002; seed: 0 -> 1" in finished.message
    assert finished.code == 2
    # Longer, and with other habits of logging and saving, is no other recipe.
    free = ("steps=21", "log.every=2", "checkpoint.keep=1", "evaluation.samples=0")
    finished = train(recipe_file, curated, run, "--resume", settings=free)
    assert finished.code == 0, finished.err
    assert lines(run)[-1]["step"] == 21


def test_other_code_is_refused(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    record = max((run / "checkpoints").glob("*/checkpoint.json"))
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "code": "0" * 16}))
    finished = train(recipe_file, curated, run, "--resume", settings=("steps=21",))
    assert "[code_changed]" in finished.message
    assert "--accept-changes" in finished.message
    accepted = train(
        recipe_file, curated, run, "--resume", "--accept-changes", settings=("steps=21",)
    )
    assert accepted.code == 0, accepted.err


def test_a_run_is_not_begun_twice(undisturbed: Path, curated: Path, recipe_file: Path) -> None:
    before = lines(undisturbed)
    finished = train(recipe_file, curated, undisturbed)
    assert "[run_exists]" in finished.message
    assert "--resume" in finished.message
    assert lines(undisturbed) == before


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.soak)])
def test_a_missing_shard_is_named_before_the_first_step(
    own_copy: Path, recipe_file: Path, tmp_path: Path, ranks: str
) -> None:
    shard = next(own_copy.rglob("shards/**/*.tar"))
    shard.unlink()
    run = tmp_path / "run"
    finished = train(recipe_file, own_copy, run, "--ranks", ranks)
    assert "[shard_missing]" in finished.message
    assert str(shard) in finished.message
    assert finished.code == 1
    assert not (run / "log.jsonl").exists()


def corrupt(out: Path) -> Path:
    """Turn a byte around in the middle of each sample."""
    query = "SELECT sample.shard, sample.offset_bytes AS start, sample.bytes AS size FROM dataset"
    for row in sql(out, f"{query} WHERE state = 'keep'"):
        path = out / row["shard"]
        data = bytearray(path.read_bytes())
        data[row["start"] + row["size"] // 2] ^= 0xFF
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.soak)])
def test_a_corrupt_sample_stops_the_run_with_its_name(
    own_copy: Path, undisturbed: Path, recipe_file: Path, tmp_path: Path, ranks: str
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    corrupt(own_copy)
    settings = ("steps=30", "evaluation.samples=0")
    finished = train(recipe_file, own_copy, run, "--resume", "--ranks", ranks, settings=settings)
    message = only_message(finished)
    assert "[sample_corrupt]" in message
    assert "shard-" in message
    assert finished.code == 1
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["step-00000018", "step-00000020"]


def only_message(finished: Finished) -> str:
    """The one error message of a run that had begun to speak."""
    assert "Traceback" not in finished.out + finished.err, finished.err
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, finished.err
    return errors[0]


def test_an_empty_selection_is_said(own_copy: Path, recipe_file: Path, tmp_path: Path) -> None:
    assert twinreel("select", own_copy, "--set", "gates.none=false").code == 0
    finished = train(recipe_file, own_copy, tmp_path / "run")
    assert "[empty_selection]" in finished.message
    assert "twinreel inspect" in finished.message


def test_samples_at_another_rate_are_said(curated: Path, recipe_file: Path, tmp_path: Path) -> None:
    finished = train(
        recipe_file, curated, tmp_path / "run", settings=("video.fps=30", "evaluation.samples=0")
    )
    assert "[no_usable_samples]" in only_message(finished)


def test_a_full_disk_leaves_the_checkpoints_before_it(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    largest = max(path.stat().st_size for path in run.rglob("*.distcp"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond half a checkpoint: to the writer it is as if the disk were full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
    try:
        stopped = train(recipe_file, curated, run, "--resume", settings=("steps=30",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = only_message(stopped)
    assert "[checkpoint_failed]" in message
    assert "the disk took only a part" in message
    assert stopped.code == 1
    whole = [path for path in (run / "checkpoints").iterdir() if path.suffix != ".partial"]
    assert sorted(path.name for path in whole) == ["step-00000018", "step-00000020"]
    finished = train(recipe_file, curated, run, "--resume", settings=("steps=22",))
    assert finished.code == 0, finished.err


def test_training_from_a_bucket(
    curated: Path,
    undisturbed: Path,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with moto_bucket("curated") as client:
        upload_folder(client, curated, "curated", "out/")
        finished = train(recipe_file, "s3://curated/out", tmp_path / "run", settings=("steps=4",))
    assert finished.code == 0, finished.err
    for line, same in zip(lines(tmp_path / "run"), lines(undisturbed)[:4], strict=True):
        assert line["sample_ids"] == same["sample_ids"]
        assert line["loss"] == same["loss"]


def test_tensorboard_is_written_if_asked(curated: Path, recipe_file: Path, tmp_path: Path) -> None:
    settings = ("steps=1", "log.tensorboard=true")
    finished = train(recipe_file, curated, tmp_path / "run", settings=settings)
    assert finished.code == 0, finished.err
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_bad_recipe_is_refused_by_name(curated: Path, recipe_file: Path, tmp_path: Path) -> None:
    cases = {
        "optimizer.lerning_rate=1": "optimizer.lerning_rate: There is no such setting. Did you mean"
        " 'optimizer.learning_rate'?",
        "video.codec.pach=4": "Did you mean 'video.codec.patch'?",
        "model.heads=3": "multiple of twice the 3 heads",
        "tasks.t2x=1": "tasks.t2x",
        "text.heads=3": "multiple of the 3 heads",
        "model.patch=[2, 2, 2]": "model.patch",
        # A single frame lasts less than any sound that could go with it.
        "video.frames=1": "[no_usable_samples]",
        "video.codec={kind: wan-2.2}": "[missing_weights]",
    }
    for setting, words in cases.items():
        finished = train(recipe_file, curated, tmp_path / "run", settings=(setting,))
        assert words in finished.message
        assert finished.code == 2
    assert "[unknown_recipe]" in train(Path("tinny"), curated, tmp_path / "run").message


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.soak)])
def test_interrupted_a_run_says_how_to_go_on(
    curated: Path, recipe_file: Path, tmp_path: Path, ranks: str
) -> None:
    run = tmp_path / "run"
    arguments = ("train", recipe_file, "--data", curated, "--run", run, "--set", "steps=5000")
    with start_process(*arguments, "--ranks", ranks) as process:
        wait_for_step(run, 7, process)
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    message = only_message(Finished(process.returncode, out, err))
    assert "[stopped]" in message
    assert "--resume" in message
    assert train(recipe_file, curated, run, "--resume", settings=("steps=9",)).code == 0


def test_recomputed_activations_change_no_number(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begun = train(recipe_file, curated, run, settings=("steps=3", "recompute=true"))
    assert begun.code == 0, begun.err
    # The checkpoint has the same names: the run goes on without recomputing.
    assert train(recipe_file, curated, run, "--resume", settings=("steps=6",)).code == 0
    for line, same in zip(lines(run), lines(undisturbed)[:6], strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-6)
        assert line["gradient_norm"] == pytest.approx(same["gradient_norm"], rel=1e-5)


def test_rates_follow_names_also_where_activations_are_recomputed(
    curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    rates = "optimizer.rates={'*.self_attn.q.*': 0.0}"
    run = tmp_path / "run"
    settings = ("steps=2", "checkpoint.every=1", "checkpoint.keep=2", "recompute=true", rates)
    finished = train(recipe_file, curated, run, settings=settings)
    assert finished.code == 0, finished.err
    after = dict(weights(run))
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    moved = {name for name, value in weights(run) if not torch.equal(value, after[name])}
    blocks = {name for name in moved if ".blocks." in name}
    assert any(".self_attn.k." in name for name in blocks)
    assert not any(".self_attn.q." in name for name in blocks)


def test_half_precision_is_near(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    finished = train(recipe_file, curated, tmp_path / "run", settings=("steps=3", "precision=bf16"))
    assert finished.code == 0, finished.err
    for line, same in zip(lines(tmp_path / "run"), lines(undisturbed)[:3], strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=0.02)
    # The first step's model says zero in any precision.
    assert lines(tmp_path / "run")[2]["loss"] != lines(undisturbed)[2]["loss"]


def test_without_torch_the_install_is_named(
    curated: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, *rest: None if name == "librosa" else found(name, *rest)
    )
    finished = train(recipe_file, curated, tmp_path / "run")
    assert "[training_not_installed]" in finished.message
    assert "pip install 'twinreel[train]'" in finished.message


def test_a_run_on_sound_alone_goes_on_to_the_bit(
    curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    """The video tower never has a gradient, and so no state of the optimiser."""
    settings = ("tasks={t2a: 1, t2av: 0, i2av: 0, a2v: 0, v2a: 0}",)
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    finished = train(recipe_file, curated, undisturbed, settings=settings)
    assert finished.code == 0, finished.err
    assert train(recipe_file, curated, stopped, settings=(*settings, "steps=3")).code == 0
    resumed = train(recipe_file, curated, stopped, "--resume", settings=settings)
    assert resumed.code == 0, resumed.err
    assert list(map(same_part, lines(stopped))) == list(map(same_part, lines(undisturbed)))
    assert lines(stopped)[-1]["step"] == 6

    # What had no state begins with none: the run may go on with both modalities.
    both = ("tasks={t2a: 0, t2av: 1, i2av: 0, a2v: 0, v2a: 0}", "steps=8")
    finished = train(recipe_file, curated, stopped, "--resume", "--accept-changes", settings=both)
    assert finished.code == 0, finished.err
    assert lines(stopped)[-1]["video"] > 0


def test_a_checkpoint_of_another_model_is_no_damage(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    for setting, words in (
        ("model.layers=1", "blocks.1."),
        ("model.layers=3", "blocks.2."),
        ("model.ffn_dim=32", "[64] there and [32] here"),
    ):
        finished = train(
            recipe_file, curated, run, "--resume", "--accept-changes",
            settings=("steps=21", setting),
        )  # fmt: skip
        assert "[other_model]" in only_message(finished)
        assert words in finished.err
    # The run is as it was, and generates.
    made = twinreel("generate", run, "--prompt", "words", "--out", tmp_path / "clip.mp4")
    assert made.code == 0, made.err


def test_accepted_rates_are_those_of_the_new_recipe(
    undisturbed: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    before = dict(weights(run))
    finished = train(
        recipe_file, curated, run, "--resume", "--accept-changes",
        settings=("steps=21", "optimizer.rates={'*.video_model.*': 0.0}"),
    )  # fmt: skip
    assert finished.code == 0, finished.err
    moved = {name for name, value in weights(run) if not torch.equal(value, before[name])}
    assert moved
    assert not any("video_model" in name for name in moved)


def weights(run: Path) -> list[tuple[str, Tensor]]:
    """Names and values of the newest checkpoint's weights."""
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    generator = build_generator(read_recipe(run))
    load_weights(checkpoint, generator)
    return [(name, value.detach().clone()) for name, value in generator.named_parameters()]
