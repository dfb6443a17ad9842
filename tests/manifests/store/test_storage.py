from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import StorageError, UsageError
from manifests.store.storage import open_storage


def test_a_missing_folder_is_made_by_the_first_write_only(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    assert not storage.exists("a")
    assert list(storage.list()) == []
    assert not (tmp_path / "out").exists()
    storage.write("folder/a", b"1")
    assert storage.read("folder/a") == b"1"
    assert storage.local_path("folder/a") == tmp_path / "out" / "folder" / "a"


def test_an_object_is_created_once(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert storage.create("a", b"first")
    assert not storage.create("a", b"second")
    assert storage.read("a") == b"first"


def test_odd_names_survive(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    names = ["a b%20#é[1]*.txt", "100%", "x:y", "back\\slash"]
    for name in names:
        storage.write(name, name.encode())
    assert [entry.path for entry in storage.list()] == sorted(names)
    assert all(storage.read(name) == name.encode() for name in names)


def test_a_prefix_is_a_folder_or_an_object(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    for name in ("videos/a.mp4", "videos/b.mp4", "videos2/c.mp4"):
        storage.write(name, b"x")
    assert [entry.path for entry in storage.list("videos")] == ["videos/a.mp4", "videos/b.mp4"]
    assert [entry.path for entry in storage.list("videos/a.mp4")] == ["videos/a.mp4"]
    assert list(storage.list("nothing")) == []


def test_a_reader_seeks_and_a_file_is_uploaded(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    (tmp_path / "file").write_bytes(bytes(range(200)))
    storage.put_file("copy", tmp_path / "file")
    with storage.reader("copy", buffer_bytes=16) as reader:
        reader.seek(100)
        assert reader.read(20) == bytes(range(100, 120))
        reader.seek(-1, 2)
        assert reader.read() == bytes([199])


def test_errors_have_codes_and_name_the_file(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with pytest.raises(StorageError) as missing:
        storage.read("nothing")
    assert missing.value.code == "storage_missing"
    assert str(tmp_path) in str(missing.value)
    storage.delete("nothing")
    with pytest.raises(UsageError) as unknown:
        open_storage("ftp://host/x")
    assert unknown.value.code == "unknown_storage"


def test_an_unwritable_place_is_noticed_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError) as error:
        open_storage(str(tmp_path / "file" / "out")).check_writable()
    assert error.value.code == "storage_unwritable"
    assert error.value.remedy
    storage = open_storage(str(tmp_path / "out"))
    storage.check_writable()
    assert list(storage.list()) == []
