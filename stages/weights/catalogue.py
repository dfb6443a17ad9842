"""Every set of learned weights that a stage can load: purpose, size, licence, publisher, source.

The names are those of `twinreel weights`. Sizes are of the files to download. A hash is given where
it has been published or where the bytes were at hand; where only the first digits are published
(torchvision puts eight into the file's name) those are checked. What comes without a whole hash is
written down beside the file, and checked against that from then on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import PurePosixPath
from typing import Literal

Commercial = Literal["yes", "no", "unclear"]

SHA256_DIGITS = 64
_FORMATS = {
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".bin": "ctranslate2",
    ".json": "json",
}
_PICKLE = "pickle, read with weights_only"


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

    @property
    def is_pinned(self) -> bool:
        """Whether the whole hash is known, so that the size is too."""
        return len(self.sha256) == SHA256_DIGITS

    @property
    def format(self) -> str:
        """How the file is read; by its suffix."""
        return _FORMATS.get(PurePosixPath(self.name).suffix, _PICKLE)


@dataclasses.dataclass(frozen=True)
class WeightSet:
    """Weights that belong together.

    One file lies directly in a weights folder; several lie in a folder of the set's name.
    `commercial` says whether the licence of the weights (not of the code) allows commercial use;
    `caution` what a lawyer should read first. The stages' backends declare which sets they load;
    `recipe_parts` are the parts of a training recipe that do, as `key:kind`.
    """

    name: str
    purpose: str
    licence: str
    commercial: Commercial
    files: tuple[WeightFile, ...]
    caution: str = ""
    recipe_parts: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether the files lie in a folder of their own."""
        return len(self.files) > 1

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def format(self) -> str:
        """How the largest file is read."""
        return max(self.files, key=lambda file: file.size_bytes).format

    @property
    def sha256(self) -> str:
        """What `stages.weights.find.sha256_of_set` gives; as much of it as is published."""
        if not self.is_folder:
            return self.files[0].sha256
        if not all(file.is_pinned for file in self.files):
            return ""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    def path(self, file: WeightFile) -> str:
        """A file's path in a weights folder or a mirror."""
        return f"{self.name}/{file.name}" if self.is_folder else file.name


_TORCHVISION = "https://download.pytorch.org/models"
_RESEARCH_DATA = "trained on {}, whose terms are for research; torchvision leaves it to the user"
_AESTHETIC = (
    "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
    "6934dd81792f086e613a121dbce43082cb8be85e"
)
# Sizes and hashes at these revisions of the hub are those that several public projects,
# independent of each other, pin for them; the large files' are also what the hub itself says.
_CLIP = "hf://timm/vit_large_patch14_clip_224.openai"
_CLIP_REVISION = "18d0535469bb561bf468d76c1d73aa35156c922b"
_WHISPER = "hf://Systran/faster-whisper-large-v3"
_WHISPER_REVISION = "edaa852ec7e145841d8ffdb056a99866b5f0a478"
_WAN = "hf://Wan-AI/Wan2.2-TI2V-5B"
_WAN_REVISION = "921dbaf3f1674a56f47e83fb80a34bac8a8f203e"
_MMAUDIO = "https://github.com/hkchengrex/MMAudio/releases/download/v0.1"
_AST = "hf://MIT/ast-finetuned-audioset-10-10-0.4593"
_AST_REVISION = "f826b80d28226b62986cc218e5cec390b1096902"


def _whisper(name: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(name, f"{_WHISPER}/{name}", size_bytes, sha256, _WHISPER_REVISION)


def _ast(name: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(name, f"{_AST}/{name}", size_bytes, sha256, _AST_REVISION)


CATALOGUE: dict[str, WeightSet] = {
    weights.name: weights
    for weights in (
        WeightSet(
            "yunet",
            "faces: small and turned ones, and where mouths are",
            "Apache-2.0",
            "yes",
            (
                # The publisher gives no hash: this is of the file as it was fetched.
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
            "BSD-3-Clause",
            "unclear",
            (
                # Eight digits in the name; size from torchvision's `_file_size` of 20.129 MiB.
                WeightFile(
                    "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
                    f"{_TORCHVISION}/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
                    21_107_000,
                    "ff5fadd5",
                ),
            ),
            _RESEARCH_DATA.format("FlyingChairs, FlyingThings3D, Sintel, KITTI and HD1K"),
        ),
        WeightSet(
            "raft-small",
            "motion: optical flow, five times cheaper",
            "BSD-3-Clause",
            "unclear",
            (
                # Eight digits in the name; size from torchvision's `_file_size` of 3.821 MiB.
                WeightFile(
                    "raft_small_C_T_V2-01064c6d.pth",
                    f"{_TORCHVISION}/raft_small_C_T_V2-01064c6d.pth",
                    4_007_000,
                    "01064c6d",
                ),
            ),
            _RESEARCH_DATA.format("FlyingChairs and FlyingThings3D"),
        ),
        WeightSet(
            "clip-vit-l-14",
            "aesthetic: image embeddings (OpenAI's CLIP, in open_clip's layout)",
            "MIT",
            "yes",
            (
                WeightFile(
                    "open_clip_vit_l_14_openai.safetensors",
                    f"{_CLIP}/open_clip_model.safetensors",
                    1_710_517_724,
                    "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
                    _CLIP_REVISION,
                ),
            ),
            "OpenAI's model card counts deployed use as out of scope",
        ),
        WeightSet(
            "aesthetic-mlp",
            "aesthetic: the predictor over CLIP's embeddings (sac+logos+ava1)",
            "Apache-2.0",
            "yes",
            (
                # Of the file as it was fetched; several public projects pin the same.
                WeightFile(
                    "sac+logos+ava1-l14-linearMSE.pth",
                    f"{_AESTHETIC}/sac%2Blogos%2Bava1-l14-linearMSE.pth",
                    3_714_759,
                    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
                ),
            ),
            "trained on ratings of photographs that belong to others (AVA)",
        ),
        WeightSet(
            "syncnet",
            "sync: offset and confidence as in the Ovi paper",
            "MIT",
            "unclear",
            (
                # The publisher gives no hash; public projects that fetched it here or from copies
                # on the hub (ByteDance/LatentSync) all pin this one.
                WeightFile(
                    "syncnet_v2.model",
                    "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
                    54_573_114,
                    "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
                ),
            ),
            "the licence is joonson/syncnet_python's, which does not name the model; trained on BBC"
            " television",
        ),
        WeightSet(
            "whisper-large-v3",
            "transcript: words with their times, language",
            "MIT",
            "yes",
            # All that faster_whisper.download_model takes from this repository.
            (
                _whisper(
                    "config.json",
                    2_394,
                    "a9306624f5ec14270a014b647e5c316b6e03a662c369758d1b90697a7b0655b9",
                ),
                _whisper(
                    "model.bin",
                    3_087_284_237,
                    "69f74147e3334731bc3a76048724833325d2ec74642fb52620eda87352e3d4f1",
                ),
                _whisper(
                    "preprocessor_config.json",
                    340,
                    "7ccc62c6f2765af1f3b46c00c9b5894426835a05021c8b9c01eecb6dfb542711",
                ),
                _whisper(
                    "tokenizer.json",
                    2_480_617,
                    "6d8cbd7cd0d8d5815e478dac67b85a26bbe77c1f5e0c6d76d1ce2abc0e5f21ca",
                ),
                _whisper(
                    "vocabulary.json",
                    1_068_114,
                    "c69260f2ab26d659b7c398f9a2b2b48ed0df16c3b47d7326782fd9cba71690c1",
                ),
            ),
        ),
        WeightSet(
            "ast-audioset",
            "audio_class: AudioSet's 527 classes, grouped into four",
            "BSD-3-Clause",
            "yes",
            (
                _ast(
                    "config.json",
                    26_763,
                    "a93d525511d77e8ecc933d09674b85099815bbbb417c228a4edd655e252fb9ff",
                ),
                _ast(
                    "model.safetensors",
                    346_404_948,
                    "ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d",
                ),
                _ast(
                    "preprocessor_config.json",
                    297,
                    "8d04ba5a9c6fca5d39d0de2b1fd05ecf79deb589fbba279728bbebac39934231",
                ),
            ),
        ),
        WeightSet(
            "wan-2.2-vae",
            "video latents as in Ovi and Wan 2.2 (TI2V-5B)",
            "Apache-2.0",
            "yes",
            (
                WeightFile(
                    "Wan2.2_VAE.pth",
                    f"{_WAN}/Wan2.2_VAE.pth",
                    2_818_839_170,
                    "20eb789667fa5e60e7516bf509512f6cb61f01b0aa0695eadaea930c13892b36",
                    _WAN_REVISION,
                ),
            ),
            recipe_parts=("video.codec:wan-2.2",),
        ),
        WeightSet(
            "mmaudio-vae-16k",
            "audio latents as in Ovi",
            "CC-BY-NC-4.0",
            "no",
            (
                # The publisher gives an MD5 alone; size of the tensors in it.
                WeightFile("v1-16.pth", f"{_MMAUDIO}/v1-16.pth", 654_800_000),
            ),
            "MMAudio's code is MIT, its weights are not; another codec may take its place",
            recipe_parts=("audio.codec:mmaudio-16k",),
        ),
        WeightSet(
            "mmaudio-bigvgan-16k",
            "audio latents as in Ovi: waveforms from spectrograms (from Make-An-Audio 2)",
            "CC-BY-NC-4.0",
            "no",
            (
                # The publisher gives an MD5 alone; size as the publisher has it, 429 MiB.
                WeightFile("best_netG.pt", f"{_MMAUDIO}/best_netG.pt", 450_000_000),
            ),
            "released with MMAudio's weights, and trained by others",
            recipe_parts=("audio.codec:mmaudio-16k",),
        ),
        WeightSet(
            "umt5-xxl",
            "text embeddings as in Ovi and Wan 2.2",
            "Apache-2.0",
            "yes",
            (
                WeightFile(
                    "models_t5_umt5-xxl-enc-bf16.pth",
                    f"{_WAN}/models_t5_umt5-xxl-enc-bf16.pth",
                    11_361_920_418,
                    "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
                    _WAN_REVISION,
                ),
                WeightFile(
                    "tokenizer.json",
                    f"{_WAN}/google/umt5-xxl/tokenizer.json",
                    16_837_417,
                    "6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b",
                    _WAN_REVISION,
                ),
            ),
            recipe_parts=("text:umt5-xxl",),
        ),
    )
}
