from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from manifests.errors import StorageError
from manifests.store.lease import Lease
from manifests.store.storage import open_storage
from tests.support.made_up_tables import clip, look, motion, open_out, rows
from tests.support.moto_bucket import moto_bucket


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with moto_bucket("made-up"):
        yield "s3://made-up/out"


def test_an_object_store_holds_objects_tables_and_a_lease(bucket: str) -> None:
    storage = open_storage(bucket)
    storage.check_writable()
    assert storage.create("once", b"1")
    assert not storage.create("once", b"2")
    assert storage.read("once") == b"1"
    assert storage.local_path("once") is None
    assert storage.url("once") == f"{bucket}/once"
    assert storage.head("once").size == 1
    with storage.reader("once") as reader:
        assert reader.read() == b"1"

    with Lease(storage) as lease:
        store = open_out(bucket)
        lease.check()
        store.commit({"clips": [clip("a", motion=motion(0.1))]})
        store.commit({"clips": [clip("b", motion=motion(0.2))]})
    with look(store) as connection:
        found = rows(connection, "SELECT clip_id, motion.static_share FROM dataset ORDER BY ALL")
    assert found == [("a", 0.1), ("b", 0.2)]
    store.compact()
    with look(open_out(bucket)) as connection:
        assert rows(connection, "SELECT count(*) FROM dataset") == [(2,)]


def test_a_missing_bucket_is_a_storage_error(bucket: str) -> None:
    with pytest.raises(StorageError) as error:
        open_storage("s3://no-such-bucket/out").check_writable()
    assert error.value.code == "storage_unwritable"


ODD = ("50%20off", "a#b", "a?b", "a b", "ü", "a+b", "a&b=c", "x:y", "a\\b", "[a]*", "~", "a%2Fb")


@pytest.mark.parametrize("name", ODD)
def test_a_key_is_taken_as_it_is_written(bucket: str, name: str) -> None:
    storage = open_storage(f"{bucket}/{name}")
    storage.write(name, b"1")
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket="made-up").get("Contents", [])
    assert [entry["Key"] for entry in listed] == [f"out/{name}/{name}"]
    assert storage.url(name) == f"{bucket}/{name}/{name}"
    assert [entry.path for entry in storage.list()] == [name]
    assert [entry.path for entry in open_storage(bucket).list(name)] == [f"{name}/{name}"]
    assert storage.read(name) == b"1"
    assert storage.head(name).path == name
    storage.delete(name)


@pytest.mark.parametrize("key", ["a//b", "a/../b", "./a", "/a", "a/", "a\nb"])
def test_a_key_that_cannot_be_addressed_is_not_another_one(bucket: str, key: str) -> None:
    storage = open_storage(bucket)
    for name in ("a", "b", "a/b"):
        storage.write(name, b"another")
    for call in (storage.read, storage.head, storage.delete, storage.exists):
        with pytest.raises(StorageError) as error:
            call(key)
        assert error.value.code == "unsupported_key"
        assert not error.value.retryable
    with pytest.raises(StorageError) as error:
        open_storage(f"{bucket}/a//b")
    assert error.value.code == "unsupported_key"


def test_a_listing_goes_on_around_keys_that_cannot_be_addressed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3")
    for key in ("a", "b//c", "b/d", "e/./f", "g/h", "i//"):
        client.put_object(Bucket="made-up", Key=f"out/{key}", Body=b"" if key == "i//" else b"1")
    storage = open_storage(bucket)
    with pytest.raises(StorageError) as error:
        list(storage.list())
    assert error.value.code == "unsupported_key"
    refused: list[str] = []
    found = [entry.path for entry in storage.list(on_unsupported=refused.append)]
    assert (found, refused) == (["a", "b/d", "g/h"], ["b//c", "e/./f"])
    assert [entry.path for entry in storage.list("b", on_unsupported=refused.append)] == ["b/d"]

    # Without boto3 whole folders are lost, and named.
    monkeypatch.setitem(sys.modules, "boto3", None)
    refused.clear()
    found = [entry.path for entry in storage.list(on_unsupported=refused.append)]
    assert (found, refused) == (["a", "g/h"], ["b/", "e/", "i/"])
