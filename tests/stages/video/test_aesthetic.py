"""Aesthetic score: the real predictor, CLIP's image tower with made-up weights, clips of any shape.

CLIP's weights cannot be had: a tower of the same kind with fewer layers is filled with made-up
weights, saved as the file of the catalogue and loaded as the real one would be.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from curation.demo_bucket.render import VideoFormat, render_video
from curation.demo_bucket.scenes import textured_picture
from manifests.errors import MediaError, UsageError
from stages.base.clip import ClipTask, NotApplicable
from stages.media.probe import probe
from stages.models import aesthetic
from stages.models.torchvision_guard import import_torchvision
from stages.video.aesthetic import (
    AestheticParameters,
    AestheticRecord,
    AestheticStage,
    ClipFrames,
    clip_crop,
)
from stages.weights.catalogue import CATALOGUE
from stages.weights.find import WEIGHTS_VARIABLE
from tests.conftest import SHARED
from tests.support.made_up_weights import filled
from tests.support.watching import Rgb

SMALL = aesthetic.TowerLayout(
    image_px=224, patch_px=56, width=128, layers=2, heads=2, embedding=768
)
PREDICTOR = SHARED / "weights" / CATALOGUE["aesthetic-mlp"].files[0].name
TOWER_FILE = CATALOGUE["clip-vit-l-14"].files[0].name


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    """The whole of a small CLIP, text and all, as open_clip builds it from a configuration."""
    import_torchvision()
    from open_clip import CLIP, get_model_config

    configuration = get_model_config("ViT-L-14-quickgelu")
    assert configuration is not None
    vision = configuration["vision_cfg"] | {
        "layers": SMALL.layers,
        "width": SMALL.width,
        "patch_size": SMALL.patch_px,
        "head_width": SMALL.width // SMALL.heads,
    }
    text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
    return filled(CLIP(**(configuration | {"vision_cfg": vision, "text_cfg": text})))


@pytest.fixture()
def weights_folder(tmp_path: Path, clip: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(PREDICTOR, folder)
    save_file(clip.state_dict(), folder / TOWER_FILE)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    return folder


@pytest.fixture()
def stage(weights_folder: Path) -> AestheticStage:
    return AestheticStage(AestheticParameters())


def plain_scores(embeddings: torch.Tensor) -> torch.Tensor:
    """The predictor's file, evaluated by hand: [images]."""
    weights = torch.load(PREDICTOR, map_location="cpu", weights_only=True)
    for layer in (0, 2, 4, 6, 7):
        weight, bias = (weights[f"layers.{layer}.{part}"] for part in ("weight", "bias"))
        embeddings = embeddings @ weight.T + bias
    return embeddings[:, 0]


def pictures(seed: int) -> ClipFrames:
    return ClipFrames(
        np.stack([textured_picture(224, 224, seed=3 * seed + index) for index in range(3)])
    )


def task(path: Path, start_s: float, end_s: float, **changes: Any) -> ClipTask:
    return ClipTask(
        clip_id="clip",
        uri=str(path),
        source=probe(str(path)),
        start_s=start_s,
        end_s=end_s,
        side_rows={},
        **changes,
    )


def rendered(path: Path, scene: Callable[[float], Rgb], seconds: float, **video: Any) -> Path:
    times_s = [index / 25 for index in range(round(seconds * 25))]
    render_video(path, ((t, scene(t)) for t in times_s), video=VideoFormat(**video))
    return path


# --- The models -----------------------------------------------------------------------------------


def test_the_predictor_is_that_of_the_file_whatever_the_batch(stage: AestheticStage) -> None:
    model = stage.load("cpu")
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(12, 768), dim=-1)
    expected = plain_scores(embeddings)
    assert expected.std() > 0.01
    for chosen in ([*range(12)], [*range(11, -1, -1)], [7], [3, 9]):
        scores = model.scores(embeddings[chosen])
        assert scores == pytest.approx(expected[chosen].tolist(), abs=1e-4)


def test_embeddings_and_scores_are_those_of_open_clip(
    stage: AestheticStage, clip: torch.nn.Module
) -> None:
    from open_clip import image_transform
    from PIL import Image

    model = stage.load("cpu")
    batch = [pictures(seed) for seed in range(3)]
    transform = image_transform(224, is_train=False)
    seen = torch.stack([transform(Image.fromarray(p)) for c in batch for p in c.images])
    with torch.no_grad():
        expected = torch.cat([clip.encode_image(one[None], normalize=True) for one in seen])
    embeddings = model.embeddings(np.concatenate([c.images for c in batch]))
    assert float((embeddings - expected).abs().max()) < 1e-5
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2
    scores = plain_scores(expected).reshape(3, 3)
    for order in ([0, 1, 2], [2, 0, 1], [1]):
        records = stage.infer(model, [batch[i] for i in order])
        for index, record in zip(order, records, strict=True):
            assert isinstance(record, AestheticRecord)
            assert record.mean == pytest.approx(float(scores[index].mean()), abs=1e-4)
            assert record.min == pytest.approx(float(scores[index].min()), abs=1e-4)


def test_half_precision_differs_little(weights_folder: Path) -> None:
    # What runs on a GPU, on the CPU: autocast takes the same way through the tower.
    images = pictures(0).images
    paths = weights_folder / TOWER_FILE, weights_folder / PREDICTOR.name
    full, half = (
        aesthetic.AestheticModel(*paths, device="cpu", half=half).embeddings(images)
        for half in (False, True)
    )
    assert half.dtype == torch.float32
    assert 0 < float((full - half).abs().max()) < 2e-3


@pytest.mark.parametrize("size", [(640, 360), (360, 641), (224, 224), (100, 333), (853, 480)])
def test_the_crop_is_open_clips_own(size: tuple[int, int]) -> None:
    import_torchvision()
    from open_clip import image_transform
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, Resize

    image = textured_picture(*size, seed=1)
    steps = [
        step
        for step in image_transform(224, is_train=False).transforms
        if isinstance(step, Resize | CenterCrop)
    ]
    assert len(steps) == 2
    expected = np.asarray(Compose(steps)(Image.fromarray(image)))
    assert np.array_equal(clip_crop(image), expected)


# --- Clips ----------------------------------------------------------------------------------------


def test_pictures_are_taken_at_a_tenth_the_middle_and_nine_tenths(
    tmp_path: Path, stage: AestheticStage
) -> None:
    path = rendered(
        tmp_path / "brighter.mp4",
        lambda t: np.full((96, 128, 3), round(40 * t), np.uint8),
        5.0,
        options={"crf": "1"},
    )
    prepared = stage.prepare(task(path, 1.0, 5.0))
    assert isinstance(prepared, ClipFrames)
    assert prepared.images.shape == (3, 224, 224, 3)
    assert prepared.images.dtype == np.uint8
    means = prepared.images.mean(axis=(1, 2, 3))
    assert means == pytest.approx([40 * t for t in (1.4, 3.0, 4.6)], abs=2.5)


@pytest.mark.parametrize("rotation_deg", [0, 90, 180])
def test_margins_are_cut_off_first_and_pictures_stand_upright(
    tmp_path: Path, stage: AestheticStage, rotation_deg: int
) -> None:
    inner = textured_picture(320, 180, seed=4)
    shown = np.zeros((240, 320, 3), np.uint8)
    shown[20:200] = inner
    stored = np.ascontiguousarray(np.rot90(shown, -rotation_deg // 90))
    path = rendered(
        tmp_path / "boxed.mp4",
        lambda _: stored,
        0.4,
        rotation_deg=rotation_deg,
        options={"crf": "1"},
    )
    picture = {"margins_px": {"top": 20, "bottom": 40, "left": 0, "right": 0}}
    prepared = stage.prepare(task(path, 0.0, 0.4, structs={"picture": picture}))
    assert isinstance(prepared, ClipFrames)
    assert np.abs(prepared.images[1].astype(int) - clip_crop(inner)).mean() < 4
    boxed = stage.prepare(task(path, 0.0, 0.4, structs={"picture": {"margins_px": None}}))
    assert isinstance(boxed, ClipFrames)
    assert np.abs(boxed.images[1].astype(int) - clip_crop(inner)).mean() > 20


@pytest.mark.parametrize(
    "name",
    [
        "broken_no_timescale.mp4",
        "handheld_whip_pan_rot180_vfr.mp4",
        "odd_hevc_10bit_testsrc.mp4",
        "odd_interlaced_tff_mpeg2.mkv",
        "broken_bitstream_corrupted.mp4",
    ],
)
def test_real_sources_however_short(given_clips: Path, stage: AestheticStage, name: str) -> None:
    record = stage.measure(task(given_clips / name, 0.4, 0.6))
    assert isinstance(record, AestheticRecord)
    assert record.min <= record.mean


def test_no_pictures_are_not_applicable(given_clips: Path, stage: AestheticStage) -> None:
    sound = given_clips / "audio_speech_en_jfk.flac"
    assert isinstance(stage.prepare(task(sound, 0.0, 1.0)), NotApplicable)


def test_what_cannot_be_decoded_is_a_media_error(tmp_path: Path, stage: AestheticStage) -> None:
    path = rendered(tmp_path / "gone.mp4", lambda _: np.zeros((96, 96, 3), np.uint8), 0.2)
    gone = task(path, 0.0, 0.2)
    path.unlink()
    with pytest.raises(MediaError):
        stage.prepare(gone)
    path = rendered(tmp_path / "boxed.mp4", lambda _: np.zeros((96, 96, 3), np.uint8), 0.2)
    nothing = {"margins_px": {"top": 48, "bottom": 48, "left": 0, "right": 0}}
    with pytest.raises(MediaError):
        stage.prepare(task(path, 0.0, 0.2, structs={"picture": nothing}))


# --- Weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip-vit-l-14", "aesthetic-mlp"])
def test_missing_weights_are_named(weights_folder: Path, name: str) -> None:
    (weights_folder / CATALOGUE[name].files[0].name).unlink()
    with pytest.raises(UsageError, match=f"twinreel weights fetch {name}") as raised:
        AestheticStage(AestheticParameters())
    assert raised.value.code == "missing_weights"


def test_either_file_changes_the_backend(weights_folder: Path, clip: torch.nn.Module) -> None:
    before = AestheticStage(AestheticParameters()).backend
    weights = clip.state_dict()
    save_file({**weights, "logit_scale": weights["logit_scale"] + 1}, weights_folder / TOWER_FILE)
    after = AestheticStage(AestheticParameters()).backend
    assert before.name == after.name == "clip_mlp"
    assert before.weights_sha256 != after.weights_sha256


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weights: {name: t for name, t in weights.items() if "visual" not in name},
        lambda weights: {name: t for name, t in weights.items() if "resblocks.1.ln_1" not in name},
        lambda weights: weights | {"visual.proj": weights["visual.proj"][:, :512].clone()},
    ],
    ids=["no tower", "a layer without its norm", "embeddings that are too short"],
)
def test_a_file_that_holds_no_fitting_tower_is_a_usage_error(
    weights_folder: Path,
    clip: torch.nn.Module,
    spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    save_file(spoil(dict(clip.state_dict())), weights_folder / TOWER_FILE)
    stage = AestheticStage(AestheticParameters())
    with pytest.raises(UsageError) as raised:
        stage.load("cpu")
    assert raised.value.code == "bad_weights"
    assert TOWER_FILE in str(raised.value)


def test_the_layout_of_the_real_tower_is_read_off_its_tensors() -> None:
    import_torchvision()
    from open_clip import CLIP, get_model_config

    configuration = get_model_config("ViT-L-14-quickgelu")
    assert configuration is not None and configuration["quick_gelu"] is True
    with torch.device("meta"):
        visual = CLIP(**configuration).visual.state_dict()
    assert aesthetic.layout_of(visual) == aesthetic.TowerLayout(
        image_px=224, patch_px=14, width=1024, layers=24, heads=16, embedding=768
    )


def test_an_unknown_backend_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as raised:
        AestheticStage(AestheticParameters(backend="laion"))
    assert raised.value.code == "unknown_backend"
