"""umT5 outside the trained model: its tokens, and what a dropped caption is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from manifests.errors import UsageError
from stages.weights.find import WEIGHTS_VARIABLE
from tests.support.command_line import twinreel
from tests.support.made_up_codecs import UMT5_WIDTH, small_umt5, write_tokenizer, write_umt5
from tests.support.made_up_weights import file_of
from training.checkpoint import latest_checkpoint
from training.text.umt5 import Umt5Settings

SETTINGS = Umt5Settings(kind="umt5-xxl", dim=UMT5_WIDTH, length=12)
TEXT = f"text={{kind: umt5-xxl, dim: {UMT5_WIDTH}, length: 12}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder that has the encoder's, in the original's layout."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    write_umt5(tmp_path / "weights")
    return tmp_path / "weights"


def test_prompts_become_the_states_of_their_tokens(folder: Path) -> None:
    encoder = SETTINGS.build()
    network: Any = small_umt5()
    tokens = torch.tensor([[ord("a") - 20, ord(" ") - 20, ord("b") - 20, 1]])
    states = network(input_ids=tokens).last_hidden_state[0]
    for prompt in ("a b", "  a \n b ", "a&nbsp;b"):
        (text,) = encoder.encode([prompt])
        torch.testing.assert_close(text, states)
    (empty,) = encoder.encode([""])
    torch.testing.assert_close(empty, network(input_ids=torch.tensor([[1]])).last_hidden_state[0])


def test_no_prompts_tokens_depend_on_its_batch(folder: Path) -> None:
    encoder = SETTINGS.build()
    prompts = ["a dog", "", "a dog barks at a passing car"]
    together = encoder.encode(prompts)
    assert [len(text) for text in together] == [6, 1, 12]
    for prompt, text in zip(prompts, together, strict=True):
        torch.testing.assert_close(encoder.encode([prompt])[0], text, atol=1e-5, rtol=1e-5)
    padded = encoder(prompts)
    assert padded.shape == (3, 12, UMT5_WIDTH)
    assert torch.equal(padded[0, :6], together[0])
    assert not padded[0, 6:].any()


def test_a_folder_of_transformers_takes_the_released_weights_place(
    folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    network: Any = small_umt5()
    network.save_pretrained(own)
    settings = SETTINGS.model_copy(update={"file": str(own)})
    with pytest.raises(UsageError, match=r"It must hold tokenizer\.json"):
        settings.build()
    write_tokenizer(own / "tokenizer.json")
    assert torch.equal(settings.build()(["a dog"]), SETTINGS.build()(["a dog"]))


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=f"width {UMT5_WIDTH} instead of 4096"):
        Umt5Settings(kind="umt5-xxl").build()
    path = folder / "umt5-xxl" / file_of("umt5-xxl")
    weights = torch.load(path)
    del weights["blocks.1.ffn.fc2.weight"]
    torch.save(weights, path)
    with pytest.raises(UsageError) as caught:
        SETTINGS.build()
    assert caught.value.code == "bad_weights"
    assert "DenseReluDense.wo" in str(caught.value)
    (folder / "umt5-xxl" / "tokenizer.json").unlink()
    with pytest.raises(UsageError) as caught:
        SETTINGS.build()
    assert caught.value.code == "missing_weights"


def test_a_run_trains_and_generates_with_it_and_saves_none_of_it(
    folder: Path, curated: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("--set", TEXT, "--set", "steps=2", "--set", "caption_dropout=0.5")
    finished = twinreel("train", recipe_file, "--data", curated, "--run", run, *settings)
    assert finished.code == 0, finished.err
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    saved = torch.distributed.checkpoint.FileSystemReader(checkpoint).read_metadata()
    assert not [name for name in saved.state_dict_metadata if "text_encoder" in name]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(line["loss"] > 0 for line in lines if line["kind"] == "step")
    made = twinreel("generate", run, "--prompt", "a dog", "--out", tmp_path / "clip.mp4")
    assert made.code == 0, made.err
