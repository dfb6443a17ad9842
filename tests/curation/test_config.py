"""The configuration: presets, a file, `--set`; every wrong setting is named, with what is near."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.config import JobConfiguration, load_configuration, preset_names
from curation.resolve import resolve
from manifests.errors import UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def refused(*assignments: str, file: Path | None = None, preset: str | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_configuration(preset, file, assignments)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("name", ["quickstart", "ovi"])
def test_presets_load(name: str) -> None:
    assert name in preset_names()
    configuration = load_configuration(name, None, [])
    assert configuration.preset == name
    assert {"length", "sync_offset", "sync_confidence"} <= set(configuration.gates)


def test_the_default_preset_needs_no_weights() -> None:
    configuration = load_configuration(None, None, [])
    assert configuration == load_configuration("quickstart", None, [])
    assert configuration.stage_parameters("sync")["backend"] == "auto"


def test_a_file_goes_over_the_preset_and_assignments_over_both(file: Path) -> None:
    file.write_text("preset: ovi\nclip: {frames: 97, fps: 25}\ndecode:\n  unit_s: 60\n")
    configuration = load_configuration(None, file, ["clip.frames=49", "engine.workers=3"])
    assert configuration.preset == "ovi"
    assert configuration.gates.keys() == load_configuration("ovi", None, []).gates.keys()
    assert (configuration.clip.frames, configuration.clip.fps) == (49, 25.0)
    assert configuration.decode.unit_s == 60
    assert configuration.decode.stall_s == load_configuration("ovi", None, []).decode.stall_s
    assert configuration.engine.workers == 3


def test_a_preset_that_is_named_wins_over_the_files(file: Path) -> None:
    file.write_text("preset: ovi\nclip: {frames: 97}\n")
    configuration = load_configuration("quickstart", file, [])
    assert configuration.preset == "quickstart"
    assert configuration.gates == load_configuration("quickstart", None, []).gates
    assert configuration.clip.frames == 97


def test_the_last_assignment_wins() -> None:
    assert load_configuration(None, None, ["clip.frames=49", "clip.frames=50"]).clip.frames == 50


def test_an_empty_value_removes_a_gate(file: Path) -> None:
    file.write_text("gates: {volume: null, loud: 'loudness.mean_volume_db > -30'}\n")
    gates = load_configuration(None, file, ["gates.sync_offset="]).gates
    assert not {"volume", "sync_offset"} & set(gates)
    assert {"loud", "length"} <= set(gates)


def test_a_mapping_replaces_a_gate_whole_and_an_expression_its_expression(file: Path) -> None:
    name = "sync_confidence"
    assert load_configuration(None, None, []).gates[name].backends == {"sync": ["embedded"]}
    by_assignment = load_configuration(None, None, [f"gates.{name}=sync.confidence > 2"]).gates
    assert by_assignment[name].sql == "sync.confidence > 2"
    assert by_assignment[name].backends == {"sync": ["embedded"]}
    file.write_text(f"gates:\n  {name}: {{sql: 'sync.confidence > 2', unmeasured: pass}}\n")
    by_file = load_configuration(None, file, []).gates[name]
    assert (by_file.backends, by_file.unmeasured) == (None, "pass")


def test_sql_in_an_assignment_is_taken_as_it_stands() -> None:
    sql = "uri LIKE '%: {a, b} # c' AND loudness.mean_volume_db >= -60"
    assert load_configuration(None, None, [f"gates.mine={sql}"]).gates["mine"].sql == sql


def test_a_gate_cannot_be_assigned_in_part() -> None:
    error = refused("gates.sync.unmeasured=pass")
    assert (error.code, error.subject) == ("bad_setting", "gates.sync.sql")


@pytest.mark.parametrize(
    ("assignment", "subject"),
    [
        ("stages.motion.raft.pair_s=1.0", "stages.motion.raft"),
        ("stages.motion.pair_s=0.5", None),
        ("stages.motion.pairs_hz=10", None),
        ("stages.motion={pair_s: 0.5, pairs_hz: 4}", "stages.motion"),
    ],
)
def test_pairs_of_pictures_do_not_overlap(assignment: str, subject: str | None) -> None:
    if subject is None:
        load_configuration(None, None, [assignment])
        return
    error = refused(assignment)
    assert (error.code, error.subject) == ("bad_setting", subject)
    assert str(error).startswith(f"{subject}: pairs_hz must not be more than 1 / pair_s")


@pytest.mark.parametrize(
    ("assignment", "subject", "nearest"),
    [
        ("clip.frame=97", "clip.frame", "'clip.frames'"),
        ("clips.frames=97", "clips", "'clip'"),
        ("decode.stall=3", "decode.stall", "'decode.stall_s'"),
        ("pack.area=57600", "pack.area", "'pack.area_px'"),
        ("stages.motions.backend=embedded", "stages.motions", "'stages.motion'"),
        ("stages.sync.backnd=embedded", "stages.sync.backnd", "'stages.sync.backend'"),
        ("gates.sync={sql: 'true', backend: {}}", "gates.sync.backend", "'gates.sync.backends'"),
    ],
)
def test_unknown_settings_name_the_nearest(assignment: str, subject: str, nearest: str) -> None:
    error = refused(assignment)
    assert (error.code, error.subject) == ("unknown_setting", subject)
    assert f"Did you mean {nearest}?" in str(error)


def test_an_unknown_setting_far_from_all_lists_what_there_is() -> None:
    error = refused("stages.motion.xylophone=1")
    assert (error.code, error.subject) == ("unknown_setting", "stages.motion.xylophone")
    known = load_configuration(None, None, []).stage_parameters("motion")
    assert all(name in str(error) for name in known)


@pytest.mark.parametrize(
    ("assignment", "subject", "part"),
    [
        ("clip.frames=many", "clip.frames", "many"),
        ("clip.frames=1", "clip.frames", "greater than or equal to 2"),
        ("clip.frames=", "clip.frames", "valid integer"),
        ("clip=5", "clip", "5"),
        ("clip.min_frames=200", "clip", "min_frames must not be more than frames"),
        ("decode.retries=-1", "decode.retries", "-1"),
        ("decode.unit_s=.nan", "decode.unit_s", "nan"),
        ("split.held_out_share=2", "split.held_out_share", "2"),
        ("gates=[]", "gates", "dictionary"),
        ("gates.mine={backends: {}}", "gates.mine.sql", "Field required"),
        ("pack.video=avi", "pack.video", "avi"),
    ],
)
def test_bad_values_are_named(assignment: str, subject: str, part: str) -> None:
    error = refused(assignment)
    assert (error.code, error.subject) == ("bad_setting", subject)
    assert part.lower() in str(error).lower()


@pytest.mark.parametrize("assignment", ["clip.frames", "=5", "clip..frames=3", "clip.frames=[1"])
def test_bad_assignments_are_named(assignment: str) -> None:
    error = refused(assignment)
    assert error.code == "bad_assignment"
    assert assignment in str(error)


def test_unknown_preset() -> None:
    error = refused(preset="quickstrat")
    assert error.code == "unknown_preset"
    assert "Did you mean 'quickstart'?" in str(error)


@pytest.mark.parametrize(
    "text", ["clip: {frames: [", "- a\n- b\n", "just words", "clip:\n\tframes: 3\n", "\x00"]
)
def test_a_bad_file_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    error = refused(file=file)
    assert (error.code, error.subject) == ("configuration_unreadable", str(file))
    assert "\n" not in str(error)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        error = refused(file=path)
        assert (error.code, error.subject) == ("configuration_unreadable", str(path))


def test_a_bad_setting_in_a_file_is_named(file: Path) -> None:
    file.write_text("clip:\n  frame: 3\n")
    assert refused(file=file).subject == "clip.frame"
    file.write_text("preset: {a: 1}\n")
    assert refused(file=file).code in ("unknown_preset", "bad_setting")
    file.write_text("1: 2\n")
    assert refused(file=file).code == "bad_setting"


def test_an_empty_file_changes_nothing(file: Path) -> None:
    file.write_text("# nothing yet\n")
    assert load_configuration(None, file, []) == load_configuration(None, None, [])


def test_a_configuration_survives_being_written_down() -> None:
    configuration = load_configuration("ovi", None, ["clip.frames=97"])
    assert JobConfiguration.model_validate(configuration.model_dump(mode="json")) == configuration


def test_a_stage_whose_source_is_switched_off_is_refused_before_any_work() -> None:
    configuration = load_configuration("quickstart", None, ["stages.faces.enabled=false"])
    with pytest.raises(UsageError) as caught:
        resolve(configuration)
    assert (caught.value.code, caught.value.subject) == ("stage_disabled", "stages.sync")
    off = load_configuration(
        "quickstart", None, ["stages.faces.enabled=false", "stages.sync.enabled=false"]
    )
    assert "faces" not in resolve(off).fingerprints


def test_how_captions_are_asked_for_is_no_part_of_what_they_are() -> None:
    def fingerprint(*assignments: str) -> object:
        base = ["caption.backend=endpoint", "caption.endpoint.model=m"]
        configuration = load_configuration("quickstart", None, [*base, *assignments])
        return resolve(configuration).selection.caption

    plain = fingerprint()
    for same in ("concurrency=3", "base_url=http://127.0.0.1:1/v1", "max_cost=null", "tries=2"):
        assert fingerprint(f"caption.endpoint.{same}") == plain
    for other in (
        "endpoint.model=n", "endpoint.temperature=0.5", "stills=5", "style=ovi-960",
        "long_side_px=512",
    ):  # fmt: skip
        assert fingerprint(f"caption.{other}") != plain
