"""From one bucket to another: a job that reads and writes an object store."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import (
    SMALL_SAMPLES,
    Finished,
    render_small,
    twinreel,
    twinreel_process,
)
from tests.support.moto_bucket import moto_bucket, upload_folder

OUT = "s3://curated/run"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Finished]]:
    """A finished job from `s3://raw` to `s3://curated/run`, and a client for both."""
    folder = tmp_path_factory.mktemp("raw")
    for seed, name in enumerate(("day 1/a.mp4", "day 1/ü.mp4", "day 2/c.mp4")):
        render_small(folder / name, seed)
    (folder / "day 2" / "broken.mp4").write_text("These are words. " * 400)
    (folder / "day 2" / "notes.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch, moto_bucket("raw", "curated") as client:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        upload_folder(client, folder, "raw", "")
        arguments = ("curate", "s3://raw", "--out", OUT, "--json", *SMALL_SAMPLES)
        yield client, twinreel_process(*arguments)


def objects(client: Any) -> dict[str, str]:
    found = client.list_objects_v2(Bucket="curated")["Contents"]
    return {entry["Key"]: entry["ETag"] for entry in found}


def test_a_bucket_becomes_a_bucket(job: tuple[Any, Finished]) -> None:
    client, finished = job
    assert finished.code == 0, finished.err
    assert "Traceback" not in finished.out + finished.err
    summary = finished.json()
    assert summary["skipped_files"] == 1
    assert [failed["uri"] for failed in summary["funnel"]["failed_files"]] == [
        "s3://raw/day 2/broken.mp4"
    ]
    assert summary["funnel"]["samples"]["samples"] == 3
    keys = objects(client)
    assert {key.split("/")[0] for key in keys} == {"run"}
    assert {"run/job.yaml", "run/report.html"} <= keys.keys()
    assert not [key for key in keys if "fragment" in key or "_lease" in key or "check" in key]


def test_the_kept_samples_can_be_read(job: tuple[Any, Finished]) -> None:
    client, _ = job
    verified = twinreel("verify", OUT, "--json")
    assert verified.code == 0, verified.err
    assert (verified.json()["samples"], verified.json()["bad"]) == (3, [])
    assert verified.json()["frames"] == 3 * 121
    shards = [key for key in objects(client) if key.endswith(".tar")]
    content = client.get_object(Bucket="curated", Key=shards[0])["Body"].read()
    with tarfile.open(fileobj=BytesIO(content)) as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        assert [Path(name).suffix for name in names] == [".mp4", ".flac", ".json", ".txt"] * 3
        described = tar.extractfile(members[2])
        assert described is not None
        assert json.load(described)["provenance"]["split"] in ("train", "held_out")


def test_tables_in_a_bucket_can_be_queried(job: tuple[Any, Finished]) -> None:
    rows = twinreel(
        "inspect", OUT, "--json", "--sql", "SELECT uri, status FROM sources ORDER BY uri"
    ).json()
    assert rows == [
        {"uri": "s3://raw/day 1/a.mp4", "status": "ok"},
        {"uri": "s3://raw/day 1/ü.mp4", "status": "ok"},
        {"uri": "s3://raw/day 2/broken.mp4", "status": "failed"},
        {"uri": "s3://raw/day 2/c.mp4", "status": "ok"},
    ]


def test_a_second_run_does_nothing(job: tuple[Any, Finished]) -> None:
    client, _ = job
    before = objects(client)
    again = twinreel("curate", "s3://raw", "--out", OUT, "--json", *SMALL_SAMPLES)
    assert again.code == 0, again.err
    assert again.json()["did_nothing"]
    assert objects(client) == before


def test_an_out_in_a_bucket_that_is_not_there(job: tuple[Any, Finished]) -> None:
    finished = twinreel("curate", "s3://raw", "--out", "s3://no-such-bucket/run", *SMALL_SAMPLES)
    assert finished.code == 1
    assert finished.message.endswith("[storage_unwritable]")
    assert "no-such-bucket" in finished.message
