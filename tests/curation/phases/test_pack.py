"""Packing when something is away for now: nothing is lost, and shards come out as undisturbed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curation.job import open_store
from manifests.errors import MediaError, StorageError
from stages.packing.write import write_shard
from tests.support.command_line import SMALL_SAMPLES, Finished, render_small, twinreel
from tests.support.in_process import Fault, InProcessEngine, engine, jobs_by, no_report

__all__ = ["engine", "no_report"]

pytestmark = pytest.mark.usefixtures("no_report")

SETTINGS = (*SMALL_SAMPLES, "--set", "pack.shard_mb=1", "--set", "split.held_out_share=0")
"""Two samples a shard."""
NAMES = ("a", "b", "c", "d", "e", "f")


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Six clips that are kept, and an OUT in which everything but packing is done."""

    raw: Path
    measured: Path

    def copy(self, out: Path) -> Path:
        shutil.copytree(self.measured, out)
        return out


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    folder = tmp_path_factory.mktemp("bucket")
    clip = render_small(folder / "clip.mp4", seed=1).read_bytes()
    (folder / "raw").mkdir()
    for name in NAMES:
        (folder / "raw" / f"{name}.mp4").write_bytes(clip)
    with jobs_by(InProcessEngine()):
        phases = ("measure", "annotate", "select", "caption")
        finished = twinreel(
            "curate", folder / "raw", "--out", folder / "out",
            *(f"--phase={phase}" for phase in phases), *SETTINGS,
        )  # fmt: skip
    assert finished.code == 0, finished.err
    return Bucket(folder / "raw", folder / "out")


@pytest.fixture
def away(bucket: Bucket) -> Any:
    """Takes a file out of the bucket, and puts it back at the end at the latest."""
    gone: dict[str, Path] = {}

    class Away:
        def take(self, name: str) -> None:
            gone[name] = bucket.raw / f"{name}.mp4.away"
            (bucket.raw / f"{name}.mp4").rename(gone[name])

        def put_back(self) -> None:
            for name, path in gone.items():
                path.rename(bucket.raw / f"{name}.mp4")
            gone.clear()

    there = Away()
    yield there
    there.put_back()


def pack(bucket: Bucket, out: Path, *more: str) -> Finished:
    finished = twinreel("curate", bucket.raw, "--out", out, "--phase=pack", *SETTINGS, *more)
    assert finished.code == 0, finished.err
    return finished


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("shards/*/*.tar")}


def fragments(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("shards/*/fragments/*"))


def samples(out: Path) -> dict[str, dict[str, Any]]:
    sql = "SELECT uri, sample FROM dataset WHERE sample IS NOT NULL ORDER BY sample.sample_id"
    found = twinreel("inspect", out, "--json", "--sql", sql)
    assert found.code == 0, found.err
    return {Path(row["uri"]).stem: row["sample"] for row in found.json()}


@pytest.fixture(scope="module")
def undisturbed(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = bucket.copy(tmp_path_factory.mktemp("undisturbed") / "out")
    with jobs_by(InProcessEngine()):
        pack(bucket, out)
    assert len(tars(out)) == 3
    return out


def fails(code: str, *names: str, retryable: bool, step: str = "write_fragment") -> Fault:
    """Fails the packing of some files, or the assembling of shards."""

    def fault(task: Any) -> None:
        named = not names or Path(task.subject).stem in names
        if task.function.__name__.endswith(step) and named:
            raise MediaError(code, "It is not to be.", subject=task.subject, retryable=retryable)

    return fault


def made(engine: InProcessEngine) -> list[str]:
    """The files of which samples were made; forgets them."""
    found = sorted(name for function, name in engine.subjects if function == "write_fragment")
    engine.subjects.clear()
    return found


@pytest.mark.soak
def test_a_file_that_is_away_for_now_is_packed_by_the_next_run_as_if_nothing_had_been(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine, away: Any
) -> None:
    out = bucket.copy(tmp_path / "out")
    away.take("c")
    first = pack(bucket, out)
    assert "already there" not in first.out
    assert "1 sample could not be packed for now (missing_file)" in first.out
    assert "run the same command again" in first.out
    shards = tars(out)
    assert len(shards) == 2 and shards.items() < tars(undisturbed).items()
    assert len(fragments(out)) == 1, "the other sample of its shard waits with it"
    made(engine)

    verified = twinreel("verify", out)
    assert verified.code == 1
    assert "missing_file" in verified.out and "c.mp4" in verified.out
    as_json = twinreel("verify", out, "--json")
    assert as_json.code == 1
    assert [one["code"] for one in as_json.json()["unpacked"]] == ["missing_file", "shard_held"]
    assert "missing_file" in twinreel("inspect", out).out

    away.put_back()
    second = pack(bucket, out)
    assert made(engine) == ["c.mp4"], "what is made is not made again"
    assert tars(out) == tars(undisturbed)
    assert samples(out) == samples(undisturbed)
    assert fragments(out) == []
    assert "for now" not in second.out
    assert twinreel("verify", out).code == 0
    assert "Everything was already there" in pack(bucket, out).out


def test_new_clips_do_not_change_who_shares_a_shard_that_is_held_back(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine
) -> None:
    fewer = "--set=gates.first=NOT regexp_matches(uri, '[ef].mp4')"
    plain, out = bucket.copy(tmp_path / "plain"), bucket.copy(tmp_path / "out")
    for one, fault in ((plain, None), (out, fails("away", "a", "d", retryable=True))):
        assert twinreel("select", one, fewer).code == 0
        if fault is not None:
            engine.fault = fault
        pack(bucket, one)
        engine.fault = lambda task: None
        assert twinreel("select", one, "--set", "gates.first=").code == 0
        pack(bucket, one)
    assert len(tars(plain)) == 3
    assert tars(out) == tars(plain)


def test_a_file_that_stays_away_holds_its_shard_back_once(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine, away: Any
) -> None:
    out = bucket.copy(tmp_path / "out")
    away.take("c")
    pack(bucket, out)
    made(engine)
    second = pack(bucket, out)
    assert made(engine) == ["c.mp4"]
    assert "missing_file" in second.out
    packed = samples(out)
    assert sorted(name for name, row in packed.items() if row["status"] == "ok") == [
        "a", "b", "d", "e", "f",
    ]  # fmt: skip
    assert fragments(out) == []
    before = tars(out)
    assert len(before) == 3
    assert twinreel("verify", out).code == 1

    away.put_back()
    pack(bucket, out)
    assert made(engine) == ["c.mp4"]
    after = tars(out)
    assert len(after) == 4 and before.items() < after.items()
    assert samples(out)["c"]["sha256"] == samples(undisturbed)["c"]["sha256"]
    assert twinreel("verify", out).code == 0


def test_what_waits_for_its_shard_goes_when_its_clip_is_no_longer_kept(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("away", "c", retryable=True)
    pack(bucket, out)
    [waiting] = [name for name, row in samples(out).items() if row["status"] == "held"]
    rejecting = f"--set=gates.out=NOT regexp_matches(uri, '[c{waiting}].mp4')"
    assert twinreel("select", out, rejecting).code == 0
    pack(bucket, out, rejecting)
    assert fragments(out) == []
    assert twinreel("verify", out).code == 0


def test_a_failure_for_good_costs_its_sample_alone_and_is_told(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("decoder_crashed", "c", retryable=False)
    first = pack(bucket, out)
    assert "1 kept clip could not be packed (decoder_crashed)" in first.out
    assert len(tars(out)) == 3 and fragments(out) == []
    verified = twinreel("verify", out)
    assert verified.code == 1 and "decoder_crashed" in verified.out
    made(engine)
    assert "Everything was already there" in pack(bucket, out).out
    assert made(engine) == []


def test_a_shard_that_cannot_be_assembled_for_now_is_assembled_by_the_next_run(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("decoder_killed", retryable=True, step="write_shard")
    first = pack(bucket, out)
    assert "decoder_killed" in first.out and tars(out) == {}
    assert twinreel("verify", out).code == 1
    made(engine)
    engine.fault = lambda task: None
    pack(bucket, out)
    assert made(engine) == []
    assert tars(out) == tars(undisturbed)


def test_storage_that_fails_while_a_sample_is_written_passes(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = bucket.copy(tmp_path / "out")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stages.packing.write.write_sample", full)
        assert "6 samples could not be packed for now (storage_unwritable)" in pack(bucket, out).out
    pack(bucket, out)
    assert tars(out) == tars(undisturbed)


def test_what_hangs_in_two_runs_is_given_up(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("decoder_hung", "c", retryable=True)
    pack(bucket, out)
    assert samples(out)["c"]["error"]["retryable"]
    pack(bucket, out)
    assert not samples(out)["c"]["error"]["retryable"]
    made(engine)
    assert "Everything was already there" in pack(bucket, out).out
    assert made(engine) == []


def test_a_fragment_is_made_again_if_it_is_gone_or_would_be_another(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("decoder_killed", retryable=True, step="write_shard")
    pack(bucket, out)
    made(engine)
    engine.fault = lambda task: None
    lost, damaged = sorted(out.glob("shards/*/fragments/*"))[:2]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:512])
    found = samples(out)
    pack(bucket, out)
    again = {name for name, row in found.items() if row["sample_id"] in (lost.name, damaged.name)}
    assert made(engine) == sorted(f"{name}.mp4" for name in again)
    assert tars(out) == tars(undisturbed)


def change_caption(out: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Give a clip another row in `captions`."""
    sql = f"SELECT clip_id, caption FROM dataset WHERE uri LIKE '%/{name}.mp4' AND state = 'keep'"
    [row] = twinreel("inspect", out, "--json", "--sql", sql).json()
    caption = {"clip_id": row["clip_id"], **row["caption"]}
    change(caption)
    open_store(str(out))[1].commit({"captions": [caption]})


def test_a_clip_whose_words_are_still_to_come_waits_for_them(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    words: list[str] = []

    def fail(row: dict[str, Any]) -> None:
        words.append(row["text"])
        error = {"code": "caption_endpoint_failed", "message": "Away.", "retryable": True}
        row.update(text=None, status="failed", error=error)

    change_caption(out, "c", fail)
    assert "caption_awaited" in pack(bucket, out).out
    assert "c.mp4" not in made(engine)
    assert samples(out)["c"]["error"]["code"] == "caption_awaited"
    change_caption(out, "c", lambda row: row.update(text=words[0], status="ok", error=None))
    pack(bucket, out)
    assert made(engine) == ["c.mp4"]
    assert tars(out) == tars(undisturbed)


def test_what_is_kept_but_not_packed_yet_is_a_note(bucket: Bucket, engine: InProcessEngine) -> None:
    verified = twinreel("verify", bucket.measured)
    assert verified.code == 0
    assert "6 kept clips are not packed yet" in verified.out
    assert twinreel("verify", bucket.measured, "--json").json()["not_packed_yet"] == 6


def test_a_clip_without_words_is_not_packed_until_it_has_some(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    first = pack(bucket, out, "--set=caption.style=ovi-audio")
    assert made(engine) == [] and tars(out) == {}
    assert "6 samples could not be packed for now (caption_missing)" in first.out
    assert "phase `caption`" in first.out
    assert twinreel("verify", out).code == 1
    again = twinreel("curate", bucket.raw, "--out", out, *SETTINGS)
    assert again.code == 0 and "for now" not in again.out
    assert sorted(samples(out)) == sorted(NAMES)
    words = "SELECT count(caption.text) AS n FROM dataset WHERE sample.status = 'ok'"
    assert twinreel("inspect", out, "--json", "--sql", words).json() == [{"n": 6}]
    for sample in samples(out).values():
        assert sample["sha256"] in {one["sha256"] for one in samples(undisturbed).values()}


def test_verify_finds_clips_that_have_not_met_the_current_gates(
    bucket: Bucket, undisturbed: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    assert "pending" not in twinreel("verify", out).out
    gate = "--set=gates.length=\"window\" IN ('full')"
    measured = twinreel("curate", bucket.raw, "--out", out, "--phase=measure", *SETTINGS, gate)
    assert measured.code == 0, measured.err
    found = twinreel("verify", out)
    assert found.code == 1
    assert "clips are not decided by the current gates: run `twinreel select`" in found.out
    assert twinreel("verify", out, "--json").json()["undecided"] >= 6
    assert twinreel("select", out).code == 0
    assert twinreel("verify", out).code == 0


def test_verify_says_how_many_clips_it_does_not_list(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("broken\x1b[2Jcode", "c", "d", "e", retryable=False)
    pack(bucket, out)
    monkeypatch.setattr("manifests.explore.unpacked._LISTED", 2)
    found = twinreel("verify", out)
    assert found.code == 1
    assert "3 kept clips are not packed: " in found.out
    assert found.out.count("not packed  ") == 2
    assert "and 1 more" in found.out
    assert "\x1b" not in found.out
    assert twinreel("verify", out, "--json").json()["unpacked_total"] == 3


def test_samples_of_rejected_clips_are_not_counted_as_failed_or_waiting(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")
    engine.fault = fails("away", "c", retryable=True)
    pack(bucket, out)
    told = twinreel("inspect", out, "--json").json()["samples"]
    assert (told["held"], told["failed_by_code"]) == (1, [{"code": "away", "count": 1}])
    assert twinreel("select", out, "--set", "gates.none=uri = 'x'").code == 0
    told = twinreel("inspect", out, "--json").json()["samples"]
    assert (told["held"], told["failed_by_code"]) == (0, [])


def test_out_that_may_not_be_written_ends_the_job(
    bucket: Bucket, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = bucket.copy(tmp_path / "out")

    def denied(task: Any) -> None:
        if task.function is write_shard:
            raise StorageError("storage_denied", "It may not be read.", subject=str(out))

    engine.fault = denied
    finished = twinreel("curate", bucket.raw, "--out", out, "--phase=pack", *SETTINGS)
    assert finished.code == 1 and "storage_denied" in finished.err
