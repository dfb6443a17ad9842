"""Every odd name, key, row and claim at once beside one good file, through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from manifests.store.address import local_uri
from tests.stages.media.test_duration import damage, render
from tests.support.command_line import (
    SMALL_SAMPLES,
    Finished,
    render_small,
    twinreel,
    twinreel_process,
)
from tests.support.moto_bucket import moto_bucket

OUT = "s3://curated/50%20off/run #1?x"
LOCAL_NAMES = (
    b"\xff\xfe.wav", b"new\nline.wav", b"50%20off.wav", b"a#1.wav", "🎬.wav".encode(), b"a:b.wav",
    b"\x1b[31mred.wav", b"  leading.wav",
)  # fmt: skip
KEYS = ("a#1.wav", "a?b.wav", "50%20off.wav", "x:y/a b+c.wav", "ü🎬.wav")
REFUSED_KEYS = ("x//b.wav", "x/../c.wav", "./d.wav")
ROWS = ("http://h/a.mp4", "hdfs://n/a.mp4", "/etc/passwd", "../../x.wav", "gone.wav")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Any, Finished]]:
    """A job on a folder, a bucket and a table in it: its arguments, a client, how it ended."""
    made = tmp_path_factory.mktemp("made")
    sound = 0.1 * np.random.default_rng(0).standard_normal(8_000)
    soundfile.write(made / "sound.wav", sound, 16_000)
    content = (made / "sound.wav").read_bytes()
    damage(render(made / "wild.mkv"), 1e12)
    good = render_small(made / "good.mp4")
    folder = tmp_path_factory.mktemp("odd") / "s3:" / os.fsdecode(b"f\xe9lder")
    folder.mkdir(parents=True)
    for name in LOCAL_NAMES:
        (folder / os.fsdecode(name)).write_bytes(content)
    (made / "wild.mkv").rename(folder / "wild.mkv")
    with pytest.MonkeyPatch.context() as patch, moto_bucket("raw", "curated") as client:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        client.upload_file(str(good), "raw", "good.mp4")
        for key in (*KEYS, *REFUSED_KEYS):
            client.put_object(Bucket="raw", Key=key, Body=content)
        table = "\n".join(["uri", *ROWS, *KEYS]).encode()
        client.put_object(Bucket="raw", Key="lists #1/list.csv", Body=table)
        inputs = ["s3://raw", "s3://raw/lists #1/list.csv", local_uri(folder)]
        arguments = ["curate", *inputs, "--out", OUT, *SMALL_SAMPLES]
        # A terminal that knows no other characters than these.
        environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
        yield arguments, client, twinreel_process(*arguments, environment=environment)


@pytest.mark.soak
def test_the_good_file_is_kept_and_each_odd_one_works_or_has_its_row(
    job: tuple[list[str], Any, Finished],
) -> None:
    _, client, finished = job
    assert finished.code == 0, finished.err
    assert "Traceback" not in finished.out + finished.err
    rows = twinreel(
        "inspect", OUT, "--json", "--sql", "SELECT uri, error.code AS code, error FROM sources"
    ).json()
    assert len({row["uri"] for row in rows}) == len(rows)
    failed = {row["uri"]: row["code"] for row in rows if row["code"]}
    assert failed == {
        **{f"s3://raw/{key}": "unsupported_key" for key in REFUSED_KEYS},
        "s3://raw/lists #1/../../x.wav": "unsupported_key",
        "s3://raw/lists #1//etc/passwd": "local_file_refused",
        "http://h/a.mp4": "unknown_storage",
        "hdfs://n/a.mp4": "unknown_storage",
        "s3://raw/lists #1/gone.wav": "missing_file",
        **{f"s3://raw/lists #1/{key}": "missing_file" for key in KEYS},
    }
    assert len(rows) == len(failed) + 1 + len(KEYS) + len(LOCAL_NAMES) + 1
    kept = twinreel(
        "inspect", OUT, "--json", "--sql", "SELECT uri, sample FROM dataset WHERE state = 'keep'"
    ).json()
    assert [(row["uri"], row["sample"]["status"]) for row in kept] == [("s3://raw/good.mp4", "ok")]
    found = client.list_objects_v2(Bucket="curated")["Contents"]
    assert {entry["Key"][: len("50%20off/run #1?x/")] for entry in found} == {"50%20off/run #1?x/"}
    assert (twinreel("verify", OUT).code, "\x1b" in finished.out) == (0, False)


@pytest.mark.soak
def test_a_second_run_has_nothing_to_do_and_says_so_in_ascii(
    job: tuple[list[str], Any, Finished],
) -> None:
    arguments, _, _ = job
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    again = twinreel_process(*arguments, "--json", environment=environment)
    assert again.code == 0, again.err
    uris = [failed["uri"] for failed in json.loads(again.out)["funnel"]["failed_files"]]
    assert "s3://raw/lists #1/ü🎬.wav" in uris
    # What is missing for now is looked for again, without a new row.
    assert again.json()["did_nothing"]


def test_an_input_that_cannot_be_printed_is_refused_in_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone\n\x1bc.mp4"
    finished = twinreel("curate", gone, "--out", tmp_path / "out")
    assert finished.code == 2
    assert finished.message.endswith("[input_missing]")
    assert "\x1b" not in finished.message
    # Ray cannot take it; the address that it is told to write instead works.
    odd = tmp_path / os.fsdecode(b"gone\xff.mp4")
    finished = twinreel("curate", odd, "--out", tmp_path / "out")
    assert finished.code == 2
    assert finished.message.endswith("[argument_not_text]")
    assert f" {local_uri(odd)}," in finished.message
    finished = twinreel("curate", "gone ü//./x", "--out", tmp_path / "out")
    assert finished.message.endswith("[input_missing]")
    for out in (odd, local_uri(odd)):
        finished = twinreel(
            "curate", Path(__file__).parents[2] / "support" / "faults", "--out", out
        )
        assert finished.code == 2
        assert finished.message.endswith("[address_not_text]")
    assert list(tmp_path.iterdir()) == []
