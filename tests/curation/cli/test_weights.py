from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import Result
from typer.testing import CliRunner

from curation.cli.doctor import examine
from curation.cli.weights import app
from manifests.errors import TwinreelError
from stages.base.backends import BackendDeclaration
from stages.video.motion.stage import MotionStage
from stages.weights import download
from stages.weights.catalogue import CATALOGUE
from stages.weights.find import MIRROR_VARIABLE, OFFLINE_VARIABLE, WEIGHTS_VARIABLE
from tests.conftest import SHARED
from tests.support.moto_bucket import moto_bucket
from tests.support.publisher import Publisher, publisher, some_bytes, weight_set

DATA = some_bytes(50_000)


def weights(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> TwinreelError:
    result = weights(*arguments)
    assert isinstance(result.exception, TwinreelError), result.output
    assert "\n" not in str(result.exception)
    return result.exception


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, in an empty home."""
    for name in (MIRROR_VARIABLE, OFFLINE_VARIABLE, "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setattr(download, "_RETRY_WAITS_S", (0.0,))
    return tmp_path / "weights"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A catalogue of two made-up sets, and who publishes them."""
    with publisher() as state:
        one = weight_set(state.publish("one.onnx", DATA), name="one")
        two = weight_set(
            state.publish("config.json", some_bytes(40, 1)),
            state.publish("model.bin", some_bytes(2000, 2)),
            name="two",
        )
        for name in list(CATALOGUE):
            monkeypatch.delitem(CATALOGUE, name)
        monkeypatch.setitem(CATALOGUE, "one", one)
        monkeypatch.setitem(CATALOGUE, "two", two)
        yield state


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_list_says_what_is_here_and_under_which_licence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(SHARED / "weights"))
    lines = weights("list").stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[1 : len(CATALOGUE) + 1]}
    assert rows.keys() == CATALOGUE.keys()
    assert str(SHARED / "weights" / "yunet_n_640_640.onnx") in rows["yunet"]
    assert rows["raft-large"].split()[-1] == "missing"
    for text in ("motion:raft_large", "about 21.1 MB", "BSD-3-Clause", "unclear", "ff5fadd5"):
        assert text in rows["raft-large"]
    assert any(line.startswith("raft-large: trained on FlyingChairs") for line in lines)


@pytest.mark.usefixtures("no_network")
def test_list_as_json_has_whole_hashes_formats_and_sources(folder: Path) -> None:
    sets = {entry["name"]: entry for entry in json.loads(weights("list", "--json").stdout)}
    assert sets.keys() == CATALOGUE.keys()
    syncnet = sets["syncnet"]
    assert syncnet["sha256"] == CATALOGUE["syncnet"].files[0].sha256
    assert syncnet["state"] == "missing"
    assert syncnet["path"] is None
    assert syncnet["format"] == "pickle, read with weights_only"
    assert syncnet["commercial_use"] == "unclear"
    assert [file["name"] for file in sets["whisper-large-v3"]["files"]] == [
        "config.json",
        "model.bin",
        "preprocessor_config.json",
        "tokenizer.json",
        "vocabulary.json",
    ]
    assert not sets["raft-small"]["size_is_exact"]
    assert sets["ast-audioset"]["size_is_exact"]


def test_list_counts_the_files_of_a_set_that_is_there_in_part(folder: Path, hub: Publisher) -> None:
    (folder / "two").mkdir(parents=True)
    (folder / "two" / "model.bin").touch()
    assert f"1 of 2 files in {folder}" in weights("list").stdout


def test_fetch_by_name_then_all_then_nothing_is_left_to_do(folder: Path, hub: Publisher) -> None:
    first = weights("fetch", "one")
    assert first.exit_code == 0
    assert first.stdout == (f"fetched  {folder}/one.onnx (50 kB) from {hub.url}/one.onnx\n")
    second = weights("fetch", "--all")
    assert [line.split()[0] for line in second.stdout.splitlines()] == [
        "there",
        "fetched",
        "fetched",
    ]
    hub.asked.clear()
    third = json.loads(weights("fetch", "--all", "--json").stdout)
    assert [file["state"] for file in third] == ["there"] * 3
    assert hub.asked == []


def test_fetch_for_a_stage_or_its_backend(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = BackendDeclaration("made_up", weights=("one", "two"))
    monkeypatch.setattr(MotionStage, "backends", (BackendDeclaration("dis"), made_up))
    assert len(weights("fetch", "--for", "motion:made_up").stdout.splitlines()) == 3
    assert len(weights("fetch", "--for", "motion").stdout.splitlines()) == 3
    assert error_of("fetch", "--for", "loudness").code == "no_weights_for"
    assert error_of("fetch", "--for", "motion:other").code == "no_weights_for"


def test_fetch_without_a_name_is_an_error(folder: Path, hub: Publisher) -> None:
    error = error_of("fetch")
    assert (error.code, error.exit_code) == ("nothing_named", 2)
    assert hub.asked == []


@pytest.mark.parametrize("command", [("fetch",), ("verify",), ("mirror", "/nowhere")])
def test_an_unknown_name_is_an_error_that_knows_better(
    command: tuple[str, ...], folder: Path
) -> None:
    error = error_of(*command, "sincnet")
    assert (error.code, error.exit_code) == ("unknown_weights", 2)
    assert "Did you mean 'syncnet'?" in str(error)


def test_one_set_that_fails_does_not_stop_the_others(folder: Path, hub: Publisher) -> None:
    del hub.files["/one.onnx"]
    result = weights("fetch", "--all")
    assert isinstance(result.exception, TwinreelError)
    assert (result.exception.code, result.exception.exit_code) == ("weights_gone", 1)
    assert (folder / "two" / "model.bin").is_file()


def test_several_sets_that_fail_are_all_named_in_one_message(folder: Path, hub: Publisher) -> None:
    hub.files.clear()
    error = error_of("fetch", "--all")
    assert error.code == "weights_incomplete"
    assert "2 of 2 sets are not here" in str(error)
    assert f"{hub.url}/one.onnx" in str(error)
    assert f"{hub.url}/config.json" in str(error)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("by", ["option", "variable"])
def test_offline_is_one_message_and_no_connection(
    by: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "variable":
        monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    error = error_of("fetch", "syncnet", *(["--offline"] if by == "option" else []))
    assert (error.code, error.exit_code) == ("missing_weights", 2)
    for text in ("sync:syncnet", "syncnet_v2.model", "`twinreel weights fetch syncnet`"):
        assert text in str(error)
    assert str(folder) in str(error)


@pytest.mark.usefixtures("no_network")
def test_offline_what_is_there_is_fine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(SHARED / "weights"))
    result = weights("fetch", "yunet", "aesthetic-mlp", "--offline")
    assert result.exit_code == 0
    assert result.stdout.count("there ") == 2


def test_verify_passes_the_real_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(SHARED / "weights"))
    result = weights("verify")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["ok", "yunet"],
        ["ok", "aesthetic-mlp"],
    ]


def test_verify_fails_for_a_bad_file_and_for_a_named_one_that_is_missing(
    folder: Path, hub: Publisher
) -> None:
    assert weights("verify").stdout == "no weights are here\n"
    weights("fetch", "two")
    assert weights("verify").exit_code == 0
    missing = weights("verify", "one")
    assert missing.exit_code == 1
    assert missing.stdout.startswith("missing  one ")
    (folder / "two" / "model.bin").write_bytes(b"damaged")
    bad = weights("verify", "--json")
    assert bad.exit_code == 1
    assert [(Path(file["path"]).name, file["verdict"]) for file in json.loads(bad.stdout)] == [
        ("config.json", "ok"),
        ("model.bin", "bad"),
    ]
    assert "7 bytes, not 2,000" in weights("verify").stdout


def test_mirror_fetches_what_is_named_and_serves_a_machine_without_the_source(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto_bucket("models"):
        first = weights("mirror", "s3://models/weights", "one", "two")
        assert first.exit_code == 0, first.output
        assert first.stdout.count("copied   s3://models/weights/") == 3
        again = json.loads(weights("mirror", "s3://models/weights", "--json").stdout)
        assert [file["state"] for file in again] == ["there"] * 3
        shutil.rmtree(folder)
        hub.files.clear()
        hub.asked.clear()
        monkeypatch.setenv(MIRROR_VARIABLE, "s3://models/weights")
        fetched = weights("fetch", "--all")
        assert fetched.exit_code == 0, fetched.output
        assert fetched.stdout.count(" from s3://models/weights/") == 3
    assert hub.asked == []
    assert (folder / "one.onnx").read_bytes() == DATA


def test_mirror_copies_only_what_is_here_if_nothing_is_named(
    folder: Path, hub: Publisher, tmp_path: Path
) -> None:
    assert "no weights are here" in weights("mirror", tmp_path / "mirror").stdout
    weights("fetch", "one")
    hub.asked.clear()
    assert weights("mirror", tmp_path / "mirror").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "mirror").rglob("*")) == [
        "one.onnx",
        "weights.lock.json",
    ]
    assert hub.asked == []


@pytest.mark.usefixtures("no_network")
def test_doctor_has_a_line_for_every_set_and_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(SHARED / "weights"))
    findings = {finding.part: finding for finding in examine()}
    assert findings.keys() >= CATALOGUE.keys()
    assert findings["yunet"].state == "ok"
    assert findings["yunet"].detail == str(SHARED / "weights" / "yunet_n_640_640.onnx")
    assert findings["syncnet"].state == "optional"
    assert findings["syncnet"].get.startswith("twinreel weights fetch syncnet (54.6 MB")
    for package in ("torchvision", "open_clip", "faster_whisper", "speechmos", "openai"):
        assert findings[package].state == "ok"
        assert findings[package].detail[0].isdigit()


def test_doctor_names_what_a_set_lacks(folder: Path) -> None:
    (folder / "whisper-large-v3").mkdir(parents=True)
    for file in CATALOGUE["whisper-large-v3"].files[:-1]:
        (folder / "whisper-large-v3" / file.name).touch()
    findings = {finding.part: finding for finding in examine()}
    assert findings["whisper-large-v3"].detail == (
        f"vocabulary.json missing in {folder / 'whisper-large-v3'}"
    )
