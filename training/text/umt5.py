"""umT5-XXL through transformers: Ovi's and Wan's text encoder.

Chung et al., "UniMax: Fairer and More Effective Language Sampling" (2023).
"""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.models.torchvision_guard import import_torchvision
from stages.weights.catalogue import CATALOGUE
from stages.weights.load import bad_weights, load_into, load_state_dict
from training.parts import missing_package
from training.text.encoder import FrozenTextEncoder, TextEncoderSettings

_WEIGHTS = "umt5-xxl"
_CONFIGURATION, _TOKENIZER = "config.json", "tokenizer.json"


class Umt5Settings(TextEncoderSettings):
    """umT5-XXL: tokens of width 4096, and the mark of the end. Frozen."""

    kind: Literal["umt5-xxl"]
    dim: int = Field(4096, ge=1, description="width of a token")
    length: int = Field(512, ge=1, description="tokens")
    file: str | None = Field(
        None,
        description="weights in the place of the released ones: a folder of transformers' with"
        " config.json, safetensors and tokenizer.json",
    )
    is_frozen: ClassVar[bool] = True
    weights: ClassVar[tuple[str, ...]] = (_WEIGHTS,)

    @property
    def own_weights(self) -> tuple[Path, ...]:
        """Tokenizer, configuration and weights in the folder that takes the released ones' place.

        Raises:
            UsageError: `bad_weights`.
        """
        if self.file is None:
            return ()
        folder = Path(self.file).expanduser()
        tensors = sorted(folder.glob("*.safetensors"))
        for name in (_TOKENIZER, _CONFIGURATION):
            if not tensors or not (folder / name).is_file():
                raise bad_weights(folder, f"It must hold {name} and safetensors.")
        return (folder / _TOKENIZER, folder / _CONFIGURATION, *tensors)

    def build(self) -> Umt5:
        """The encoder, with its weights, in their precision.

        Raises:
            UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        """
        if importlib.util.find_spec("transformers") is None:
            raise missing_package("transformers", needed_by=self.needed_by)
        if self.own_weights:
            folder = self.own_weights[0].parent
            network = _load_folder(folder)
        else:
            (folder,) = self.weight_paths()
            network = _load_original(folder / CATALOGUE[_WEIGHTS].files[0].name)
        width = network.config.d_model
        if width != self.dim:
            raise bad_weights(folder, f"Its tokens have width {width} instead of {self.dim}.")
        return Umt5(network, folder / _TOKENIZER, length=self.length)


class Umt5(FrozenTextEncoder):
    """Prompts as the last states of their tokens.

    Args:
        network: transformers' UMT5EncoderModel.
        tokenizer: file of the tokenizer.
        length: tokens; what a prompt has beyond them is cut, its last token marks the end.
    """

    def __init__(self, network: Any, tokenizer: Path, *, length: int) -> None:  # noqa: ANN401
        super().__init__()
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with transformers

        self.network = network
        self.dim, self.length = network.config.d_model, length
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(length)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Each prompt's tokens [tokens, dim] and the mark of its end; the empty one has just that.

        In the weights' precision.
        """
        encodings = self.tokenizer.encode_batch([clean(prompt) for prompt in prompts])
        longest = max(len(one.ids) for one in encodings)
        tokens = torch.zeros(len(encodings), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, one in enumerate(encodings):
            tokens[row, : len(one.ids)] = torch.tensor(one.ids)
            mask[row, : len(one.ids)] = 1
        device = self.network.device
        states = self.network(input_ids=tokens.to(device), attention_mask=mask.to(device))[0]
        return [state[: len(one.ids)] for state, one in zip(states, encodings, strict=True)]


def clean(prompt: str) -> str:
    """A prompt as Wan's tokenizer sees it: HTML's names resolved, white space single.

    Wan also repairs wrongly decoded text, which captions here are not.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def _load_folder(folder: Path) -> Any:  # noqa: ANN401 - transformers' classes have no types
    _prepare()
    from transformers import UMT5EncoderModel  # noqa: PLC0415 - slow to import

    network: Any
    try:
        network = UMT5EncoderModel.from_pretrained(folder, local_files_only=True, dtype="auto")
    except (OSError, ValueError, RuntimeError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad_weights(folder, f"It cannot be read ({message}).") from error
    return network.eval().requires_grad_(False)


def _load_original(path: Path) -> Any:  # noqa: ANN401 - transformers' classes have no types
    """The encoder out of Wan's own file, of the sizes that its tensors have."""
    _prepare()
    from transformers import UMT5Config, UMT5EncoderModel  # noqa: PLC0415 - slow to import

    weights = {_transformers_name(name): one for name, one in load_state_dict(path).items()}
    first = "encoder.block.0.layer.0.SelfAttention"
    try:
        words, width = weights["shared.weight"].shape
        buckets, heads = weights[f"{first}.relative_attention_bias.weight"].shape
        inner = weights[f"{first}.q.weight"].shape[0]
        hidden = weights["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0]
    except KeyError as error:
        raise bad_weights(path, f"It lacks {error}.") from error
    configuration = UMT5Config(
        vocab_size=words,
        d_model=width,
        d_kv=inner // heads,
        d_ff=hidden,
        num_layers=_layer_count(weights),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        network = UMT5EncoderModel(configuration)
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    load_into(network, weights, path, assign=True)
    return network


def _prepare() -> None:
    # transformers imports it where it is installed.
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()


def _layer_count(weights: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in weights if name.startswith("encoder.block.")})


_NAMES = {
    "token_embedding": "shared",
    "norm": "encoder.final_layer_norm",
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
"""Wan's names (Wan2.2's `wan/modules/t5.py`), of the encoder and within a block."""


def _transformers_name(original: str) -> str:
    """transformers' name of a tensor of `models_t5_umt5-xxl-enc-bf16.pth`."""
    name = original.removesuffix(".weight")
    within = ""
    if name.startswith("blocks."):
        _, index, name = name.split(".", 2)
        within = f"encoder.block.{index}."
    return f"{within}{_NAMES.get(name, name)}.weight"
