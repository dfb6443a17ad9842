"""Clients of object stores: opened with the environment's credentials, and listed by boto3."""

from __future__ import annotations

import dataclasses
import datetime
import os
from typing import TYPE_CHECKING

import obstore.store

from manifests.store.address import ObjectAddress

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRIES = 4
_RETRY_TIMEOUT = datetime.timedelta(seconds=60)


@dataclasses.dataclass(frozen=True)
class ObjectInfo:
    """What a listing knows of an object; `path` is relative to the storage's root."""

    path: str
    size: int
    etag: str | None
    last_modified: datetime.datetime


def open_object_store(address: ObjectAddress) -> ObjectStore:
    """The client of a bucket or container; its paths are relative to the address.

    Raises:
        obstore.exceptions.BaseError: it cannot be opened.
    """
    # The stores' own `from_url` would parse the key as a URL: cut it at `#` and `?`, undo `%20`.
    retries: obstore.store.RetryConfig = {
        "max_retries": _RETRIES,
        "retry_timeout": _RETRY_TIMEOUT,
    }
    # Test servers and stores inside a cluster speak plain HTTP; the clouds' addresses are HTTPS.
    client: obstore.store.ClientConfig = {"allow_http": True}
    bucket, prefix = address.bucket, address.key or None
    if address.scheme == "gs":
        return obstore.store.GCSStore(
            bucket, prefix=prefix, client_options=client, retry_config=retries
        )
    if address.scheme == "az":
        return obstore.store.AzureStore(
            bucket, prefix=prefix, client_options=client, retry_config=retries
        )
    config: obstore.store.S3Config = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        config["endpoint"] = endpoint
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        config["region"] = region
    return obstore.store.S3Store(
        bucket,
        prefix=prefix,
        config=config,
        client_options=client,
        retry_config=retries,
        credential_provider=_aws_credentials(),
    )


def list_by_boto3(address: ObjectAddress, prefix: str) -> list[ObjectInfo] | None:
    """All objects of a folder, whatever their keys; None where boto3 cannot tell."""
    if address.scheme != "s3":
        return None
    try:
        import boto3  # noqa: PLC0415 - boto3 is optional
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    except ImportError:
        return None
    unsigned = Config(signature_version=UNSIGNED) if os.environ.get("AWS_SKIP_SIGNATURE") else None
    root = f"{address.key}/" if address.key else ""
    found = []
    try:
        pages = boto3.client("s3", config=unsigned).get_paginator("list_objects_v2")
        folder = f"{root}{prefix}/" if prefix else root
        for page in pages.paginate(Bucket=address.bucket, Prefix=folder):
            for entry in page.get("Contents", []):
                path = entry["Key"].removeprefix(root)
                found.append(ObjectInfo(path, entry["Size"], entry["ETag"], entry["LastModified"]))
    except (BotoCoreError, ClientError):
        return None
    return found


def _aws_credentials() -> obstore.store.S3CredentialProvider | None:
    """Credentials of `~/.aws` where boto3 is installed; None leaves it to the environment."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return None
    try:
        from obstore.auth.boto3 import (  # noqa: PLC0415 - boto3 is optional
            Boto3CredentialProvider,
        )

        return Boto3CredentialProvider()
    except (ImportError, ValueError):
        return None
