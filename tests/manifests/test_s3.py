from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from manifests.errors import StorageError
from manifests.lease import Lease
from manifests.storage import open_storage
from tests.manifests.made_up import clip, look, motion, open_out, rows


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="made-up")
    yield "s3://made-up/out"
    server.stop()


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
