"""`twinreel doctor` on what other packages bring along, or take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from curation.cli.doctor import Finding, examine
from tests.stages.test_registry import install
from tests.support.command_line import twinreel


def finding(part: str) -> Finding:
    [found] = [found for found in examine() if found.part == part]
    return found


def test_stages_of_other_packages_are_listed_and_a_broken_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = finding("stages of other packages")
    assert (none.state, none.detail) == ("ok", "none")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    install(whole, "knocks = knocks:KnocksStage")
    install(broken, "knocks = knocks:NoSuchStage")
    (broken / "knocks.py").write_text("raise ImportError('[/]')")
    with monkeypatch.context() as path:
        path.syspath_prepend(whole)
        found = finding("stages of other packages")
        assert (found.state, found.detail) == ("ok", "knocks (knocks.KnocksStage)")
    monkeypatch.delitem(sys.modules, "knocks")
    monkeypatch.syspath_prepend(broken)
    found = finding("stages of other packages")
    assert found.state == "optional"
    assert "knocks:NoSuchStage of the package knock-package" in found.detail
    assert "ImportError: [/]" in found.detail and "knock-package" in found.get
    assert twinreel("doctor").code == 0


def test_a_distribution_that_has_files_under_our_names_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finding("names").state == "ok"
    about = tmp_path / "theatre-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theatre\nVersion: 1.0\n")
    (about / "RECORD").write_text("stages/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding("names")
    assert (found.state, found.detail) == ("optional", "stages: also in theatre")
    assert twinreel("doctor").code == 0
