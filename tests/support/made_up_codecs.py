"""Weights of codecs and text encoders, made up and small, in the files of the released ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from stages.models.torchvision_guard import import_torchvision
from tests.support.made_up_weights import file_of, filled
from training.codecs.bigvgan import BigVgan, BigVganSize
from training.codecs.spectrogram_vae import SpectrogramVae, SpectrogramVaeSize


def write_mmaudio(folder: Path) -> None:
    """MMAudio's VAE and vocoder, with few channels."""
    folder.mkdir(parents=True, exist_ok=True)
    vae = filled(SpectrogramVae(SpectrogramVaeSize(hidden=8)))
    torch.save(vae.state_dict(), folder / file_of("mmaudio-vae-16k"))
    vocoder = filled(BigVgan(BigVganSize(width=64)))
    torch.save({"generator": vocoder.state_dict()}, folder / file_of("mmaudio-bigvgan-16k"))


def small_wan() -> torch.nn.Module:
    """Wan 2.2's VAE with few channels, as diffusers builds it."""
    import_torchvision()
    from diffusers import AutoencoderKLWan

    return filled(
        AutoencoderKLWan(
            base_dim=4,
            decoder_base_dim=8,
            z_dim=48,
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        )
    )


def original_wan_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by the names of `Wan2.2_VAE.pth` (Wan2.2's `wan/modules/vae2_2.py`)."""
    original = {}
    for name, tensor in weights.items():
        tower, _, rest = name.partition(".")
        parts = rest.split(".")
        if tower in ("quant_conv", "post_quant_conv"):
            original[("conv1." if tower == "quant_conv" else "conv2.") + rest] = tensor
            continue
        match parts:
            case ["conv_in", last]:
                own = f"conv1.{last}"
            case ["norm_out", last]:
                own = f"head.0.{last}"
            case ["conv_out", last]:
                own = f"head.2.{last}"
            case ["mid_block", "attentions", "0", *tail]:
                own = ".".join(["middle", "1", *tail])
            case ["mid_block", "resnets", index, layer, last]:
                own = f"middle.{2 * int(index)}.residual.{_PLACES[layer]}.{last}"
            case [blocks, index, "resnets", unit, "conv_shortcut", last]:
                group = blocks.replace("_blocks", "samples")
                own = f"{group}.{index}.{group}.{unit}.shortcut.{last}"
            case [blocks, index, "resnets", unit, layer, last]:
                group = blocks.replace("_blocks", "samples")
                own = f"{group}.{index}.{group}.{unit}.residual.{_PLACES[layer]}.{last}"
            case [blocks, index, "downsampler" | "upsampler", *tail]:
                group = blocks.replace("_blocks", "samples")
                # The resampling follows two residual blocks on the way down, three on the way up.
                unit = "2" if blocks == "down_blocks" else "3"
                own = ".".join([group, index, group, unit, *tail])
        original[f"{tower}.{own}"] = tensor
    return original


_PLACES = {"norm1": 0, "conv1": 2, "norm2": 3, "conv2": 6}


def write_wan(folder: Path) -> None:
    """Wan 2.2's VAE, with few channels, in the original's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = original_wan_names(small_wan().state_dict())
    torch.save(weights, folder / file_of("wan-2.2-vae"))


UMT5_WIDTH = 16


def small_umt5() -> torch.nn.Module:
    """umT5's encoder with two thin layers, as transformers builds it."""
    import_torchvision()
    from transformers import UMT5Config, UMT5EncoderModel

    configuration = UMT5Config(
        vocab_size=300, d_model=UMT5_WIDTH, d_kv=4, d_ff=24, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    network: torch.nn.Module = UMT5EncoderModel(configuration)
    return filled(network)


def original_umt5_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by the names of `models_t5_umt5-xxl-enc-bf16.pth` (Wan2.2's `t5.py`)."""
    within = {
        "SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "DenseReluDense.wi_0": "ffn.gate.0",
        "DenseReluDense.wi_1": "ffn.fc1",
        "DenseReluDense.wo": "ffn.fc2",
    }
    original = {"token_embedding.weight": weights["shared.weight"]}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[:2] == ["encoder", "block"]:
            block, layer, rest = parts[2], parts[4], ".".join(parts[5:-1])
            if rest == "layer_norm":
                own = f"norm{int(layer) + 1}"
            else:
                own = within.get(rest, rest.replace("SelfAttention", "attn"))
            original[f"blocks.{block}.{own}.weight"] = tensor
        elif "final_layer_norm" in name:
            original["norm.weight"] = tensor
    return original


def write_tokenizer(path: Path) -> None:
    """A tokenizer of single letters, whose texts end with token 1, as umT5's do."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    letters = {chr(code): code - 20 for code in range(32, 127)}
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **letters}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def write_umt5(folder: Path) -> None:
    """umT5-XXL with few channels, in the original's layout."""
    own = folder / "umt5-xxl"
    write_tokenizer(own / "tokenizer.json")
    torch.save(original_umt5_names(small_umt5().state_dict()), own / file_of("umt5-xxl"))
