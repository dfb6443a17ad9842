"""Finding raw files: folders, globs, files, tables with spans, prefixes; in a stable order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.config import InputSettings
from curation.inputs import InputFile, Listing, list_inputs
from manifests.errors import StorageError, UsageError
from manifests.store.address import parse_address
from manifests.store.object_stores import ObjectInfo
from manifests.store.records import Span
from manifests.store.storage import Storage, open_storage
from tests.support.moto_bucket import moto_bucket

SKIPPED = InputSettings().skip_suffixes


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two clips, one of them deeper, among sidecars and hidden files."""
    folder = tmp_path / "raw"
    for name in (
        "b.mp4", "a/deep/c.MKV", "b.json", "a/notes.TXT", "a/deep/list.csv",
        ".hidden.mp4", ".cache/d.mp4",
    ):  # fmt: skip
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return folder


def listed(*inputs: object) -> Listing:
    return list_inputs([str(text) for text in inputs], SKIPPED)


def by_name(listing: Listing) -> dict[str, InputFile]:
    return {Path(file.uri).name: file for file in listing.files}


def refused(*inputs: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        listed(*inputs)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_folder_is_sorted_and_its_sidecars_counted(raw: Path) -> None:
    listing = listed(raw)
    assert [file.uri for file in listing.files] == [f"{raw}/a/deep/c.MKV", f"{raw}/b.mp4"]
    assert listing.skipped == 3
    assert listing.files[1].bytes == len(b"b.mp4")


def test_a_files_identity_follows_its_bytes_and_not_the_listing(raw: Path) -> None:
    first = by_name(listed(raw))
    assert by_name(listed(raw / "*.mp4", raw)) == first
    assert by_name(listed(f"file://{raw}")) == first
    (raw / "b.mp4").write_bytes(b"another")
    second = by_name(listed(raw))
    assert second["b.mp4"].source_id != first["b.mp4"].source_id
    assert second["c.MKV"].source_id == first["c.MKV"].source_id


def test_a_glob_lists_what_it_matches(raw: Path) -> None:
    assert by_name(listed(raw / "*.mp4")).keys() == {"b.mp4"}
    everything = listed(raw / "**" / "*")
    assert by_name(everything).keys() == {"b.mp4", "c.MKV"}
    assert everything.skipped == 3


def test_a_file_with_glob_characters_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "take [1]?.mp4"
    file.write_bytes(b"x")
    assert [found.uri for found in listed(file).files] == [str(file)]
    assert [found.uri for found in listed(tmp_path).files] == [str(file)]


def test_a_file_that_is_named_is_not_asked_for_its_suffix(raw: Path) -> None:
    listing = listed(raw / "b.json")
    assert [file.uri for file in listing.files] == [f"{raw}/b.json"]
    assert listing.skipped == 0


def test_one_file_by_two_ways_is_one_source(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw)
    listing = listed("b.mp4", "./b.mp4", raw / "a" / ".." / "b.mp4", "a/../b.mp4")
    assert [file.uri for file in listing.files] == [str(raw / "b.mp4")]


def test_a_text_table_names_files_relative_to_itself(
    raw: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (raw / "list.txt").write_text(f"# chosen\nb.mp4\n\n  a/deep/c.MKV  \n{raw}/b.mp4\n")
    listing = listed(raw / "list.txt")
    assert [file.uri for file in listing.files] == [f"{raw}/a/deep/c.MKV", f"{raw}/b.mp4"]
    assert all(file.bytes > 0 for file in listing.files)
    monkeypatch.chdir(raw)
    assert listed("list.txt") == listing
    monkeypatch.chdir(tmp_path)
    assert listed("raw/list.txt") == listing


def test_a_csv_table_carries_its_other_columns(raw: Path) -> None:
    (raw / "list.csv").write_text(
        "licence,uri,start_s,end_s,number\n"
        "CC-BY-4.0,b.mp4,2.5,10,007\n"
        ",b.mp4,8,12.5,007\n"
        ",b.mp4,20,,007\n"
        "CC0,a/deep/c.MKV,,,\n"
    )
    files = by_name(listed(raw / "list.csv"))
    assert files["b.mp4"].spans == (Span(2.5, 12.5), Span(20.0, float("inf")))
    assert files["b.mp4"].carried["licence"] == "CC-BY-4.0"
    assert files["b.mp4"].carried["number"] == "007"
    assert files["c.MKV"].spans == ()
    assert files["c.MKV"].carried == {"licence": "CC0"}


def test_a_parquet_table_with_spans(raw: Path) -> None:
    table = pa.table(
        {
            "uri": ["b.mp4", "b.mp4", None],
            "start_s": [5, 0, 1],
            "end_s": [6.0, 5.0, 2.0],
            "licence": ["CC0", None, "CC-BY"],
        }
    )
    pq.write_table(table, raw / "list.parquet")
    files = listed(raw / "list.parquet").files
    assert [file.spans for file in files] == [(Span(0.0, 6.0),)]
    assert files[0].carried == {"licence": "CC0"}


def test_a_row_without_a_span_takes_the_whole_file(raw: Path) -> None:
    (raw / "list.csv").write_text("uri,start_s,end_s\nb.mp4,1,2\nb.mp4,,\nb.mp4,5,6\n")
    assert listed(raw / "list.csv").files[0].spans == ()


def test_spans_make_another_source_in_any_order(raw: Path) -> None:
    whole = listed(raw / "b.mp4").files[0]
    ids = []
    for rows in ("b.mp4,1,2\nb.mp4,5,6", "b.mp4,5,6\nb.mp4,1,2"):
        (raw / "list.csv").write_text(f"uri,start_s,end_s\n{rows}\n")
        ids.append(listed(raw / "list.csv").files[0].source_id)
    assert ids[0] == ids[1] != whole.source_id


def test_a_missing_row_stays_a_row(raw: Path) -> None:
    (raw / "list.txt").write_text("gone.mp4\nb.mp4\n")
    files = by_name(listed(raw / "list.txt"))
    assert (files["gone.mp4"].bytes, files["b.mp4"].bytes) == (-1, 5)
    assert files["gone.mp4"].uri == f"{raw}/gone.mp4"


def test_a_dangling_link_stays_a_row(raw: Path) -> None:
    (raw / "link.mp4").symlink_to(raw / "nowhere.mp4")
    assert by_name(listed(raw))["link.mp4"].bytes == -1


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("l.csv", b"path,start_s\nb.mp4,1\n", "no column 'uri'"),
        ("l.csv", b"path\n", "no column 'uri'"),
        ("l.csv", b"", "cannot be read"),
        ("l.csv", b"uri\n\x00\x01\n", "cannot be read"),
        ("l.parquet", b"not parquet at all", "cannot be read"),
        ("l.txt", b"\xff\xfe\x00b", "cannot be read"),
    ],
)
def test_bad_tables_are_named(raw: Path, name: str, content: bytes, part: str) -> None:
    (raw / name).write_bytes(content)
    error = refused(raw / name)
    assert error.code == "input_table_unreadable"
    assert str(raw / name) in str(error)
    assert part in str(error)


@pytest.mark.parametrize(
    ("start", "end", "part"),
    [
        ("5", "5", "must not be empty"),
        ("5", "3", "must not be empty"),
        ("-1", "5", "must not be empty"),
        ("nan", "5", "must not be empty"),
        ("soon", "5", "must be numbers"),
        ("1", "\udce9", "must be numbers"),
    ],
)
def test_a_row_whose_span_is_none_costs_itself(raw: Path, start: str, end: str, part: str) -> None:
    rows = f"uri,start_s,end_s,licence\nb.mp4,1,2,CC0\nb.mp4,{start},{end},CC-BY\nb.mp4,3,4,CC0\n"
    (raw / "l.csv").write_bytes(os.fsencode(rows))
    good, bad = listed(raw / "l.csv").files
    assert (good.uri, good.error) == (f"{raw}/b.mp4", None)
    assert good.spans == (Span(1.0, 2.0), Span(3.0, 4.0))
    assert bad.uri.startswith(f"{raw}/b.mp4#t=")
    bad.uri.encode()
    assert bad.error is not None
    assert (bad.error.code, bad.error.retryable) == ("bad_span", False)
    assert part in bad.error.message
    assert bad.carried == {"licence": "CC-BY"}


@pytest.mark.parametrize("line", ["b.mp4", "b.mp4,CC0,more", '"b.mp4,CC0', '"b.mp4"x,CC0'])
def test_a_line_that_is_no_row_costs_itself(raw: Path, line: str) -> None:
    (raw / "l.csv").write_text(f"uri,licence\n{line}\na/deep/c.MKV,CC-BY\n")
    good, bad = listed(raw / "l.csv").files
    assert (good.uri, good.error) == (f"{raw}/a/deep/c.MKV", None)
    assert good.carried == {"licence": "CC-BY"}
    assert bad.uri == f"{raw}/l.csv#row=2"
    assert bad.error is not None
    assert (bad.error.code, bad.error.retryable) == ("bad_row", False)


@pytest.mark.parametrize("name", ["l.txt", "l.csv"])
def test_names_in_a_table_may_be_other_than_utf8(raw: Path, name: str) -> None:
    (raw / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"12345")
    (raw / name).write_bytes(b"\xef\xbb\xbfuri\nb.mp4\ncaf\xe9.mp4\n\xe9.mp4\ns3://b/\xe9.mp4\n")
    if name.endswith(".txt"):
        (raw / name).write_bytes((raw / name).read_bytes().replace(b"uri\n", b""))
    assert codes(listed(raw / name)) == {
        f"{raw}/b.mp4": None,
        f"file://{raw}/caf%E9.mp4": None,
        f"file://{raw}/%E9.mp4": ("missing_file", True),
        "s3://b/\\xe9.mp4": ("unsupported_key", False),
    }


def test_values_that_are_no_utf8_are_carried_with_escapes(raw: Path) -> None:
    (raw / "l.csv").write_bytes(b"uri,artist\nb.mp4,Beyonc\xe9\n")
    assert listed(raw / "l.csv").files[0].carried == {"artist": "Beyonc\\xe9"}


def test_a_folder_that_cannot_be_listed_costs_itself(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("/deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert codes(listed(raw)) == {
        f"{raw}/b.mp4": None,
        f"{raw}/a/deep": ("unreadable_folder", False),
    }
    assert refused(raw / "a" / "deep").code == "input_unreadable"


@pytest.mark.parametrize("key", ["/v", "v//", "//", "/"])
def test_slashes_of_a_prefix_are_part_of_it(key: str) -> None:
    with moto_bucket("raw") as client:
        client.put_object(Bucket="raw", Key="v/b.mp4", Body=b"1")
        assert refused(f"s3://raw/{key}").code == "unsupported_key"
        with pytest.raises(StorageError, match="unsupported_key"):
            open_storage(f"s3://raw/{key}")


def test_a_long_table_of_objects_opens_its_bucket_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counting(url: str) -> Storage:
        opened.append(url)
        return open_storage(url)

    with moto_bucket("raw") as client:
        names = [f"{number:03d}.mp4" for number in range(40)]
        for name in names:
            client.put_object(Bucket="raw", Key=name, Body=name.encode())
        rows = "\n".join(names)
        client.put_object(Bucket="raw", Key="l.txt", Body=rows.encode())
        monkeypatch.setattr("curation.inputs.table.open_storage", counting)
        files = listed("s3://raw/l.txt").files
    assert [file.uri for file in files] == [f"s3://raw/{name}" for name in names]
    assert all(file.bytes == 7 for file in files)
    assert len(opened) <= 2


@pytest.mark.parametrize("content", ["# nothing\n", "\n"])
def test_an_empty_table_is_no_input(raw: Path, content: str) -> None:
    (raw / "l.txt").write_text(content)
    assert refused(raw / "l.txt").code == "input_empty"


def test_what_is_not_there_or_empty_is_named(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    only_sidecars = tmp_path / "sidecars"
    only_sidecars.mkdir()
    (only_sidecars / "a.json").write_text("{}")
    (only_sidecars / ".b.mp4").write_text("{}")
    for given, code in (
        (tmp_path / "gone", "input_missing"),
        (raw / "gone.csv", "input_missing"),
        (tmp_path / "empty", "input_empty"),
        (raw / "*.webm", "input_empty"),
        (only_sidecars, "input_empty"),
        ("ftp://host", "unknown_storage"),
    ):
        error = refused(raw, given) if given != only_sidecars else refused(given)
        assert (error.code, error.subject) == (code, str(given))
    assert "1 files could be media" in refused(only_sidecars).message
    assert len(list_inputs([str(only_sidecars)], []).files) == 1


def test_a_prefix_lists_like_a_folder(raw: Path) -> None:
    with moto_bucket("raw") as client:
        names = ("v/b.mp4", "v/a/c.MKV", "v/b.json", "v/.hidden.mp4", "v/a/", "w/d.mp4", "v b.mp4")
        for name in names:
            content = b"" if name.endswith("/") else name.encode()
            client.put_object(Bucket="raw", Key=name, Body=content)
        listing = listed("s3://raw/v")
        assert [file.uri for file in listing.files] == ["s3://raw/v/a/c.MKV", "s3://raw/v/b.mp4"]
        assert listing.skipped == 1
        assert listing.files[1].bytes == len(b"v/b.mp4")
        assert listed("s3://raw/v/") == listing
        assert len(listed("s3://raw").files) == 4
        assert [file.uri for file in listed("s3://raw/v b.mp4").files] == ["s3://raw/v b.mp4"]

        table = "uri,licence\ns3://raw/w/d.mp4,CC0\nb.mp4,CC-BY\ns3://raw/gone.mp4,CC0\n"
        client.put_object(Bucket="raw", Key="v/list.csv", Body=table.encode())
        found = listed("s3://raw/v/list.csv").files
        assert [(file.uri, file.bytes, file.carried["licence"]) for file in found] == [
            ("s3://raw/gone.mp4", -1, "CC0"),
            ("s3://raw/v/b.mp4", len(b"v/b.mp4"), "CC-BY"),
            ("s3://raw/w/d.mp4", len(b"w/d.mp4"), "CC0"),
        ]
        assert found[2].source_id == listed("s3://raw/w").files[0].source_id
        assert refused("s3://raw/nothing").code == "input_empty"
        with pytest.raises((UsageError, StorageError)) as caught:
            listed("s3://no-such-bucket/a")
        assert "no-such-bucket" in str(caught.value)


# --- names and addresses


ODD_NAMES = (
    b"\xff\xfe.mp4", b"caf\xe9.mp4", b"new\nline.mp4", b"50%20off.mp4", b"a#1.mp4", b"a?b.mp4",
    "🎬.mp4".encode(), b"x" * 251 + b".mp4", b"  leading.mp4", b"a:b.mp4", b"http:.mp4",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_has_one_printable_address_whatever_its_name(
    tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    [file] = listed(tmp_path).files
    file.uri.encode()
    assert file.error is None
    meaning = parse_address(file.uri)
    assert isinstance(meaning, Path)
    assert meaning.read_bytes() == b"12345"
    assert listed(path.name).files == [file]
    assert listed(file.uri).files == [file]
    assert listed(f"file://{quote_from_bytes(os.fsencode(path))}").files == [file]
    pq.write_table(pa.table({"uri": [file.uri]}), tmp_path / ".list.parquet")
    assert listed(tmp_path / ".list.parquet").files == [file]


def test_a_folder_called_like_a_bucket_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3:" / "b").mkdir(parents=True)
    (tmp_path / "s3:" / "b" / "a.mp4").write_bytes(b"1")
    (tmp_path / "s3:" / "list.csv").write_text("uri\nb/a.mp4\n")
    monkeypatch.chdir(tmp_path)
    uri = f"{tmp_path}/s3:/b/a.mp4"
    for given in ("s3:", "s3:/b", "./s3:/b/a.mp4", "s3:/list.csv", tmp_path):
        assert [file.uri for file in listed(given).files] == [uri]


def test_a_name_that_no_disk_can_have_is_an_input_that_is_not_there() -> None:
    for name in ("x" * 5000, "a\0b.mp4"):
        assert refused(name).code == "input_missing"


def codes(listing: Listing) -> dict[str, tuple[str, bool] | None]:
    return {
        file.uri: (file.error.code, file.error.retryable) if file.error else None
        for file in listing.files
    }


def test_a_row_that_cannot_be_had_costs_itself(raw: Path) -> None:
    names = ["http://h/a.mp4", "ftp://h/a", "hdfs://n/a", "s3://", "file://h/a", "x" * 300, "a\0b"]
    names += ["gone.mp4", "b.mp4/c.mp4", "b.mp4"]
    pq.write_table(pa.table({"uri": names}), raw / "list.parquet")
    listing = listed(raw / "list.parquet")
    assert codes(listing) == {
        "http://h/a.mp4": ("unknown_storage", False),
        "ftp://h/a": ("unknown_storage", False),
        "hdfs://n/a": ("unknown_storage", False),
        "s3://": ("unknown_storage", False),
        "file://h/a": ("unknown_storage", False),
        f"{raw}/{'x' * 300}": ("unreadable_file", False),
        f"{raw}/a\0b": ("unreadable_file", False),
        f"{raw}/gone.mp4": ("missing_file", True),
        f"{raw}/b.mp4/c.mp4": ("missing_file", True),
        f"{raw}/b.mp4": None,
    }


def test_a_line_of_a_text_table_ends_at_its_end(raw: Path) -> None:
    (raw / "a\u2028b\x85c.mp4").write_bytes(b"1")
    (raw / "list.txt").write_text("a\u2028b\x85c.mp4\r\nb.mp4\r\n")
    assert by_name(listed(raw / "list.txt")).keys() == {"a\u2028b\x85c.mp4", "b.mp4"}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_file_that_fails_once_among_two_namings_is_there(
    raw: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = listed(raw / "b.mp4").files[0]
    stat, calls = Path.stat, []

    def flaky(path: Path, **options: bool) -> os.stat_result:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", flaky)
    [file] = listed(raw / "b.mp4", raw / "b.mp4").files
    assert (file, file.error) == (whole, None)


def test_keys_are_taken_as_they_are_written() -> None:
    with moto_bucket("raw") as client:
        keys = ("50%20off/a#1.mp4", "50%20off/a?b.mp4", "50 off/c.mp4", "50%20off/a+b&c.mp4")
        for key in keys:
            client.put_object(Bucket="raw", Key=key, Body=key.encode())
        uris = sorted(f"s3://raw/{key}" for key in keys if "%" in key)
        assert [file.uri for file in listed("s3://raw/50%20off/").files] == uris
        for uri in uris:
            assert [file.uri for file in listed(uri).files] == [uri]
        rows = "".join(f"{uri}\n" for uri in uris) + "a#1.mp4\n./a?b.mp4\n"
        client.put_object(Bucket="raw", Key="50%20off/list #1.txt", Body=rows.encode())
        table = listed("s3://raw/50%20off/list #1.txt").files
        assert [(file.uri, file.error) for file in table] == [(uri, None) for uri in uris]
        assert table == listed("s3://raw/50%20off/").files[: len(table)]


def test_objects_that_cannot_be_addressed_cost_a_row_each() -> None:
    with moto_bucket("raw") as client:
        odd = ("v//b.mp4", "v/../c.mp4", "./d.mp4", "v//notes.json", "v//.hidden.mp4")
        for key in ("v/good.mp4", "good.mp4", *odd):
            client.put_object(Bucket="raw", Key=key, Body=b"1")
        listing = listed("s3://raw")
        refusal = ("unsupported_key", False)
        assert codes(listing) == {
            "s3://raw/good.mp4": None,
            "s3://raw/v/good.mp4": None,
            "s3://raw/v//b.mp4": refusal,
            "s3://raw/v/../c.mp4": refusal,
            "s3://raw/./d.mp4": refusal,
        }
        assert listing.skipped == 1
        rows = "".join(f"s3://raw/{key}\n" for key in (*odd, "v/good.mp4", "v/", "/good.mp4"))
        client.put_object(Bucket="raw", Key="list.txt", Body=rows.encode())
        found = codes(listed("s3://raw/list.txt"))
        assert found.pop("s3://raw/v/good.mp4") is None
        assert len(found) == len(odd) + 2
        assert set(found.values()) == {refusal}


def test_a_table_in_a_bucket_names_objects_only(raw: Path) -> None:
    rows = ["/etc/passwd", "file:///etc/passwd", "file:/etc/passwd", f"{raw}/b.mp4", "../../x"]
    rows += ["b.mp4", "s3://raw/v/b.mp4", "s3://other/c.mp4", "http://h/a.mp4", "a:b.mp4", "~/a"]
    with moto_bucket("raw", "other") as client:
        for bucket, key in (("raw", "v/b.mp4"), ("other", "c.mp4"), ("raw", "v/a:b.mp4")):
            client.put_object(Bucket=bucket, Key=key, Body=b"1")
        client.put_object(Bucket="raw", Key="v/list.txt", Body="\n".join(rows).encode())
        listing = listed("s3://raw/v/list.txt", raw / "b.mp4")
        refusal = ("local_file_refused", False)
        assert codes(listing) == {
            "s3://raw/v//etc/passwd": refusal,
            "s3://raw/v/file:///etc/passwd": refusal,
            "s3://raw/v/file:/etc/passwd": refusal,
            f"s3://raw/v/{raw}/b.mp4": refusal,
            "s3://raw/v/../../x": ("unsupported_key", False),
            "s3://raw/v/b.mp4": None,
            "s3://other/c.mp4": None,
            "http://h/a.mp4": ("unknown_storage", False),
            "s3://raw/v/a:b.mp4": None,
            "s3://raw/v/~/a": ("missing_file", True),
            f"{raw}/b.mp4": None,
        }
        told = next(file.error for file in listing.files if file.uri.endswith("//etc/passwd"))
        assert told is not None
        assert "'/etc/passwd'" in told.message or "'file:///etc/passwd'" in told.message

        (raw / "mixed.txt").write_text("b.mp4\ns3://raw/v/b.mp4\n")
        assert set(codes(listed(raw / "mixed.txt")).values()) == {None}


def test_a_request_that_fails_is_no_verdict_on_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_bucket("raw") as client:
        for key in ("a.mp4", "b.mp4", "empty.mp4"):
            client.put_object(Bucket="raw", Key=key, Body=b"" if key == "empty.mp4" else b"1")
        client.put_object(Bucket="raw", Key="list.txt", Body=b"a.mp4\nb.mp4\n")
        monkeypatch.setattr(Storage, "head", failing_for("a.mp4", "storage_failed"))
        assert codes(listed("s3://raw/list.txt")) == {
            "s3://raw/a.mp4": ("storage_failed", True),
            "s3://raw/b.mp4": None,
        }
        monkeypatch.setattr(Storage, "head", failing_for("empty.mp4", "storage_denied"))
        assert "s3://raw/empty.mp4" in codes(listed("s3://raw"))


def failing_for(path: str, code: str) -> Callable[[Storage, str], ObjectInfo]:
    """`Storage.head` that fails for one object."""
    head = Storage.head

    def failing(storage: Storage, asked: str) -> ObjectInfo:
        if asked == path:
            raise StorageError(code, "Not now.", remedy="Wait.", retryable=True)
        return head(storage, asked)

    return failing
