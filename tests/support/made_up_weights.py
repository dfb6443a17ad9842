"""A weights folder for whole jobs: real files where they are small enough, made-up ones else."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from stages.models.syncnet import SyncNet
from stages.models.torchvision_guard import import_torchvision
from stages.weights.catalogue import CATALOGUE
from tests.conftest import SHARED


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """The module with the weights that everybody makes up from its state dict's names."""
    spec = importlib.util.spec_from_file_location("fill", SHARED / "golden" / "fill.py")
    assert spec is not None and spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    module_in_place: torch.nn.Module = fill.fill(module)
    return module_in_place


def file_of(name: str) -> str:
    """The one file of a set."""
    return CATALOGUE[name].files[0].name


def write_real(folder: Path) -> None:
    """YuNet and the aesthetic predictor, as published."""
    for name in ("yunet", "aesthetic-mlp"):
        shutil.copy(SHARED / "weights" / file_of(name), folder)


def write_raft(folder: Path) -> None:
    """RAFT's small network, its updates damped: flow that explains nothing counts as a cut."""
    import_torchvision()
    from torchvision.models.optical_flow import raft_small

    network = filled(raft_small(weights=None))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "flow_head" in name:
                parameter.mul_(0.002)
    torch.save(network.state_dict(), folder / file_of("raft-small"))


def write_syncnet(folder: Path) -> None:
    """SyncNet, in the format that its publisher used."""
    state = filled(SyncNet()).state_dict()
    torch.save(state, folder / file_of("syncnet"), _use_new_zipfile_serialization=False)


def write_clip(folder: Path) -> None:
    """An image tower like CLIP's, with two thin layers."""
    import_torchvision()
    from open_clip import CLIP, get_model_config

    configuration = get_model_config("ViT-L-14-quickgelu")
    assert configuration is not None
    vision = configuration["vision_cfg"] | {"layers": 2, "width": 128, "patch_size": 56}
    text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
    clip = filled(CLIP(**(configuration | {"vision_cfg": vision, "text_cfg": text})))
    save_file(clip.state_dict(), folder / file_of("clip-vit-l-14"))


AST_LABELS = [
    "Speech", "Male speech, man speaking", "Singing", "Rapping", "Music", "Guitar", "Jazz",
    "Dog", "Rain", "Silence",
]  # fmt: skip


def write_ast(folder: Path, *, lacking: str | None = None) -> None:
    """An Audio Spectrogram Transformer of two thin layers; `lacking` leaves out one entry."""
    import_torchvision()
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    target = folder / "ast-audioset"
    configuration = ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(AST_LABELS)),
        label2id={label: index for index, label in enumerate(AST_LABELS)},
    )
    network = filled(ASTForAudioClassification(configuration))
    state = {name: tensor for name, tensor in network.state_dict().items() if name != lacking}
    network.save_pretrained(target, state_dict=state)
    ASTFeatureExtractor().save_pretrained(target)
