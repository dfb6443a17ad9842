from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from manifests.errors import UsageError
from stages.weights.load import load_into, load_state_dict
from tests.conftest import SHARED

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class Malice:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_state_dict(path)
    assert caught.value.code == "bad_weights"
    assert caught.value.subject == str(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".model", ".safetensors"])
def test_what_was_saved_is_loaded_ready_to_evaluate(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = model().state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = load_into(model(), load_state_dict(path), path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_pickle_of_the_oldest_layout_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "old.model"
    torch.save(model().state_dict(), path, _use_new_zipfile_serialization=False)
    assert list(load_state_dict(path)) == list(model().state_dict())


def test_the_real_predictor_that_was_saved_on_a_gpu_is_loaded() -> None:
    state = load_state_dict(SHARED / "weights" / "sac+logos+ava1-l14-linearMSE.pth")
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    assert state["layers.0.weight"].shape == (1024, 768)


@pytest.mark.parametrize("new_layout", [True, False])
def test_a_malicious_pickle_is_refused_and_does_nothing(new_layout: bool, tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "weights.pth"
    torch.save(
        {"layer": torch.ones(2), "more": Malice(target)},
        path,
        _use_new_zipfile_serialization=new_layout,
    )
    refused(path)
    assert not target.exists()
    # Proof that it would have done something: the unrestricted reader runs it.
    torch.load(path, weights_only=False)
    assert target.exists()


def test_a_bare_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Malice(target)))
    refused(path)
    assert not target.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"layer": torch.ones(64, 64)}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


def test_damage_anywhere_is_a_typed_error_or_loads(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"layer": torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    chance = random.Random(0)
    outcomes = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            load_state_dict(path)
            outcomes.add("loaded")
        except UsageError as error:
            outcomes.add(error.code)
    assert outcomes == {"loaded", "bad_weights"}


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth")
    refused(tmp_path / "absent.safetensors")


def test_a_page_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    for name in ("page.pth", "page.safetensors"):
        (tmp_path / name).write_text("<html><body>Please log in</body></html>")
        refused(tmp_path / name)


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([torch.ones(2)], path)
    assert "It holds a list" in refused(path)
    torch.save({"epoch": 3, "model": {"layer": torch.ones(2)}}, path)
    assert "its 'epoch' is a int" in refused(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"0.weight": torch.ones(4, 5)}, "size mismatch for 0.weight"),
        ({"2.weight": torch.ones(1)}, "2.weight"),
        ({"0.bias": None}, "0.bias"),
    ],
)
def test_other_shapes_or_keys_are_refused(
    change: dict[str, torch.Tensor | None], expected: str, tmp_path: Path
) -> None:
    state = {**model().state_dict(), **change}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(UsageError) as caught:
        load_into(model(), kept, tmp_path / "weights.pth")
    assert caught.value.code == "bad_weights"
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
