"""RAFT: the network's own answers through the stage's batching, units, and clips of every shape.

No trained weights can be had: the network is filled with made-up ones, saved as the file of the
catalogue and loaded as real ones would be. Filled as they are, the flow heads move every point by
tens of pixels at each of the twelve updates; a quarter of their weights keeps flows inside the
picture. What needs a true flow uses a network whose heads always say the same displacement.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from curation.demo_bucket.render import VideoFormat, render_video
from curation.demo_bucket.scenes import frame_times_s, panned, textured_picture
from manifests.errors import MediaError, UsageError
from stages.base.clip import ClipTask, NotApplicable, Ready
from stages.media.blocks import SourceFormat
from stages.media.probe import probe
from stages.models.raft import FlowField
from stages.models.torchvision_guard import import_torchvision
from stages.video.motion.flow import MotionParameters, MotionRecord, RaftParameters
from stages.video.motion.frame_pairs import FramePairs, network_size, shown_size
from stages.video.motion.raft import RaftStage, clip_flows, pair_displacements
from stages.video.motion.stage import MotionStage
from stages.weights.catalogue import CATALOGUE
from stages.weights.find import WEIGHTS_VARIABLE
from tests.support.made_up_weights import filled
from tests.support.watching import source_format, summary, watch_file

SIGNALS_RECORD = MotionRecord(None, None, None, None, 0.25, 0.125)
NETWORKS = {"raft_large": "raft-large", "raft_small": "raft-small"}


def network(name: str) -> torch.nn.Module:
    import_torchvision()
    from torchvision.models import optical_flow

    return getattr(optical_flow, name)(weights=None)


def save(folder: Path, name: str, module: torch.nn.Module) -> None:
    torch.save(module.state_dict(), folder / CATALOGUE[NETWORKS[name]].files[0].name)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.nn.Module]:
    """Both networks with made-up weights, which lie in a weights folder too."""
    networks = {}
    for name in NETWORKS:
        module = filled(network(name))
        with torch.no_grad():
            for key, parameter in module.named_parameters():
                if "flow_head" in key:
                    parameter.mul_(0.25)
        networks[name] = module
    return networks


@pytest.fixture()
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    return folder


Load = Callable[..., tuple[RaftStage, Any]]


@pytest.fixture()
def load(weights_folder: Path, made_up: dict[str, torch.nn.Module]) -> Load:
    """The stage and its model with made-up weights, both loaded as real ones are."""

    def loaded(name: str = "raft_small", **parameters: Any) -> tuple[RaftStage, Any]:
        save(weights_folder, name, made_up[name])
        stage = RaftStage(MotionParameters(backend=name, **parameters))
        return stage, stage.load("cpu")

    return loaded


@pytest.fixture()
def load_constant(weights_folder: Path) -> Callable[[float, float], tuple[RaftStage, Any]]:
    """The stage and a network that says of all pairs that all of it went by so many pixels."""

    def loaded(right_px: float, down_px: float) -> tuple[RaftStage, Any]:
        module = filled(network("raft_small"))
        with torch.no_grad():
            head = module.update_block.flow_head.conv2
            head.weight.zero_()
            # Three updates of feature maps of an eighth of the size.
            head.bias.copy_(torch.tensor([right_px, down_px]) / (8 * 3))
        save(weights_folder, "raft_small", module)
        settings = RaftParameters(flow_updates=3)
        stage = RaftStage(MotionParameters(backend="raft_small", raft=settings))
        return stage, stage.load("cpu")

    return loaded


def pairs_of(seed: int, count: int, width: int = 128, height: int = 128) -> FramePairs:
    """A made-up clip of `count` pairs in a row, as small as the network can see."""
    canvas = textured_picture(width + 20 * count, height, seed=seed)
    images = [canvas[:, 16 * index : 16 * index + width] for index in range(count + 1)]
    indices = np.arange(count)
    return FramePairs(
        frames=np.stack(images),
        pairs=np.stack([indices, indices + 1], axis=1).astype(np.int64),
        apart_s=np.full(count, 0.5),
        shown_px=(256.0 * width / height, 256.0),
        frozen_share=0.0,
        dropped_share=0.0,
    )


def task(path: Path, end_s: float, start_s: float = 0.0, **changes: Any) -> ClipTask:
    return ClipTask(
        clip_id="clip",
        uri=str(path),
        source=probe(str(path)),
        start_s=start_s,
        end_s=end_s,
        side_rows={},
        **({"signals_record": SIGNALS_RECORD} | changes),
    )


def pan(
    path: Path, speed_px_s: float, *, size: tuple[int, int], length_s: float, **video: Any
) -> Path:
    width, height = size
    times_s = frame_times_s(length_s, 25.0)
    canvas = textured_picture(width + round(abs(speed_px_s) * length_s) + 4, height, seed=1)
    frames = zip(
        (float(t) for t in times_s), panned(canvas, width, times_s, speed_px_s), strict=True
    )
    render_video(path, frames, video=VideoFormat(**video))
    return path


# --- The network's answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clip_count", "updates"), [("raft_small", 3, 12), ("raft_large", 2, 3)]
)
def test_flows_are_those_of_the_network_alone_whatever_the_batch(
    load: Load, made_up: dict[str, torch.nn.Module], name: str, clip_count: int, updates: int
) -> None:
    # Twelve updates are what nothing needs to be said for.
    _, model = load(name) if updates == 12 else load(name, raft={"flow_updates": updates})
    # Of the first and the last, five pairs of one size: more than go through at once.
    clips = [pairs_of(1, 2), pairs_of(2, 1, width=160), pairs_of(3, 3)][:clip_count]
    expected = [alone(made_up[name], clip, updates) for clip in clips]
    largest = max(float(np.abs(flow).max()) for flows in expected for flow in flows)
    assert 2 < largest < 100
    for order in (range(len(clips)), reversed(range(len(clips)))):
        chosen = list(order)
        for index, flows in zip(chosen, clip_flows(model, [clips[i] for i in chosen]), strict=True):
            for flow, truth in zip(flows, expected[index], strict=True):
                assert np.abs(flow - truth).max() < 1e-4 * largest


def test_half_precision_differs_little_and_correlates_in_full(load: Load) -> None:
    # What runs on a GPU, on the CPU: autocast takes the same way through the network.
    _, model = load(raft={"flow_updates": 3})
    clip = pairs_of(1, 1)
    full = clip_flows(model, [clip])[0][0]
    half = clip_flows(dataclasses.replace(model, half=True), [clip])[0][0]
    assert model.network.corr_block.corr_pyramid[0].dtype == torch.float32
    assert 0 < np.abs(full - half).max() < 0.02 * np.abs(full).max()


def alone(module: torch.nn.Module, clip: FramePairs, updates: int) -> list[FlowField]:
    """The network's own answers, one pair at a time, after torchvision's own transform."""
    from torchvision.transforms._presets import OpticalFlow

    flows = []
    for pair in clip.pairs:
        one, two = (torch.from_numpy(clip.frames[i]).permute(2, 0, 1)[None] for i in pair)
        with torch.no_grad():
            flow = module.eval()(*OpticalFlow()(one, two), num_flow_updates=updates)[-1][0]
        flows.append(flow.permute(1, 2, 0).numpy())
    return flows


def test_records_do_not_depend_on_the_batch(load: Load) -> None:
    stage, model = load(unexplained_share=100.0, raft={"flow_updates": 3})
    clips = [pairs_of(1, 2), pairs_of(2, 1, width=160), pairs_of(3, 3)]
    alone = [stage.infer(model, [clip])[0] for clip in clips]
    together = stage.infer(model, clips[::-1])[::-1]
    assert len({record.score_px_s for record in alone}) == 3
    for one, other in zip(alone, together, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-4)


def test_the_score_is_the_mean_flow_in_pixels_a_second(load: Load) -> None:
    stage, model = load(unexplained_share=100.0, raft={"flow_updates": 3})
    clip = dataclasses.replace(pairs_of(1, 2), apart_s=np.array([0.5, 0.25]))
    record = stage.infer(model, [clip])[0]
    flows = clip_flows(model, [clip])[0]
    # The network sees 128 px of what is stated at 256.
    speeds = [
        2 * np.hypot(*flow.T).mean() / apart for flow, apart in zip(flows, (0.5, 0.25), strict=True)
    ]
    assert record.score_px_s == pytest.approx(np.mean(speeds), rel=1e-5)
    assert record.static_share == 0.0


# --- Units ----------------------------------------------------------------------------------------


def test_displacements_are_stated_at_256_px_along_each_axis() -> None:
    # 3.95:1, which the network sees squeezed to 4:1 and a picture 2 % too wide.
    scene = textured_picture(1064, 256, seed=4)
    flow = np.zeros((256, 1024, 2), np.float32)
    flow[..., 0] = 8.0
    first, second = scene[:, 8:1032], scene[:, :1024]
    speeds = pair_displacements(first, second, flow, (1011.2, 256.0), 0.38)
    assert speeds is not None
    assert speeds.score == pytest.approx(8.0 * 1011.2 / 1024)
    assert speeds.camera == pytest.approx(speeds.score, rel=1e-3)
    assert speeds.subject < 0.01


def test_a_moving_subject_is_not_the_camera() -> None:
    scene, thing = textured_picture(456, 256, seed=2), textured_picture(100, 100, seed=3)
    first, second = scene.copy(), scene.copy()
    first[80:180, 100:200] = thing
    second[80:180, 112:212] = thing
    flow = np.zeros((256, 456, 2), np.float32)
    flow[80:180, 100:200, 0] = 12.0
    speeds = pair_displacements(first, second, flow, (456.0, 256.0), 0.38)
    assert speeds is not None
    assert speeds.score == pytest.approx(12 * 100 * 100 / (456 * 256), rel=1e-3)
    assert speeds.subject == pytest.approx(speeds.score, rel=0.1)
    assert speeds.camera < 0.1 * speeds.subject


def test_a_flow_that_explains_nothing_is_no_motion() -> None:
    one, two = (textured_picture(456, 256, seed=seed) for seed in (5, 6))
    still = np.zeros((256, 456, 2), np.float32)
    assert pair_displacements(one, two, still, (456.0, 256.0), 0.38) is None
    far = np.full((256, 456, 2), 150.0, np.float32)
    far[..., 1] = 0
    canvas = textured_picture(456 + 150, 256, seed=7)
    # A third of the picture is new, and the rest is explained.
    moved = pair_displacements(canvas[:, 150:], canvas[:, :456], far, (456.0, 256.0), 0.38)
    assert moved is not None and moved.score == pytest.approx(150.0)


@pytest.mark.parametrize(
    ("width", "height", "rotation_deg", "seen"),
    [
        (1920, 1080, 0, (456, 256)),
        (1080, 1920, 0, (256, 456)),
        (1920, 1080, 90, (256, 456)),
        (200, 200, 0, (256, 256)),
        (2000, 100, 0, (1024, 256)),
    ],
)
def test_sizes_that_the_network_sees(
    width: int, height: int, rotation_deg: int, seen: tuple[int, int]
) -> None:
    source = source_format(width, height, 25.0, rotation_deg=rotation_deg)
    assert network_size(source) == seen
    assert min(shown_size(source)) == pytest.approx(256)


@pytest.mark.parametrize("size", [(512, 512), (256, 256)])
def test_the_speed_of_a_pan_from_the_file_to_the_record(
    tmp_path: Path, load_constant: Callable[..., tuple[RaftStage, Any]], size: tuple[int, int]
) -> None:
    scale = 256 / size[1]
    # The camera goes right at 50 px/s of the source: in 0.52 s the picture goes left by 26 px.
    stage, model = load_constant(-26 * scale, 0.0)
    path = pan(tmp_path / "pan.mp4", 50.0, size=size, length_s=2.4)
    prepared = stage.prepare(task(path, 2.4))
    assert isinstance(prepared, FramePairs)
    assert prepared.apart_s == pytest.approx([0.52] * 4)
    record = stage.infer(model, [prepared])[0]
    assert isinstance(record, MotionRecord)
    assert record.score_px_s == pytest.approx(50 * scale, rel=1e-3)
    assert record.camera_px_s == pytest.approx(50 * scale, rel=0.01)
    assert record.subject_px_s is not None and record.subject_px_s < 0.5
    assert (record.static_share, record.frozen_share, record.dropped_share) == (0.0, 0.25, 0.125)


# --- Clips of every shape -------------------------------------------------------------------------


def test_a_short_clip_has_its_ends_compared(tmp_path: Path, load: Load) -> None:
    stage, model = load(unexplained_share=100.0)
    path = pan(tmp_path / "pan.mp4", 50.0, size=(256, 256), length_s=1.0)
    prepared = stage.prepare(task(path, 0.4, start_s=0.2))
    assert isinstance(prepared, FramePairs)
    assert prepared.apart_s == pytest.approx([0.16])
    record = stage.infer(model, [prepared])[0]
    assert isinstance(record, MotionRecord) and record.score_px_s is not None


def test_a_clip_of_one_picture_has_no_speeds(tmp_path: Path, load: Load) -> None:
    stage, _ = load()
    path = pan(tmp_path / "one.mp4", 0.0, size=(256, 256), length_s=0.04)
    assert stage.prepare(task(path, 0.04)) == Ready(SIGNALS_RECORD)


def test_long_clips_have_their_pairs_spread(tmp_path: Path, load: Load) -> None:
    stage, _ = load(raft={"max_pairs": 3, "pair_s": 0.2})
    path = pan(tmp_path / "pan.mp4", 10.0, size=(128, 128), length_s=6.0)
    prepared = stage.prepare(task(path, 6.0))
    assert isinstance(prepared, FramePairs)
    assert len(prepared.pairs) == 3
    assert len(prepared.frames) == 6
    whole, _ = load()
    prepared = whole.prepare(task(path, 5.0))
    assert isinstance(prepared, FramePairs)
    assert prepared.frames.nbytes < 8e6


def test_slow_sources_have_pairs_and_slides_have_none(tmp_path: Path, load: Load) -> None:
    stage, _ = load()
    scene = textured_picture(128, 128, seed=1)
    for gap_s, apart_s in ((1.0, [1.0] * 4), (2.5, [])):
        path = tmp_path / f"{gap_s}.mp4"
        video = VideoFormat(frame_rate=Fraction(1))
        render_video(path, ((gap_s * index, scene) for index in range(5)), video=video)
        prepared = stage.prepare(task(path, 5 * gap_s))
        found = prepared.apart_s if isinstance(prepared, FramePairs) else []
        assert found == pytest.approx(apart_s)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("broken_no_timescale.mp4", 256),
        ("handheld_whip_pan_rot180_vfr.mp4", 456),
        ("odd_hevc_10bit_testsrc.mp4", 256),
        ("odd_interlaced_tff_mpeg2.mkv", 456),
        ("nature_herd_2fps.mp4", 456),
        ("broken_bitstream_corrupted.mp4", 456),
    ],
)
def test_real_sources(given_clips: Path, load: Load, name: str, width: int) -> None:
    stage, model = load(unexplained_share=100.0, raft={"max_pairs": 1, "flow_updates": 3})
    clip = task(given_clips / name, 1.6, start_s=0.3)
    prepared = stage.prepare(clip)
    assert isinstance(prepared, FramePairs)
    assert prepared.frames.shape[2] == width
    assert stage.infer(model, [prepared])[0].score_px_s > 0


def test_pictures_stand_upright(tmp_path: Path, load: Load) -> None:
    stage, _ = load()
    scene = textured_picture(256, 128, seed=8)
    path = tmp_path / "turned.mp4"
    stored = np.ascontiguousarray(np.rot90(scene, -1))
    video = VideoFormat(rotation_deg=90, options={"crf": "1"})
    render_video(path, ((index / 25, stored) for index in range(20)), video=video)
    prepared = stage.prepare(task(path, 0.8))
    assert isinstance(prepared, FramePairs)
    upright = cv2.resize(prepared.frames[0], (256, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(upright.astype(int) - scene).mean() < 6


def test_no_pictures_are_not_applicable(given_clips: Path, load: Load) -> None:
    stage, _ = load()
    sound = given_clips / "audio_speech_en_jfk.flac"
    assert isinstance(stage.prepare(task(sound, 1.0)), NotApplicable)
    none = NotApplicable("no picture in this span")
    assert stage.prepare(task(sound, 1.0, signals_record=none)) == none


def test_what_cannot_be_decoded_or_was_not_counted_is_a_media_error(
    given_clips: Path, tmp_path: Path, load: Load
) -> None:
    stage, _ = load()
    path = pan(tmp_path / "pan.mp4", 0.0, size=(128, 128), length_s=0.2)
    with pytest.raises(MediaError) as raised:
        stage.prepare(task(path, 0.2, signals_record=None))
    assert raised.value.code == "no_first_look"
    gone = task(path, 0.2)
    path.unlink()
    with pytest.raises(MediaError):
        stage.prepare(gone)


# --- As a backend of the stage --------------------------------------------------------------------


def test_motion_hands_what_its_signals_say_to_raft(tmp_path: Path, load: Load) -> None:
    load()
    motion = MotionStage(MotionParameters(backend="raft_small"))
    assert motion.weights("raft_small") == ("raft-small",)
    path = pan(tmp_path / "pan.mp4", 100.0, size=(256, 256), length_s=1.0)
    _, observation, start_s, end_s = watch_file(motion, path)
    assert observation.signals.series["pairs"].sum() == 0
    record = summary(motion, observation, start_s, end_s)
    assert record == MotionRecord(None, None, None, None, 0.0, 0.0)
    look = motion.model_stage()
    assert isinstance(look, RaftStage) and look.backend == motion.backend and look.needs_model
    seen = look.measure(task(path, end_s, signals_record=record))
    assert isinstance(seen, MotionRecord) and seen.frozen_share == 0.0


def test_dis_has_no_model() -> None:
    motion = MotionStage(MotionParameters())
    assert motion.model_stage() is None
    assert motion.backend.name == "dis" and motion.weights("dis") == ()


def test_other_weights_are_another_backend(load: Load, weights_folder: Path) -> None:
    one, _ = load()
    save(weights_folder, "raft_small", filled(network("raft_small")))
    two = RaftStage(MotionParameters(backend="raft_small"))
    assert one.backend.weights_sha256 != two.backend.weights_sha256


def test_missing_and_wrong_weights_are_usage_errors(load: Load, weights_folder: Path) -> None:
    with pytest.raises(UsageError, match="twinreel weights fetch raft-large") as raised:
        MotionStage(MotionParameters(backend="raft_large"))
    assert raised.value.code == "missing_weights"
    load("raft_small")
    small, large = (
        weights_folder / CATALOGUE[w].files[0].name for w in ("raft-small", "raft-large")
    )
    small.rename(large)
    with pytest.raises(UsageError) as raised:
        MotionStage(MotionParameters(backend="raft_large")).model_stage().load("cpu")
    assert raised.value.code == "bad_weights"


# --- torchvision ----------------------------------------------------------------------------------

AFTER_A_FAILED_IMPORT = """
try:
    import torchvision
except RuntimeError:
    pass
"""
PROPER_BUILD = """
proper = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    proper.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.mark.parametrize(
    "before",
    [
        "",
        pytest.param(AFTER_A_FAILED_IMPORT, marks=pytest.mark.soak),
        pytest.param(PROPER_BUILD, marks=pytest.mark.soak),
    ],
)
def test_torchvision_can_be_imported_whatever_was_before(before: str) -> None:
    code = f"""
import torch
exec({before!r})
from stages.models.torchvision_guard import import_torchvision
assert import_torchvision() is import_torchvision()
import torchvision.models.optical_flow, torchvision.transforms
import open_clip
assert torch.ops.torchvision.nms.default
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_formats_without_a_size_are_media_errors() -> None:
    source: SourceFormat = dataclasses.replace(source_format(8, 8, 25.0), width=None, height=None)
    with pytest.raises(MediaError):
        network_size(source)
