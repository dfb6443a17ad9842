from __future__ import annotations

import errno
import http.client
import io
import json
import os
import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from manifests.errors import StorageError, TwinreelError, UsageError
from stages.weights import download, fetch
from stages.weights.catalogue import CATALOGUE, WeightFile, WeightSet
from stages.weights.download import OnBytes, address_of
from stages.weights.fetch import FetchedFile, Silence, fetch_set
from stages.weights.find import WEIGHTS_VARIABLE
from stages.weights.lock import LOCK_NAME, LockedFile, read_lock
from stages.weights.mirror import Mirror, copy_to_mirror
from tests.conftest import SHARED
from tests.support.moto_bucket import moto_bucket
from tests.support.publisher import Publisher, publisher, sha256, some_bytes, weight_set

DATA = some_bytes(300_000)


def fails(code: str, weights: WeightSet, **settings: Any) -> str:
    with pytest.raises(TwinreelError) as caught:
        fetch_set(weights, **settings)
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only(files: list[FetchedFile]) -> FetchedFile:
    (file,) = files
    return file


def left_behind(folder: Path) -> list[str]:
    """Names in a weights folder, without the file that processes wait at."""
    return sorted(path.name for path in folder.rglob("*") if path.name != ".fetching")


class Memory(Silence):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int, int | None]] = []
        self.waited = threading.Event()

    def begin(self, file_name: str, source: str) -> OnBytes:
        return lambda done, total: self.told.append((file_name, source, done, total))

    def wait(self, folder: Path) -> None:
        self.waited.set()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# From the source.


def test_a_set_is_fetched_checked_and_found(folder: Path, hub: Publisher) -> None:
    file = hub.publish("a.onnx", DATA)
    memory = Memory()
    fetched = only(fetch_set(weight_set(file), watcher=memory))
    assert fetched == FetchedFile(
        "made-up", folder / "a.onnx", "fetched", file.source, file.sha256, len(DATA)
    )
    assert fetched.path.read_bytes() == DATA
    assert left_behind(folder) == ["a.onnx"]
    assert memory.told[0] == ("a.onnx", file.source, 0, len(DATA))
    assert memory.told[-1] == ("a.onnx", file.source, len(DATA), len(DATA))


def test_what_is_there_and_right_needs_no_network(
    folder: Path, hub: Publisher, request: pytest.FixtureRequest
) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    fetch_set(weights)
    request.getfixturevalue("no_network")
    assert only(fetch_set(weights)).state == "there"
    assert len(hub.asked) == 1


def test_several_files_lie_in_a_folder_and_only_the_missing_one_is_fetched(
    folder: Path, hub: Publisher
) -> None:
    files = [hub.publish(name, some_bytes(50, seed)) for seed, name in enumerate(("a.json", "b"))]
    weights = weight_set(*files)
    fetch_set(weights)
    assert left_behind(folder) == ["a.json", "b", "made-up"]
    (folder / "made-up" / "b").unlink()
    hub.asked.clear()
    assert [file.state for file in fetch_set(weights)] == ["there", "fetched"]
    assert [path for path, _ in hub.asked] == ["/b"]


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.cuts = [100_000, 0, 50_000]
    assert only(fetch_set(weights)).path.read_bytes() == DATA
    assert hub.asked_ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_many_cuts_are_survived_while_each_attempt_brings_bytes(
    folder: Path, hub: Publisher
) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.cuts = [20_000] * 14
    assert only(fetch_set(weights)).path.read_bytes() == DATA


def test_the_next_command_goes_on_from_the_part_that_is_left(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.cuts = [100_000, 0, 0, 0]
    message = fails("weights_unreachable", weights)
    assert "It goes on from the 100 kB that have come." in message
    assert left_behind(folder) == ["a.onnx.part"]
    assert (folder / "a.onnx.part").read_bytes() == DATA[:100_000]
    hub.asked.clear()
    assert only(fetch_set(weights)).path.read_bytes() == DATA
    assert hub.asked_ranges == ["bytes=100000-"]


def test_a_source_without_ranges_is_read_from_the_start(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.ranges = False
    hub.cuts = [100_000]
    assert only(fetch_set(weights)).path.read_bytes() == DATA
    assert hub.asked_ranges == [None, "bytes=100000-"]


def test_a_part_that_is_already_whole_is_only_checked(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    folder.mkdir()
    (folder / "a.onnx.part").write_bytes(DATA)
    assert only(fetch_set(weights)).path.read_bytes() == DATA
    assert hub.asked_ranges == [f"bytes={len(DATA)}-"]


def test_a_part_that_is_too_long_is_begun_anew(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    folder.mkdir()
    (folder / "a.onnx.part").write_bytes(DATA + b"more")
    assert only(fetch_set(weights)).path.read_bytes() == DATA


def test_a_part_of_something_else_is_removed_and_the_next_attempt_is_right(
    folder: Path, hub: Publisher
) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    folder.mkdir()
    (folder / "a.onnx.part").write_bytes(b"other")
    fails("weights_hash_mismatch", weights)
    assert left_behind(folder) == []
    assert only(fetch_set(weights)).path.read_bytes() == DATA


def test_wrong_bytes_are_removed_and_named(folder: Path, hub: Publisher) -> None:
    file = hub.publish("a.onnx", DATA)
    hub.files["/a.onnx"] = some_bytes(len(DATA), seed=1)
    message = fails("weights_hash_mismatch", weight_set(file))
    assert file.source in message
    assert f"not {file.sha256[:12]}" in message
    assert left_behind(folder) == []


def test_a_wrong_size_is_named(folder: Path, hub: Publisher) -> None:
    file = hub.publish("a.onnx", DATA)
    hub.files["/a.onnx"] = DATA[:-1]
    assert "299,999 bytes, not 300,000" in fails("weights_hash_mismatch", weight_set(file))


def test_published_first_digits_are_enough_to_refuse(folder: Path, hub: Publisher) -> None:
    right = hub.publish("flow.pth", DATA, digest=sha256(DATA)[:8])
    assert only(fetch_set(weight_set(right))).state == "fetched"
    wrong = hub.publish("wolf.pth", DATA, digest="0" * 8)
    fails("weights_hash_mismatch", weight_set(wrong))


def test_a_bad_file_is_replaced_only_once_the_good_one_is_whole(
    folder: Path, hub: Publisher
) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    folder.mkdir()
    (folder / "a.onnx").write_bytes(b"damaged")
    hub.cuts = [100, 0, 0, 0]
    fails("weights_unreachable", weights)
    assert (folder / "a.onnx").read_bytes() == b"damaged"
    assert only(fetch_set(weights)).state == "fetched"
    assert (folder / "a.onnx").read_bytes() == DATA


def test_not_found_is_said_at_once(folder: Path, hub: Publisher) -> None:
    file = WeightFile("a.onnx", f"{hub.url}/a.onnx", 3, "0" * 64)
    assert f"{hub.url}/a.onnx: It is not there (HTTP 404)." in fails(
        "weights_gone", weight_set(file)
    )
    assert len(hub.asked) == 1
    assert left_behind(folder) == []


@pytest.mark.parametrize("status", [401, 403])
def test_no_access_is_said_at_once(status: int, folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.statuses = [status]
    assert "HF_TOKEN" in fails("weights_refused", weights)
    assert len(hub.asked) == 1


def test_a_server_that_is_busy_is_asked_again(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.statuses = [503, 429, 500]
    assert only(fetch_set(weights)).path.read_bytes() == DATA
    hub.statuses = [503] * 4
    (folder / "a.onnx").unlink()
    assert "HTTP Error 503" in fails("weights_unreachable", weights)


def test_a_server_that_is_down_is_worth_another_try(folder: Path) -> None:
    with publisher() as gone:
        file = gone.publish("a.onnx", DATA)
    with pytest.raises(StorageError) as caught:
        fetch_set(weight_set(file))
    assert caught.value.code == "weights_unreachable"
    assert caught.value.retryable
    assert "Connection refused" in str(caught.value)


def test_no_room_is_said_before_anything_is_written(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    message = fails("weights_no_space", weight_set(hub.publish("a.onnx", DATA)))
    assert "300 kB are still to come, and 1 kB are free" in message


def test_a_full_disk_is_not_taken_for_the_network(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: download.PartFile, data: bytes) -> NoReturn:
        raise download.unwritable(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(download.PartFile, "write", full)
    weights = weight_set(hub.publish("a.onnx", DATA))
    assert "No space left" in fails("weights_unwritable", weights)
    assert len(hub.asked) == 1


# What nobody has published a whole hash of.


def test_what_came_without_a_hash_is_written_down_and_checked_later(
    folder: Path, hub: Publisher
) -> None:
    file = hub.publish("flow.pth", DATA, digest="")
    fetch_set(weight_set(file))
    assert read_lock(folder) == {"flow.pth": LockedFile(sha256(DATA), len(DATA), file.source)}
    assert json.loads((folder / LOCK_NAME).read_text())["flow.pth"]["size_bytes"] == len(DATA)
    (folder / "flow.pth").unlink()
    hub.files["/flow.pth"] = some_bytes(len(DATA), seed=1)
    assert "as it did before" in fails("weights_hash_mismatch", weight_set(file))
    hub.files["/flow.pth"] = DATA
    assert only(fetch_set(weight_set(file))).state == "fetched"


def test_what_has_a_whole_hash_is_not_written_down(folder: Path, hub: Publisher) -> None:
    fetch_set(weight_set(hub.publish("a.onnx", DATA)))
    assert not (folder / LOCK_NAME).exists()


def test_what_has_no_hash_at_all_is_never_joined_from_two_answers(
    folder: Path, hub: Publisher
) -> None:
    weights = weight_set(hub.publish("flow.pth", DATA, digest=""))
    hub.cuts = [100_000, 100_000]
    assert only(fetch_set(weights)).path.read_bytes() == DATA
    assert hub.asked_ranges == [None, None, None]


def test_a_page_in_place_of_a_file_without_a_hash_is_refused(folder: Path, hub: Publisher) -> None:
    file = hub.publish("flow.pth", DATA, digest="")
    hub.files["/flow.pth"] = b"<html>Please log in</html>"
    assert "not about 300,000" in fails("weights_hash_mismatch", weight_set(file))
    assert left_behind(folder) == []


# Where it comes from and where it goes.


def test_the_hub_is_asked_at_a_revision_with_the_token(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = CATALOGUE["clip-vit-l-14"].files
    assert address_of(file) == (
        "https://huggingface.co/timm/vit_large_patch14_clip_224.openai/resolve/"
        "18d0535469bb561bf468d76c1d73aa35156c922b/open_clip_model.safetensors"
    )
    assert address_of(WeightFile("a", "hf://me/mine/sub/a", 1)) == (
        "https://huggingface.co/me/mine/resolve/main/sub/a"
    )
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    # Secrets out of files end in a line break.
    monkeypatch.setenv("HF_TOKEN", "secret-token\n")
    hub.files["/me/mine/resolve/abc/sub/a.onnx"] = DATA
    fetch_set(
        weight_set(WeightFile("a.onnx", "hf://me/mine/sub/a.onnx", len(DATA), sha256(DATA), "abc"))
    )
    ((_, headers),) = hub.asked
    assert headers["Authorization"] == "Bearer secret-token"


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    hub.redirects = {"/me/mine/resolve/main/a.onnx": "/moved/a.onnx"}
    with publisher() as storage:
        storage.files["/a.onnx"] = DATA
        hub.redirects["/moved/a.onnx"] = f"{storage.url}/a.onnx"
        hub.cuts = storage.cuts = [1000]
        fetch_set(weight_set(WeightFile("a.onnx", "hf://me/mine/a.onnx", len(DATA), sha256(DATA))))
        assert [headers["Authorization"] for _, headers in hub.asked] == ["Bearer secret-token"] * 4
        assert [headers["Authorization"] for _, headers in storage.asked] == [None, None]
        assert storage.asked_ranges == [None, "bytes=1000-"]
    fetch_set(weight_set(hub.publish("b.onnx", DATA)))
    assert hub.asked[-1][1]["Authorization"] is None


def test_the_token_is_in_no_message(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    weights = weight_set(WeightFile("a.onnx", "hf://me/mine/a.onnx", 1, "0" * 64))
    hub.statuses = [403]
    assert "secret-token" not in fails("weights_refused", weights)
    assert "secret-token" not in fails("weights_gone", weights)
    monkeypatch.setenv("HF_TOKEN", "secret-token\nand more")
    with pytest.raises(UsageError) as caught:
        fetch_set(weights)
    assert caught.value.code == "bad_token"
    assert "secret-token" not in str(caught.value)


def test_a_redirect_away_from_https_is_not_followed() -> None:
    request = urllib.request.Request("https://hub/a")
    with pytest.raises(urllib.error.URLError, match="unencrypted"):
        download._Redirects().redirect_request(
            request, io.BytesIO(), 302, "Found", http.client.HTTPMessage(), "http://hub/a"
        )


def test_a_local_file_is_no_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    weights = weight_set(WeightFile("a.onnx", "hf://me/mine/a.onnx", 1, "0" * 64))
    fails("weights_unreachable", weights)


def test_the_first_folder_that_can_be_written_to_is_used(
    tmp_path: Path, folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv(WEIGHTS_VARIABLE, f"{blocked}/weights{os.pathsep}{folder}")
    assert only(fetch_set(weight_set(hub.publish("a.onnx", DATA)))).path == folder / "a.onnx"


def test_no_folder_that_can_be_written_to_is_a_typed_error(
    tmp_path: Path, folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("HOME", str(blocked))
    monkeypatch.setenv(WEIGHTS_VARIABLE, f"{blocked}/weights")
    message = fails("weights_unwritable", weight_set(hub.publish("a.onnx", DATA)))
    assert f"{blocked}/weights" in message
    assert hub.asked == []


def test_a_set_is_completed_in_the_folder_that_has_part_of_it(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [hub.publish(name, some_bytes(50, seed)) for seed, name in enumerate(("a.json", "b"))]
    fetch_set(weight_set(*files))
    (folder / "made-up" / "b").unlink()
    monkeypatch.setenv(WEIGHTS_VARIABLE, f"{folder}-first{os.pathsep}{folder}")
    fetched = fetch_set(weight_set(*files))
    assert [file.path.parent for file in fetched] == [folder / "made-up"] * 2
    assert [file.state for file in fetched] == ["there", "fetched"]


@pytest.mark.parametrize("bad_in", [0, 1])
def test_a_bad_file_that_cannot_be_replaced_hides_no_good_one(
    bad_in: int, folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [folder, folder.with_name("second")]
    weights = weight_set(hub.publish("a.onnx", DATA))
    folders[bad_in].mkdir()
    (folders[bad_in] / "a.onnx").write_bytes(b"damaged")
    monkeypatch.setenv(WEIGHTS_VARIABLE, os.pathsep.join(map(str, folders)))
    original = tempfile.TemporaryFile

    def read_only(*, dir: Path) -> Any:
        if dir == folders[bad_in]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return original(dir=dir)

    monkeypatch.setattr(fetch.tempfile, "TemporaryFile", read_only)
    if bad_in == 0:
        assert f"{folder}: It cannot be written" in fails("weights_unwritable", weights)
    else:
        assert only(fetch_set(weights)).path == folder / "a.onnx"
        assert only(fetch_set(weights)).state == "there"


def test_two_that_fetch_the_same_do_it_once(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    hub.before_answer = threading.Event()
    first, second = Memory(), Memory()
    states: list[str] = []
    threads = [
        threading.Thread(
            target=lambda memory=memory: states.append(
                only(fetch_set(weights, watcher=memory)).state
            )
        )
        for memory in (first, second)
    ]
    for thread in threads:
        thread.start()
    while not (first.waited.is_set() or second.waited.is_set()):
        assert any(thread.is_alive() for thread in threads)
        first.waited.wait(0.01)
    hub.before_answer.set()
    for thread in threads:
        thread.join(20)
    assert sorted(states) == ["fetched", "there"]
    assert len(hub.asked) == 1


# Offline.


@pytest.mark.usefixtures("no_network")
def test_offline_opens_no_connection_and_says_where_to_put_the_file(folder: Path) -> None:
    syncnet = CATALOGUE["syncnet"]
    assert fails("missing_weights", syncnet, offline=True).startswith("syncnet: It needs ")
    message = fails("missing_weights", syncnet, needed_by="sync:syncnet", offline=True)
    assert message.startswith("sync:syncnet: It needs syncnet_v2.model")
    assert "`twinreel weights fetch syncnet`" in message
    assert f"put what comes into {folder}." in message


@pytest.mark.usefixtures("no_network")
def test_offline_a_mirror_in_a_bucket_is_not_asked(folder: Path) -> None:
    mirror = Mirror("s3://nobody/weights")
    fails("missing_weights", CATALOGUE["syncnet"], offline=True, mirror=mirror)
    assert "_storage" not in vars(mirror)


@pytest.mark.usefixtures("no_network")
def test_offline_a_mirror_in_a_folder_is_read(folder: Path, tmp_path: Path) -> None:
    mirror = Mirror(str(SHARED / "weights"))
    fetched = only(fetch_set(CATALOGUE["yunet"], offline=True, mirror=mirror))
    assert (fetched.state, fetched.path) == ("fetched", folder / "yunet_n_640_640.onnx")
    fails("missing_weights", CATALOGUE["syncnet"], offline=True, mirror=mirror)


@pytest.mark.usefixtures("no_network")
def test_offline_a_bad_file_is_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "syncnet_v2.model").write_bytes(b"damaged")
    message = fails("weights_hash_mismatch", CATALOGUE["syncnet"], offline=True)
    assert str(folder / "syncnet_v2.model") in message


# Mirrors.


@pytest.fixture(params=["folder", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "mirror")
    else:
        with moto_bucket("models"):
            yield "s3://models/twinreel"


def many(hub: Publisher) -> WeightSet:
    return weight_set(
        hub.publish("config.json", some_bytes(50, 1)),
        hub.publish("model.bin", DATA, digest=""),
    )


def test_a_mirror_is_read_before_the_source(target: str, folder: Path, hub: Publisher) -> None:
    weights = many(hub)
    fetch_set(weights)
    copied = copy_to_mirror(target, weights)
    assert [(file.path, file.state) for file in copied] == [
        ("made-up/config.json", "copied"),
        ("made-up/model.bin", "copied"),
    ]
    shutil.rmtree(folder)
    hub.asked.clear()
    fetched = fetch_set(weights, mirror=Mirror(target))
    assert [file.source for file in fetched] == [file.url for file in copied]
    assert (folder / "made-up" / "model.bin").read_bytes() == DATA
    assert hub.asked == []
    # The hash that the mirror knows, and the source that the bytes once came from, are kept.
    assert read_lock(folder)["made-up/model.bin"] == LockedFile(
        sha256(DATA), len(DATA), f"{hub.url}/model.bin"
    )


def test_mirroring_twice_copies_once(target: str, folder: Path, hub: Publisher) -> None:
    weights = many(hub)
    fetch_set(weights)
    copy_to_mirror(target, weights)
    assert [file.state for file in copy_to_mirror(target, weights)] == ["there", "there"]


def test_a_mirrored_file_that_has_been_published_anew_is_copied_again(
    target: str, folder: Path, hub: Publisher
) -> None:
    for seed in (0, 1):
        data = some_bytes(1000, seed)
        weights = weight_set(hub.publish("a.onnx", data))
        fetch_set(weights)
        assert [file.state for file in copy_to_mirror(target, weights)] == ["copied"]
        assert Mirror(target).find("a.onnx") == LockedFile(
            sha256(data), 1000, weights.files[0].source
        )


def test_a_mirror_begun_by_hand_is_completed_and_wrong_bytes_are_replaced(
    tmp_path: Path, folder: Path, hub: Publisher
) -> None:
    weights = many(hub)
    fetch_set(weights)
    by_hand = tmp_path / "mirror" / "made-up"
    by_hand.mkdir(parents=True)
    (by_hand / "config.json").write_bytes(some_bytes(50, 1))
    (by_hand / "model.bin").write_bytes(some_bytes(len(DATA), 7))
    copied = copy_to_mirror(str(tmp_path / "mirror"), weights)
    assert [file.state for file in copied] == ["there", "copied"]
    assert (by_hand / "model.bin").read_bytes() == DATA


def test_a_mirror_in_a_folder_is_a_weights_folder(
    tmp_path: Path, folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = many(hub)
    fetch_set(weights)
    copy_to_mirror(str(tmp_path / "mirror"), weights)
    hub.asked.clear()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "mirror"))
    assert [file.state for file in fetch_set(weights)] == ["there", "there"]
    assert hub.asked == []


def test_what_a_mirror_lacks_comes_from_the_source(
    target: str, folder: Path, hub: Publisher
) -> None:
    there = weight_set(hub.publish("a.onnx", DATA), name="there")
    fetch_set(there)
    copy_to_mirror(target, there)
    other = weight_set(hub.publish("b.onnx", DATA), name="other")
    fetched = only(fetch_set(other, mirror=Mirror(target)))
    assert fetched.source == f"{hub.url}/b.onnx"


def test_a_mirror_with_wrong_bytes_is_refused(tmp_path: Path, folder: Path, hub: Publisher) -> None:
    weights = many(hub)
    fetch_set(weights)
    copy_to_mirror(str(tmp_path / "mirror"), weights)
    shutil.rmtree(folder)
    (tmp_path / "mirror" / "made-up" / "model.bin").write_bytes(some_bytes(len(DATA), 7))
    message = fails("weights_hash_mismatch", weights, mirror=Mirror(str(tmp_path / "mirror")))
    assert "the mirror lists" in message
    assert str(tmp_path / "mirror" / "made-up" / "model.bin") in message


def test_an_interrupted_copy_from_a_mirror_goes_on(
    target: str, folder: Path, hub: Publisher
) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    fetch_set(weights)
    copy_to_mirror(target, weights)
    (folder / "a.onnx").unlink()
    (folder / "a.onnx.part").write_bytes(DATA[:1234])
    memory = Memory()
    fetched = only(fetch_set(weights, mirror=Mirror(target), watcher=memory))
    assert fetched.path.read_bytes() == DATA
    assert [done for _, _, done, _ in memory.told] == [1234, len(DATA)]


@pytest.mark.parametrize("scheme", ["folder", "bucket"])
def test_a_mirror_that_is_not_there_is_a_typed_error(
    scheme: str, tmp_path: Path, folder: Path, hub: Publisher
) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    with moto_bucket("models"):
        url = str(tmp_path / "nowhere") if scheme == "folder" else "s3://models/nowhere"
        message = fails("no_mirror", weights, mirror=Mirror(url))
    assert message.startswith(f"{url}: There is nothing there")
    assert hub.asked == []


def test_a_mirror_without_access_is_a_typed_error(folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    with pytest.raises(UsageError, match="unknown_storage"):
        fetch_set(weights, mirror=Mirror("ftp://nowhere/weights"))
    with moto_bucket("models"), pytest.raises(StorageError):
        fetch_set(weights, mirror=Mirror("s3://no-such-bucket/weights"))
    assert hub.asked == []


def test_bad_bytes_are_not_mirrored(tmp_path: Path, folder: Path, hub: Publisher) -> None:
    weights = weight_set(hub.publish("a.onnx", DATA))
    fetch_set(weights)
    (folder / "a.onnx").write_bytes(some_bytes(len(DATA), 7))
    with pytest.raises(StorageError) as caught:
        copy_to_mirror(str(tmp_path / "mirror"), weights)
    assert caught.value.code == "weights_hash_mismatch"
    assert not (tmp_path / "mirror").exists()


def test_a_shared_folder_without_locks_is_fetched_into_all_the_same(
    folder: Path, hub: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fetch.fcntl, "flock", no_locks)
    assert only(fetch_set(weight_set(hub.publish("a.onnx", DATA)))).state == "fetched"
