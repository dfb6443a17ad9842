"""Captions that come with their files: from a text file beside each, or from the input table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.demo_bucket import Shape, VideoFormat, scenery_clip
from manifests.explore.open import inspect_sql
from tests.support.command_line import twinreel
from tests.support.in_process import InProcessEngine, engine, no_report
from tests.support.moto_bucket import moto_bucket, upload_folder

__all__ = ["engine", "no_report"]

pytestmark = pytest.mark.usefixtures("engine", "no_report")

SHAPE = Shape(160, 96, 24, 0.5, video=VideoFormat(options={"preset": "ultrafast"}))
WORDS = "A drawn  scene,\nfilmed <S>hello<E> from the hand. <AUDCAP>A faint hiss.<ENDAUDCAP>"
SETTINGS = (
    "clip.frames=6", "gates={}", "gates.modality=modality = 'video'", "caption.backend=carried",
    "gates.volume=", "gates.has_sound=", "gates.not_static=", "gates.not_frozen=", "gates.intact=",
    "gates.length=", "gates.sync_offset=", "gates.sync_confidence=",
)  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three files: with words, without, and with what is no text beside it."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed, name in enumerate(("told", "untold", "garbled")):
        scenery_clip(folder / f"{name}.mp4", seed=seed, shape=SHAPE)
    (folder / "told.txt").write_text(WORDS)
    (folder / "garbled.txt").write_bytes(b"\xff\xfe\x00A")
    return folder


def curate(given: Path | str, out: Path, *more: str) -> None:
    settings = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    phases = [part for phase in ("measure", "select", "caption") for part in ("--phase", phase)]
    finished = twinreel("curate", given, "--out", out, *settings, *phases)
    assert finished.code == 0, finished.err


def captions(out: Path) -> dict[str, set[tuple[Any, ...]]]:
    """Text, audio, speech and model of all clips, by the file's name."""
    rows = inspect_sql(
        str(out), "SELECT uri, caption.text, caption.audio, caption.speech, caption.model"
        " FROM dataset",
    ).to_pylist()  # fmt: skip
    found: dict[str, set[tuple[Any, ...]]] = {}
    for row in rows:
        uri, *words = row.values()
        found.setdefault(Path(uri).stem, set()).add(tuple(words))
    return found


def test_a_text_file_beside_a_clip_is_its_caption(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate(raw, out)
    found = captions(out)
    assert found["told"] == {(" ".join(WORDS.split()), "A faint hiss.", "hello", "carried")}
    for name in ("untold", "garbled"):
        assert {model for *_, model in found[name]} == {"attributes"}
        assert all(text.startswith("A wide video clip") for text, *_ in found[name])
    errors = inspect_sql(
        str(out), "SELECT uri, error.code AS code FROM sources WHERE error IS NOT NULL"
    ).to_pylist()
    assert [(Path(row["uri"]).name, row["code"]) for row in errors] == [
        ("garbled.txt", "caption_unreadable")
    ]


def test_words_that_change_are_taken_over_and_nothing_is_decoded(
    raw: Path, tmp_path: Path, engine: InProcessEngine
) -> None:
    out = tmp_path / "out"
    curate(raw, out)
    engine.subjects.clear()
    (raw / "told.txt").unlink()
    (raw / "untold.txt").write_text("Now there are words.")
    (raw / "garbled.txt").write_text("A legible caption.")
    curate(raw, out)
    found = captions(out)
    assert {model for *_, model in found["told"]} == {"attributes"}
    assert found["untold"] == {("Now there are words.", None, None, "carried")}
    assert found["garbled"] == {("A legible caption.", None, None, "carried")}
    assert engine.subjects == []
    before = inspect_sql(str(out), "SELECT count(*) AS n FROM captions_log").to_pylist()
    curate(raw, out)
    assert inspect_sql(str(out), "SELECT count(*) AS n FROM captions_log").to_pylist() == before


def test_a_tables_column_comes_before_the_file_beside(raw: Path, tmp_path: Path) -> None:
    table = tmp_path / "inputs.csv"
    table.write_text(
        f'uri,caption\n{raw}/told.mp4,"From the table, with a comma."\n{raw}/untold.mp4,\n'
    )
    out = tmp_path / "out"
    curate(table, out)
    found = captions(out)
    assert found["told"] == {("From the table, with a comma.", None, None, "carried")}
    assert {model for *_, model in found["untold"]} == {"attributes"}


def test_objects_beside_each_other_in_a_bucket(raw: Path, tmp_path: Path) -> None:
    with moto_bucket("carried") as client:
        upload_folder(client, raw, "carried", "raw/")
        curate("s3://carried/raw", tmp_path / "out")
    found = captions(tmp_path / "out")
    assert {model for *_, model in found["told"]} == {"carried"}
    assert {model for *_, model in found["garbled"]} == {"attributes"}


def test_other_backends_read_no_text_files(raw: Path, tmp_path: Path) -> None:
    curate(raw, tmp_path / "out", "caption.backend=attributes")
    assert {model for rows in captions(tmp_path / "out").values() for *_, model in rows} == {
        "attributes"
    }
    carried = inspect_sql(str(tmp_path / "out"), "SELECT carried FROM sources").to_pylist()
    assert [dict(row["carried"]) for row in carried] == [{}] * 3
