"""An S3 server in this process, and the environment that leads to it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from moto.server import ThreadedMotoServer


@contextmanager
def moto_bucket(*buckets: str) -> Iterator[Any]:
    """Buckets that this process and those it starts can reach; yields a boto3 client."""
    import boto3

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    # All servers of a process share their buckets: begin without those of other tests.
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with mock.patch.dict("os.environ", environment):
            client = boto3.client("s3")
            for name in buckets:
                client.create_bucket(Bucket=name)
            yield client
    finally:
        server.stop()


def upload_folder(client: Any, folder: Path, bucket: str, prefix: str) -> None:
    """Upload the files of a folder under a prefix."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.upload_file(str(file), bucket, f"{prefix}{file.relative_to(folder).as_posix()}")
