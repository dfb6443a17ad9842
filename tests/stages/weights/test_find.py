from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from manifests.errors import StorageError, UsageError
from stages.registry import weights_users
from stages.weights.catalogue import CATALOGUE, SHA256_DIGITS, WeightFile
from stages.weights.find import (
    OFFLINE_VARIABLE,
    WEIGHTS_VARIABLE,
    find_set,
    find_weights,
    is_offline,
    require_weights,
    sha256_of,
    sha256_of_set,
    weights_folders,
)
from stages.weights.lock import LOCK_NAME, LockedFile, add_to_lock, read_lock
from stages.weights.verify import verify_set
from tests.conftest import SHARED
from tests.support.publisher import sha256, weight_set

WHISPER = CATALOGUE["whisper-large-v3"]


def test_names_and_paths_are_unique_and_every_entry_is_complete() -> None:
    paths = [weights.path(file) for weights in CATALOGUE.values() for file in weights.files]
    assert len(set(paths)) == len(paths)
    for name, weights in CATALOGUE.items():
        assert weights.name == name
        assert weights.licence
        assert weights.purpose
        users = weights_users(name)
        assert users
        for user in users:
            assert re.fullmatch(r"[a-z_.]+:[a-z0-9_.-]+", user)
        for file in weights.files:
            assert file.source.startswith(("https://", "hf://"))
            assert re.fullmatch(r"[0-9a-f]*", file.sha256)
            assert len(file.sha256) in (0, 8, SHA256_DIGITS)
            assert file.size_bytes > 0


def test_digits_in_a_file_name_are_those_of_the_catalogue() -> None:
    for name in ("raft-large", "raft-small"):
        (file,) = CATALOGUE[name].files
        assert file.name.endswith(f"-{file.sha256}.pth")


def test_the_hash_of_a_found_folder_is_the_catalogues(folder: Path) -> None:
    files = tuple(
        WeightFile(name, f"https://nowhere/{name}", 3, sha256(name.encode()))
        for name in ("a.json", "b.safetensors")
    )
    weights = weight_set(*files)
    (folder / "made-up").mkdir(parents=True)
    for file in files:
        (folder / "made-up" / file.name).write_bytes(file.name.encode())
    CATALOGUE["made-up"] = weights
    try:
        path = find_set(weights)
        assert path == folder / "made-up"
        assert sha256_of_set("made-up", path) == weights.sha256
    finally:
        del CATALOGUE["made-up"]


def test_formats_are_named() -> None:
    assert {name: weights.format for name, weights in CATALOGUE.items()} == {
        "yunet": "onnx",
        "raft-large": "pickle, read with weights_only",
        "raft-small": "pickle, read with weights_only",
        "clip-vit-l-14": "safetensors",
        "aesthetic-mlp": "pickle, read with weights_only",
        "syncnet": "pickle, read with weights_only",
        "whisper-large-v3": "ctranslate2",
        "ast-audioset": "safetensors",
        "wan-2.2-vae": "pickle, read with weights_only",
        "mmaudio-vae-16k": "pickle, read with weights_only",
        "mmaudio-bigvgan-16k": "pickle, read with weights_only",
        "umt5-xxl": "pickle, read with weights_only",
    }


def test_folders_are_looked_in_in_order_and_home_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(WEIGHTS_VARIABLE, f"{first}{os.pathsep}{os.pathsep}{second}")
    assert weights_folders() == [first, second, tmp_path / ".cache/twinreel/weights"]
    second.mkdir()
    (second / "a.onnx").write_bytes(b"2")
    assert find_weights("a.onnx") == second / "a.onnx"
    first.mkdir()
    (first / "a.onnx").write_bytes(b"1")
    assert find_weights("a.onnx") == first / "a.onnx"


def test_a_folder_with_a_file_missing_is_not_found_where_another_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = folder.with_name("whole")
    monkeypatch.setenv(WEIGHTS_VARIABLE, f"{folder}{os.pathsep}{whole}")
    for root in (folder, whole):
        (root / WHISPER.name).mkdir(parents=True)
        for file in WHISPER.files:
            (root / WHISPER.path(file)).touch()
    assert find_set(WHISPER) == folder / WHISPER.name
    (folder / WHISPER.name / "model.bin").unlink()
    assert find_set(WHISPER) == whole / WHISPER.name
    (whole / WHISPER.name / "config.json").unlink()
    assert find_set(WHISPER) is None


def test_missing_weights_are_one_line_with_stage_file_and_command(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        require_weights("syncnet", needed_by="stages.sync.backend")
    assert caught.value.code == "missing_weights"
    assert str(caught.value) == (
        "stages.sync.backend: It needs syncnet_v2.model, which is in none of the weights folders."
        " Get it with `twinreel weights fetch syncnet` (54.6 MB, licence MIT), or name a folder"
        " that has it in TWINREEL_WEIGHTS. [missing_weights]"
    )


def test_a_set_that_is_there_in_part_names_only_what_is_missing(folder: Path) -> None:
    (folder / WHISPER.name).mkdir(parents=True)
    for file in WHISPER.files[1:]:
        (folder / WHISPER.path(file)).touch()
    with pytest.raises(UsageError, match=r"needs config\.json, which is missing in ") as caught:
        require_weights("whisper-large-v3", needed_by="stages.transcript.backend")
    assert str(folder / WHISPER.name) in str(caught.value)
    assert "model.bin" not in str(caught.value)


def test_missing_weights_offline_say_where_to_put_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    with pytest.raises(UsageError) as caught:
        require_weights("whisper-large-v3", needed_by="stages.transcript.backend")
    message = str(caught.value)
    assert "\n" not in message
    assert "nothing is fetched offline" in message
    assert "`twinreel weights fetch whisper-large-v3`" in message
    assert f"put what comes into {folder / 'whisper-large-v3'}." in message


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", False), ("0", False), ("no", False), ("False", False), ("1", True), ("true", True)],
)
def test_offline_is_a_switch(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFFLINE_VARIABLE, value)
    assert is_offline() is expected


def test_a_replaced_file_is_hashed_again(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"one")
    assert sha256_of(file) == hashlib.sha256(b"one").hexdigest()
    other.write_bytes(b"two")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert sha256_of(file) == hashlib.sha256(b"two").hexdigest()


def test_the_real_weights_at_hand_verify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(SHARED / "weights"))
    for name in ("yunet", "aesthetic-mlp"):
        (verified,) = verify_set(CATALOGUE[name])
        assert (verified.verdict, verified.detail) == ("ok", "")
        assert verified.sha256 == CATALOGUE[name].files[0].sha256


def test_one_changed_byte_is_bad(folder: Path) -> None:
    (file,) = CATALOGUE["yunet"].files
    data = bytearray((SHARED / "weights" / file.name).read_bytes())
    data[1000] ^= 1
    folder.mkdir()
    (folder / file.name).write_bytes(data)
    (verified,) = verify_set(CATALOGUE["yunet"])
    assert verified.verdict == "bad"
    assert "its SHA-256 begins" in verified.detail


def test_published_first_digits_are_compared(folder: Path) -> None:
    data = b"flow"
    folder.mkdir()
    (folder / "flow.pth").write_bytes(data)
    good = WeightFile("flow.pth", "https://nowhere/flow.pth", 4, sha256(data)[:8])
    bad = WeightFile("flow.pth", "https://nowhere/flow.pth", 4, "0" * 8)
    assert [file.verdict for file in verify_set(weight_set(good))] == ["ok"]
    assert [file.verdict for file in verify_set(weight_set(bad))] == ["bad"]


def test_a_file_without_any_hash_is_unpinned_until_it_is_locked(folder: Path) -> None:
    file = WeightFile("flow.pth", "https://nowhere/flow.pth", 4)
    folder.mkdir()
    (folder / "flow.pth").write_bytes(b"flow")
    assert [file.verdict for file in verify_set(weight_set(file))] == ["unpinned"]
    add_to_lock(folder, "flow.pth", LockedFile(sha256(b"flow"), 4, file.source))
    assert [file.verdict for file in verify_set(weight_set(file))] == ["ok"]
    (folder / "flow.pth").write_bytes(b"wolf")
    assert [file.verdict for file in verify_set(weight_set(file))] == ["bad"]


def test_the_lock_keeps_its_other_entries(tmp_path: Path) -> None:
    one, two = LockedFile("a" * 64, 1, "https://one"), LockedFile("b" * 64, 2, "https://two")
    add_to_lock(tmp_path, "one", one)
    add_to_lock(tmp_path, "two", two)
    assert read_lock(tmp_path) == {"one": one, "two": two}
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"sha256": "x"}}', "\x00"])
def test_a_damaged_lock_is_a_typed_error(text: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(text)
    with pytest.raises(StorageError) as caught:
        read_lock(tmp_path)
    assert caught.value.code == "bad_weights_lock"
    assert str(tmp_path / LOCK_NAME) in str(caught.value)
