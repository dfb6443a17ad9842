"""Files of prompts: a clip a line, lines that fail alone, and folders that are gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from manifests.errors import UsageError
from tests.support.command_line import twinreel
from training.generate.prompts import PromptLine, read_prompts


def index_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]


def test_a_bad_line_stops_no_other_and_clips_are_made_once(
    run: Path, clip: Path, tmp_path: Path
) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "clips"
    (tmp_path / "first.mp4").write_bytes(clip.read_bytes())
    lines = [
        {"prompt": "A bell rings, slowly", "seed": 3},
        {"prompt": "words", "image": "missing.png"},
        {"prompt": "words", "image": "first.mp4", "negative": "noise"},
        {"prompt": "words", "colour": "red"},
        {"prompt": "A bell rings, slowly", "seed": 3},
    ]
    prompts.write_text("\n".join([*map(json.dumps, lines), "", "{"]) + "\n")
    arguments = ("generate", run, "--prompts", prompts, "--out", out, "--steps", "2")
    finished = twinreel(*arguments)
    assert finished.code == 1
    assert "2 clips generated, 1 were there" in finished.out
    assert "[prompts_failed]" in finished.err
    assert "3 of 6 prompts" in finished.err
    index = index_of(out)
    assert [entry["line"] for entry in index] == [1, 2, 3, 4, 5, 7]
    errors = [entry.get("error") for entry in index]
    bad = "bad_prompt_line"
    assert errors == [None, "image_unreadable", None, bad, None, bad]
    assert f"{prompts}:4" in index[3]["message"]
    assert "colour" in index[3]["message"]
    assert index[0]["clip"] == index[4]["clip"]
    assert index[0]["clip"].startswith("a-bell-rings-slowly-")
    for entry in (index[0], index[2]):
        with av.open(str(out / entry["clip"])) as container:
            assert [stream.type for stream in container.streams] == ["video", "audio"]

    # Mended, only what is missing is made; another sampler makes other clips beside them.
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    prompts.write_text("".join(json.dumps(lines[i]) + "\n" for i in (0, 2)))
    again = twinreel(*arguments)
    assert again.code == 0, again.err
    assert "0 clips generated, 2 were there" in again.out
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")} == before
    other = twinreel(*arguments, "--guidance", "1")
    assert "2 clips generated" in other.out
    assert len(list(out.glob("*.mp4"))) == 4


def test_text_and_tables_say_the_same(tmp_path: Path) -> None:
    text, table = tmp_path / "prompts.txt", tmp_path / "prompts.csv"
    text.write_text("a dog\n\n  a cat, asleep \n")
    table.write_text('prompt,seed,image,size\na dog,,,\n"a cat, asleep",7,cat.png,16x9\n')
    dog, cat = read_prompts(text, seed=5)
    assert (dog.number, cat.number) == (1, 3)
    assert dog.request is not None
    assert cat.request is not None
    assert (dog.request.prompt, cat.request.prompt) == ("a dog", "a cat, asleep")
    first, second = read_prompts(table, seed=5)
    assert first == PromptLine(1, dog.request)
    assert second.request is not None
    assert (second.request.seed, second.request.aspect) == (7, (16, 9))
    assert second.request.image == tmp_path / "cat.png"


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "\n"), ("p.yaml", "words"), ("p.csv", "prompt\n"), ("no.txt", None)],
)
def test_files_without_prompts_are_named(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        read_prompts(tmp_path / name)
    assert error.value.code == "prompts_unreadable"
    assert name in str(error.value)


def test_what_lines_say_is_no_option(run: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("words")
    arguments = ("generate", run, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "a" / "b")
    assert "[prompts_say]" in twinreel(*arguments, "--image", "x.png").message
    assert "[folder_missing]" in twinreel(*arguments).message
