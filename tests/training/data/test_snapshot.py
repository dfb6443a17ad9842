"""The snapshot: the same samples, whether held in memory or mapped from a file."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import duckdb
import pytest

from manifests.errors import StorageError, UsageError
from training.data.sample_table import ORDER_KEY, SampleTable, most_common_size
from training.data.samples import KeptSample
from training.data.snapshot import Snapshot, check_shards, open_snapshot, take_snapshot


def sample(index: int, **changes: object) -> KeptSample:
    name = f"s{index:04d}"
    whole = KeptSample(
        name, f"c{index}", f"shards/{index % 3}.tar", 100 * index, 100, "ab" * 32, 9, 24.0, 16, 8,
        16_000, 6_000, "train" if index % 4 else "held_out", f"Größe {index}",
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def tables(samples: list[KeptSample]) -> duckdb.DuckDBPyConnection:
    """The columns of `dataset` that a snapshot reads."""
    connection = duckdb.connect()
    rows = SampleTable.of(samples).table.drop_columns([ORDER_KEY])  # noqa: F841 - DuckDB reads it
    connection.execute(
        """CREATE TABLE dataset AS
        SELECT clip_id, split, 'keep' AS state, {text: caption} AS caption,
        {sample_id: sample_id, shard: shard, offset_bytes: offset_bytes, bytes: bytes,
         sha256: sha256, frames: frames, fps: fps, width: width, height: height,
         audio_rate_hz: audio_rate_hz, audio_samples: audio_samples, status: 'ok'} AS sample
        FROM rows"""
    )
    return connection


def take(samples: list[KeptSample], out: str = "/out", file: Path | None = None) -> Snapshot:
    with tables(samples) as connection:
        return take_snapshot(connection, out, file=file)


def test_a_mapped_snapshot_has_the_samples_of_one_in_memory(tmp_path: Path) -> None:
    samples = [sample(index) for index in range(50)] + [
        sample(50, audio_rate_hz=None, audio_samples=None, caption=None)
    ]
    held, mapped = take(samples[::-1]), take(samples[::-1], file=tmp_path / "dataset.arrow")
    assert list(held.train) == [one for one in samples if one.split == "train"]
    assert list(held.held_out) == [one for one in samples if one.split == "held_out"]
    mapped = dataclasses.replace(
        mapped, train=mapped.train.by_id(), held_out=mapped.held_out.by_id()
    )
    assert (held.train, held.held_out, held.fingerprint()) == (
        mapped.train,
        mapped.held_out,
        mapped.fingerprint(),
    )
    assert mapped.train[-1].audio_samples is None and mapped.train[-1].caption is None
    assert mapped.train.numbers("audio_samples").tolist()[-2:] == [6_000, 0]
    # What DuckDB hashes is what Python hashes: a table of samples at hand has the same order.
    assert mapped.train == SampleTable.of(list(mapped.train))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.arrow"]


def test_other_processes_are_sent_a_mapped_file_by_name(tmp_path: Path) -> None:
    samples = [sample(index) for index in range(2_000)]
    mapped, held = take(samples, file=tmp_path / "dataset.arrow"), take(samples)
    assert len(pickle.dumps(mapped)) < 1_000 < len(pickle.dumps(held))
    for snapshot in (pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(held))):
        assert (snapshot.out, snapshot.train.by_id()) == ("/out", mapped.train.by_id())
        assert snapshot.fingerprint() == mapped.fingerprint()
    assert open_snapshot(tmp_path / "dataset.arrow").held_out == mapped.held_out
    sent = pickle.dumps(mapped)
    (tmp_path / "dataset.arrow").unlink()
    with pytest.raises(StorageError) as caught:
        pickle.loads(sent)
    assert caught.value.code == "run_not_shared"


@pytest.mark.parametrize(
    "changes", [{"caption": ""}, {"caption": None}, {"split": "held_out"}, {"sha256": "cd" * 32}]
)
def test_a_fingerprint_is_of_samples_words_and_splits_wherever_they_lie(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [sample(index) for index in range(1, 4_000)]
    whole = take(samples)
    monkeypatch.setattr("training.data.snapshot._ROWS_AT_ONCE", 1_000)
    assert take(samples, out="s3://elsewhere/out").fingerprint() == whole.fingerprint()
    others = [dataclasses.replace(samples[0], **changes), *samples[1:]]  # type: ignore[arg-type]
    assert take(others).fingerprint() != whole.fingerprint()
    assert take(samples[1:]).fingerprint() != whole.fingerprint()


def test_words_that_move_from_one_sample_to_the_next_are_other_words() -> None:
    one = [sample(1, caption="ab"), sample(2, caption="c")]
    other = [sample(1, caption="a"), sample(2, caption="bc")]
    assert take(one).fingerprint() != take(other).fingerprint()


def test_shards_that_are_missing_or_too_short_are_named(tmp_path: Path) -> None:
    snapshot = take([sample(index) for index in range(1, 6)], out=str(tmp_path))
    (tmp_path / "shards").mkdir()
    for name, size in (("0", 400), ("1", 500), ("2", 600)):
        (tmp_path / "shards" / f"{name}.tar").write_bytes(bytes(size))
    check_shards(snapshot)
    (tmp_path / "shards" / "2.tar").write_bytes(bytes(599))
    with pytest.raises(StorageError) as caught:
        check_shards(snapshot)
    assert caught.value.code == "shard_truncated" and "2.tar" in caught.value.subject
    (tmp_path / "shards" / "2.tar").unlink()
    with pytest.raises(StorageError) as caught:
        check_shards(snapshot)
    assert caught.value.code == "shard_missing" and "2.tar" in caught.value.subject


def test_nothing_to_train_on_says_what_is_held_out() -> None:
    with pytest.raises(UsageError, match="1 are held out") as caught:
        take([sample(0)])
    assert caught.value.code == "empty_selection"


def test_the_most_common_size_counts_samples_with_frames() -> None:
    wide, tall = sample(1), sample(2, width=8, height=16)
    soundless = [sample(index, frames=0, width=0, height=0) for index in range(3, 9)]
    assert most_common_size(SampleTable.of([tall, wide, tall, *soundless])) == (8, 16)
    assert most_common_size(SampleTable.of(soundless)) is None
