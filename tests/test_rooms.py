"""The house stays one that a stranger finds his way in: files lie in rooms."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("curation", "stages", "manifests", "training", "twinreel")


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("curation", {"config", "curate", "encode", "job", "resolve"}),
        ("stages", {"registry"}),
        ("manifests", {"errors", "fingerprint", "process", "settings"}),
        (
            "training",
            {
                *("checkpoint", "distributed", "export", "journal", "launch", "parts", "plan"),
                *("recipe", "run", "skipped", "train", "weights"),
            },
        ),
    ],
)
def test_only_the_named_modules_lie_outside_a_room(package: str, modules: set[str]) -> None:
    lying = {path.stem for path in (ROOT / package).glob("*.py")}
    assert lying - {"__init__", "__main__"} == modules


def test_no_module_has_a_name_of_the_standard_library() -> None:
    """Python run in such a module's folder would take it for the other."""
    ours = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert len(ours) > 200
    assert [path for path in ours if path.stem in sys.stdlib_module_names] == []


def test_every_folder_of_tests_mirrors_a_room() -> None:
    tests = ROOT / "tests"
    for name in PACKAGES:
        for folder in (tests / name).rglob("*/"):
            if folder.name != "__pycache__":
                assert (ROOT / folder.relative_to(tests)).is_dir(), folder
