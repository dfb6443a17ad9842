"""A tiny Whisper with made-up weights, as CTranslate2 lays it out: what a folder of the set holds.

It recognises nothing; a bias makes it write letters and end after some of them, so that what comes
after the network (tokens, words, times) runs as it does with real weights.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from ctranslate2.specs import WhisperSpec

from tests.conftest import SHARED

LAYERS, HEADS, WIDTH, MELS, INNER = 2, 2, 64, 128, 96
_ALPHABET = "abcdefghijklmnop"
LETTERS = [*(f"Ġ{letter}" for letter in _ALPHABET), *_ALPHABET, "Ġ", "-", "'"]
LANGUAGES = ["en", "de", "fr"]
TIMESTAMPS = 1501
"""0.00 to 30.00 s in steps of 20 ms."""
_EMPTY_WORD = ""
"""By having it in its vocabulary CTranslate2 tells a multilingual model from an English one."""


def write_whisper(folder: Path, hears: str | None = None) -> Path:
    """Write the set `whisper-large-v3` into a weights folder; its own folder is returned.

    Args:
        folder: of weights.
        hears: the one of `LANGUAGES` that a multilingual model leans to; None for a model that
            knows English alone.
    """
    target = folder / "whisper-large-v3"
    target.mkdir(parents=True)
    words = _vocabulary(multilingual=hears is not None)
    places = {word: index for index, word in enumerate(words)}
    tokenizer = _tokenizer(places)
    tokenizer.save(str(target / "tokenizer.json"))
    spec = WhisperSpec(LAYERS, HEADS, LAYERS, HEADS)
    _fill(spec, places, hears)
    spec.register_vocabulary(words)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [places["<|endoftext|>"]]
    spec.config.lang_ids = [places[f"<|{language}|>"] for language in LANGUAGES]
    spec.config.alignment_heads = [(0, 0), (1, 1)]
    spec.validate()
    spec.save(str(target))
    (target / "preprocessor_config.json").write_text(json.dumps({"feature_size": MELS}))
    return target


def _vocabulary(*, multilingual: bool) -> list[str]:
    special = [
        "<|endoftext|>", "<|startoftranscript|>", *(f"<|{language}|>" for language in LANGUAGES),
        "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
        "<|notimestamps|>",
    ]  # fmt: skip
    times = [f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS)]
    return [*LETTERS, *([_EMPTY_WORD] if multilingual else []), *special, *times]


def _tokenizer(places: dict[str, int]) -> tokenizers.Tokenizer:
    letters = {word: place for word, place in places.items() if not word.startswith("<|")}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(letters, [], unk_token="-"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([word for word in places if word.startswith("<|")])
    assert all(tokenizer.token_to_id(word) == place for word, place in places.items())
    return tokenizer


def _fill(spec: WhisperSpec, places: dict[str, int], hears: str | None) -> None:
    """Numbers from the names of the entries, in the shapes that the layers want."""
    source = importlib.util.spec_from_file_location("fill", SHARED / "golden" / "fill.py")
    assert source is not None and source.loader is not None
    fill = importlib.util.module_from_spec(source)
    source.loader.exec_module(fill)

    def value(name: str, *shape: int) -> np.ndarray[Any, Any]:
        return np.asarray(fill.value(name, shape).numpy(), np.float32)

    def linear(layer: Any, name: str, outputs: int, inputs: int) -> None:
        layer.weight = value(f"{name}.weight", outputs, inputs)
        layer.bias = value(f"{name}.bias", outputs)

    def norm(layer: Any, name: str) -> None:
        layer.gamma, layer.beta = value(f"{name}.weight", WIDTH), value(f"{name}.bias", WIDTH)

    def attention(layer: Any, name: str, *, across: bool) -> None:
        norm(layer.layer_norm, f"{name}.norm")
        widths = (WIDTH, 2 * WIDTH, WIDTH) if across else (3 * WIDTH, WIDTH)
        for index, width in enumerate(widths):
            linear(layer.linear[index], f"{name}.{index}", width, WIDTH)

    def forward(layer: Any, name: str) -> None:
        norm(layer.layer_norm, f"{name}.norm")
        linear(layer.linear_0, f"{name}.0", INNER, WIDTH)
        linear(layer.linear_1, f"{name}.1", WIDTH, INNER)

    vocabulary = len(places)
    encoder, decoder = spec.encoder, spec.decoder
    for index, (layer, inputs) in enumerate(((encoder.conv1, MELS), (encoder.conv2, WIDTH))):
        layer.weight = value(f"conv{index}.weight", WIDTH, inputs, 3)
        layer.bias = value(f"conv{index}.bias", WIDTH)
    encoder.position_encodings.encodings = value("encoder.positions", 1500, WIDTH)
    norm(encoder.layer_norm, "encoder.norm")
    for index, layer in enumerate(encoder.layer):
        attention(layer.self_attention, f"encoder.{index}.self", across=False)
        forward(layer.ffn, f"encoder.{index}.ffn")
    decoder.embeddings.weight = value("embeddings.weight", vocabulary, WIDTH)
    decoder.position_encodings.encodings = value("decoder.positions", 448, WIDTH)
    decoder.scale_embeddings = False
    norm(decoder.layer_norm, "decoder.norm")
    for index, layer in enumerate(decoder.layer):
        attention(layer.self_attention, f"decoder.{index}.self", across=False)
        attention(layer.attention, f"decoder.{index}.cross", across=True)
        forward(layer.ffn, f"decoder.{index}.ffn")
    decoder.projection.weight = 0.05 * value("projection.weight", vocabulary, WIDTH)
    bias = np.zeros(vocabulary, np.float32)
    bias[len(LETTERS) : places["<|endoftext|>"]] = -100.0  # the empty word
    bias[: len(LETTERS)] = 2.0
    for language in LANGUAGES:
        bias[places[f"<|{language}|>"]] = 0.0 if language == hears else -4.0
    bias[places["<|endoftext|>"]] = 1.5
    decoder.projection.bias = bias
