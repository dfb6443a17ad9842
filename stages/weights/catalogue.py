"""Every set of learned weights that a stage can load: what it is for, how large, whose, whence.

The names are those of `twinreel weights`. Sizes are of the files to download. A hash is given where
its publisher gives it or where the bytes were at hand; where only the first digits are published
(torchvision puts eight into the file's name) those are checked. A set without a hash is accepted
as it comes from its source, and what came is written down beside it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Commercial = Literal["yes", "no", "unclear"]


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """One file of a set.

    `name` is the file's name in a weights folder; `source` an `https://` address, or
    `hf://owner/repository/path` on the Hugging Face hub, at `revision` where one is pinned.
    `sha256` may be the first digits only. `size_bytes` is about right where `sha256` is not whole.
    """

    name: str
    source: str
    size_bytes: int
    sha256: str = ""
    revision: str | None = None


@dataclasses.dataclass(frozen=True)
class WeightSet:
    """Weights that belong together.

    One file lies directly in a weights folder; several lie in a folder of the set's name.
    `used_by` is a stage's backend as `stage:backend`. `commercial` says whether the licence of the
    weights (not of the code) allows commercial use.
    """

    name: str
    purpose: str
    used_by: tuple[str, ...]
    licence: str
    commercial: Commercial
    files: tuple[WeightFile, ...]

    @property
    def is_folder(self) -> bool:
        """Whether the files lie in a folder of their own."""
        return len(self.files) > 1

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


_TORCHVISION = "https://download.pytorch.org/models"
_WHISPER = "hf://Systran/faster-whisper-large-v3"
_AST = "hf://MIT/ast-finetuned-audioset-10-10-0.4593"

CATALOGUE: dict[str, WeightSet] = {
    weights.name: weights
    for weights in (
        WeightSet(
            "yunet",
            "faces: small and turned ones, and where mouths are",
            ("faces:yunet",),
            "Apache-2.0",
            "yes",
            (
                WeightFile(
                    "yunet_n_640_640.onnx",
                    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/"
                    "yunet_n_640_640.onnx",
                    317_466,
                    "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
                ),
            ),
        ),
        WeightSet(
            "raft-large",
            "motion: optical flow as the Ovi paper has it",
            ("motion:raft_large",),
            "BSD-3-Clause (trained on FlyingChairs, FlyingThings3D, Sintel, KITTI and HD1K, whose"
            " terms are for research)",
            "unclear",
            (
                WeightFile(
                    "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
                    f"{_TORCHVISION}/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
                    21_100_000,
                    "ff5fadd5",
                ),
            ),
        ),
        WeightSet(
            "raft-small",
            "motion: optical flow, five times cheaper",
            ("motion:raft_small",),
            "BSD-3-Clause (trained on FlyingChairs and FlyingThings3D, whose terms are for"
            " research)",
            "unclear",
            (
                WeightFile(
                    "raft_small_C_T_V2-01064c6d.pth",
                    f"{_TORCHVISION}/raft_small_C_T_V2-01064c6d.pth",
                    4_000_000,
                    "01064c6d",
                ),
            ),
        ),
        WeightSet(
            "clip-vit-l-14",
            "aesthetic: image embeddings (OpenAI's CLIP, in open_clip's layout)",
            ("aesthetic:clip_mlp",),
            "MIT",
            "yes",
            (
                WeightFile(
                    "open_clip_vit_l_14_openai.safetensors",
                    "hf://timm/vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
                    1_710_000_000,
                ),
            ),
        ),
        WeightSet(
            "aesthetic-mlp",
            "aesthetic: the predictor over CLIP's embeddings (sac+logos+ava1)",
            ("aesthetic:clip_mlp",),
            "Apache-2.0",
            "yes",
            (
                WeightFile(
                    "sac+logos+ava1-l14-linearMSE.pth",
                    "https://raw.githubusercontent.com/christophschuhmann/"
                    "improved-aesthetic-predictor/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
                    3_714_759,
                    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
                ),
            ),
        ),
        WeightSet(
            "syncnet",
            "sync: offset and confidence as in the Ovi paper",
            ("sync:syncnet",),
            "MIT (code and model of joonson/syncnet_python; trained on BBC television)",
            "unclear",
            (
                WeightFile(
                    "syncnet_v2.model",
                    "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
                    54_600_000,
                ),
            ),
        ),
        WeightSet(
            "whisper-large-v3",
            "transcript: words with their times, language",
            ("transcript:whisper_large_v3",),
            "MIT",
            "yes",
            (
                WeightFile("config.json", f"{_WHISPER}/config.json", 2_400),
                WeightFile("model.bin", f"{_WHISPER}/model.bin", 3_090_000_000),
                WeightFile(
                    "preprocessor_config.json", f"{_WHISPER}/preprocessor_config.json", 340
                ),
                WeightFile("tokenizer.json", f"{_WHISPER}/tokenizer.json", 2_480_000),
                WeightFile("vocabulary.json", f"{_WHISPER}/vocabulary.json", 1_070_000),
            ),
        ),
        WeightSet(
            "ast-audioset",
            "audio_class: AudioSet's 527 classes, grouped into four",
            ("audio_class:ast",),
            "BSD-3-Clause",
            "yes",
            (
                WeightFile("config.json", f"{_AST}/config.json", 26_800),
                WeightFile("model.safetensors", f"{_AST}/model.safetensors", 346_400_000),
                WeightFile("preprocessor_config.json", f"{_AST}/preprocessor_config.json", 300),
            ),
        ),
    )
}
