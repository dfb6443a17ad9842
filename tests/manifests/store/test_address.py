"""What an address means, wherever one is written: paths, `file://` URIs, objects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.errors import UsageError
from manifests.store.address import ObjectAddress, key_problem, local_uri, parse_address


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a:b.mp4", Path("a:b.mp4")),
        ("s3:/a.mp4", Path("s3:/a.mp4")),
        ("/data/50%20off#1?.mp4", Path("/data/50%20off#1?.mp4")),
        ("file:///data/50%25%20off%23.mp4", Path("/data/50% off#.mp4")),
        ("file:///data/a#b?c.mp4", Path("/data/a#b?c.mp4")),
        ("file://localhost/data/%C3%BC", Path("/data/ü")),
        ("file:/data/a", Path("/data/a")),
        ("s3://b", ObjectAddress("s3", "b", "")),
        ("S3://b/k", ObjectAddress("s3", "b", "k")),
        ("gs://b/50%20off/a#1?x//y/", ObjectAddress("gs", "b", "50%20off/a#1?x//y/")),
    ],
)
def test_an_address_means_one_thing(text: str, meaning: Path | ObjectAddress) -> None:
    assert parse_address(text) == meaning


@pytest.mark.parametrize(
    "text", ["http://h/a.mp4", "hdfs://n/a", "ftp://h", "s3://", "s3:///k", "file://host/a"]
)
def test_an_address_of_no_known_kind_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert (caught.value.code, caught.value.subject) == ("unknown_storage", text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.mp4", b"caf\xe9 #1?%20.mp4", "ü🎬.mp4".encode(), b"a\nb%FF.mp4"]
)
def test_every_name_on_a_disk_has_a_text_that_leads_back_to_it(name: bytes) -> None:
    path = Path("/data", os.fsdecode(name))
    uri = local_uri(path)
    uri.encode()
    found = parse_address(uri)
    assert isinstance(found, Path)
    assert os.fsencode(found) == b"/data/" + name
    assert uri.startswith("file://") != (uri == str(path))


def test_keys_that_the_stores_client_would_change_or_refuse() -> None:
    assert all(key_problem(key) is None for key in ("a b/ü#?%20.mp4", "...", "a..b/.c", "~", "🎬"))
    bad = ("a//b", "/a", "a/", "", "a/../b", "./a", "..", "a\nb", "a\x7fb", "a\udcffb")
    assert all(key_problem(key) for key in bad)
