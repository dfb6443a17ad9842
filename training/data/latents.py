"""What was encoded before training: which latents there are, and their bytes.

A latent is known by a key of all that it depends on. A recipe therefore finds what its own codecs
have made of the samples as they are now, and nothing else, whoever made it and when.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.dataset import dataset as parquet
from torch import Tensor

from manifests.errors import StorageError
from manifests.fingerprint import fingerprint
from manifests.store.storage import open_storage
from manifests.store.store import Store
from training.data.order import SampleShapes, Shape
from training.data.sample_table import SampleTable
from training.data.samples import KeptSample
from training.parts import PartSettings
from training.recipe import Recipe

Part = Literal["video", "audio", "text"]
PARTS: tuple[Part, ...] = get_args(Part)
FOLDER = "latents"
"""Below OUT, beside the samples' shards."""


@dataclasses.dataclass(frozen=True)
class LatentKeys:
    """Names what a recipe's codecs and frozen text encoder make of samples.

    Attributes:
        encoders: fingerprint of each part's encoder; a part has none whose encoder is trained with
            the model or fitted by a run.
    """

    encoders: Mapping[Part, str]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        splits: Iterable[SampleTable],
        shape_of: Callable[[KeptSample], Shape],
    ) -> LatentKeys:
        """Those of a recipe, as far as the samples have such parts. Reads the weights.

        Args:
            recipe: whose codecs and frozen text encoder.
            splits: samples.
            shape_of: the shape that one is brought to.

        Raises:
            UsageError: `missing_weights` or `bad_weights`.
        """
        found = {shape for samples in splits for shape in SampleShapes.of(samples, shape_of).shapes}
        settings: dict[Part, PartSettings] = {}
        if any(shape.frames for shape in found):
            settings["video"] = recipe.video.codec
        if any(shape.audio_samples for shape in found):
            settings["audio"] = recipe.audio.codec
        if found and recipe.text.is_frozen:
            settings["text"] = recipe.text
        before = {part: one for part, one in settings.items() if not one.is_fitted}
        return cls({part: one.fingerprint() for part, one in before.items()})

    def key(self, sample: KeptSample, shape: Shape, part: Part) -> str | None:
        """The key of a part of a sample; None if it has no such part to be encoded."""
        if part == "text":
            return self.text_key(sample.caption or "")
        if part not in self.encoders:
            return None
        if part == "video":
            content = [shape.frames, shape.height, shape.width] if shape.frames else None
        else:
            content = [shape.audio_samples] if shape.audio_samples else None
        if content is None:
            return None
        return fingerprint([part, self.encoders[part], sample.sha256, content])

    def text_key(self, caption: str) -> str | None:
        """The key of a caption; None if the model encodes captions itself."""
        if "text" not in self.encoders:
            return None
        return fingerprint(["text", self.encoders["text"], caption])


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a latent's bytes lie: a part of a tar below OUT."""

    shard: str
    offset_bytes: int
    bytes: int
    sha256: str


_PLACES = pa.schema(
    [
        ("number", pa.uint64()),
        ("shard", pa.string()),
        ("offset_bytes", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
"""Places by the number that a key's digits are."""
# The newest row of a key; what failed once may have been mended.
_FIND = """
SELECT ('0x' || key)::UBIGINT AS number, shard, offset_bytes, bytes, sha256
FROM (SELECT DISTINCT ON (key) * FROM latents
      JOIN shards ON path = shard AND size >= offset_bytes + bytes
      WHERE status = 'ok' AND list_contains($encoders, encoder) ORDER BY key, commit DESC)
ORDER BY number
"""
_ROWS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Latents:
    """The latents that a recipe finds in one OUT.

    Attributes:
        out: a folder or `s3://` prefix.
        keys: of the recipe.
        places: sorted by number.
        file: where the places are mapped from, if they are; other ranks are sent its name alone.
    """

    out: str
    keys: LatentKeys
    places: pa.Table
    file: Path | None = None

    @classmethod
    def find(cls, out: str, keys: LatentKeys, file: Path | None = None) -> Latents:
        """What OUT has of a recipe's latents.

        Shards that are not there any more count as never written.

        Args:
            out: a folder or `s3://` prefix.
            keys: of the recipe.
            file: is written, and mapped; without it the places are held in memory.

        Raises:
            StorageError: OUT cannot be read.
        """
        store = Store(out)
        entries = list(store.storage.list(FOLDER))
        shards = pa.table(
            {
                "path": pa.array([entry.path for entry in entries], pa.string()),
                "size": pa.array([entry.size for entry in entries], pa.int64()),
            }
        )
        files = store.mirror(store.all_live_files()["latents"])
        if not files:
            return cls(out, keys, _PLACES.empty_table())
        with duckdb.connect() as connection:
            connection.register("shards", shards)
            connection.register("latents", parquet(list(map(str, files))))
            encoders = {"encoders": sorted(keys.encoders.values())}
            found = connection.sql(_FIND, params=encoders).to_arrow_reader(_ROWS_AT_ONCE)
            batches = (batch.cast(_PLACES) for batch in found)
            if file is None:
                return cls(out, keys, pa.Table.from_batches(batches, _PLACES))
            partial = file.with_name(file.name + ".partial")
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _PLACES) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        partial.replace(file)
        return _mapped(out, keys, file)

    @staticmethod
    def are_there(out: str) -> bool:
        """Whether anybody has encoded anything in OUT.

        Raises:
            StorageError: OUT cannot be read.
        """
        return bool(Store(out).live_files("latents"))

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is not None:
            return _mapped, (self.out, self.keys, self.file)
        return Latents, (self.out, self.keys, self.places)

    def read(self, sample: KeptSample, shape: Shape, part: Part) -> Tensor | None:
        """A part of a sample, or None if it is not there.

        Raises:
            StorageError: `storage_missing` or `latent_corrupt`.
        """
        return self._read(self.keys.key(sample, shape, part))

    def read_empty_text(self) -> Tensor | None:
        """What the text encoder makes of the empty caption, or None if it is not there.

        Raises:
            StorageError: `storage_missing` or `latent_corrupt`.
        """
        return self._read(self.keys.text_key(""))

    def _read(self, key: str | None) -> Tensor | None:
        from safetensors.torch import load  # noqa: PLC0415 - runs without latents do without it

        place = None if key is None else self._place(key)
        if place is None:
            return None
        storage = _storage(self.out)
        data = storage.read_range(place.shard, place.offset_bytes, place.bytes)
        if hashlib.sha256(data).hexdigest() != place.sha256:
            raise StorageError(
                "latent_corrupt",
                "It does not hold the bytes that were encoded.",
                subject=storage.url(place.shard),
                remedy="Delete it, and run `twinreel encode` again.",
            )
        (tensor,) = load(data).values()
        return tensor

    def _place(self, key: str) -> Place | None:
        number = np.uint64(int(key, 16))
        chunk = int(np.searchsorted(self._firsts, number, "right")) - 1
        if chunk < 0:
            return None
        numbers = self._numbers[chunk]
        index = int(np.searchsorted(numbers, number))
        if index == len(numbers) or numbers[index] != number:
            return None
        at = sum(len(one) for one in self._numbers[:chunk]) + index
        row = self.places.slice(at, 1).drop_columns(["number"]).to_pylist()[0]
        return Place(**row)

    @functools.cached_property
    def _numbers(self) -> list[npt.NDArray[np.uint64]]:
        chunks = self.places["number"].chunks
        return [chunk.to_numpy(zero_copy_only=True) for chunk in chunks if len(chunk)]

    @functools.cached_property
    def _firsts(self) -> npt.NDArray[np.uint64]:
        return np.array([numbers[0] for numbers in self._numbers], np.uint64)


def _mapped(out: str, keys: LatentKeys, file: Path) -> Latents:
    places = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    return Latents(out, keys, places, file)


_storage = functools.lru_cache(maxsize=8)(functools.partial(open_storage, create=False))
