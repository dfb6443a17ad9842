"""Encoding samples before training: a task's samples become sidecar shards, one for each part.

A sidecar shard is a tar of safetensors files, `<sample id>.<part>.safetensors` each, and a
caption's `<key>.text.safetensors`: stock WebDataset reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from manifests.errors import TwinreelError
from manifests.fingerprint import fingerprint
from manifests.store.records import ErrorRecord, LatentRow
from manifests.store.storage import Storage, open_storage
from stages.media.heartbeat import beat
from training.data.encoders import Encoders
from training.data.latents import FOLDER, LatentKeys, Part
from training.data.media import Media, read_media
from training.data.order import Shape
from training.data.samples import KeptSample
from training.recipe import Recipe

_BLOCK_BYTES = 512


@dataclasses.dataclass(frozen=True)
class LackingSample:
    """A sample some of whose parts are to be encoded."""

    sample: KeptSample
    shape: Shape
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class EncodingTask:
    """Samples that are encoded by one process, and whose parts share a shard.

    Attributes:
        out: a folder or `s3://` prefix.
        recipe: whose codecs and text encoder encode.
        keys: of the recipe.
        samples: what is encoded.
        batch: samples of one shape at once.
        empty_text: whether the empty caption is encoded too.
    """

    out: str
    recipe: Recipe
    keys: LatentKeys
    samples: tuple[LackingSample, ...]
    batch: int
    empty_text: bool = False

    def rows_of_failure(self, error: TwinreelError) -> list[LatentRow]:
        """The rows where nothing of it could be encoded."""
        return [row for one in self.samples for row in failed(self.keys, one, one.parts, error)]


@dataclasses.dataclass(frozen=True)
class _Made:
    """A part that is encoded, and its name in a shard."""

    key: str
    part: Part
    sample_id: str
    name: str
    tensor: Tensor


def encode_samples(task: EncodingTask) -> list[LatentRow]:
    """Encode samples and write their shards; a row a part.

    A sample that cannot be read has rows that say so, and the others go on.

    Raises:
        UsageError: `missing_package`, `missing_weights` or `bad_weights`.
        StorageError: OUT cannot be written.
        TwinreelError: what the codecs raise.
    """
    storage = open_storage(task.out)
    encoders = _encoders_of(task)
    made: list[_Made] = []
    rows: list[LatentRow] = []
    for batch in _batches(task):
        beat()
        there: list[tuple[LackingSample, Media]] = []
        for one in batch:
            try:
                there.append((one, _read(storage, one, encoders.audio_rate_hz)))
            except TwinreelError as error:
                media_parts = [part for part in one.parts if part != "text"]
                rows += failed(task.keys, one, media_parts, error)
        made += _encoded_media(task.keys, there, encoders)
    made += _encoded_texts(task, encoders)
    for part in sorted({one.part for one in made}):
        rows += _write_shard(storage, task.keys, [one for one in made if one.part == part])
    return rows


def failed(
    keys: LatentKeys, one: LackingSample, parts: Iterable[Part], error: TwinreelError
) -> list[LatentRow]:
    """The rows of parts of a sample that could not be encoded."""
    record = ErrorRecord(error.code, str(error), error.retryable)
    rows = []
    for part in parts:
        key = keys.key(one.sample, one.shape, part)
        assert key is not None
        rows.append(
            LatentRow(
                key, part, keys.encoders[part], one.sample.sample_id, None, None, None, None,
                "failed", record,
            )
        )  # fmt: skip
    return rows


_loaded: dict[str, Encoders] = {}
"""This process's encoders: loaded once, until a recipe or weights are others."""


def _encoders_of(task: EncodingTask) -> Encoders:
    name = fingerprint([task.recipe.to_yaml(), dict(task.keys.encoders)])
    if name not in _loaded:
        _loaded.clear()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _loaded[name] = Encoders.of(task.recipe, device)
    return _loaded[name]


def _batches(task: EncodingTask) -> Iterator[list[LackingSample]]:
    """Samples of one shape and with the same media lacking, so many at once."""

    def alike(one: LackingSample) -> tuple[Shape, bool, bool]:
        return one.shape, "video" in one.parts, "audio" in one.parts

    media = [one for one in task.samples if set(one.parts) - {"text"}]
    for _, group in itertools.groupby(sorted(media, key=alike), alike):
        members = list(group)
        for first in range(0, len(members), task.batch):
            yield members[first : first + task.batch]


def _read(storage: Storage, one: LackingSample, rate_hz: int) -> Media:
    shape = dataclasses.replace(
        one.shape,
        frames=one.shape.frames if "video" in one.parts else 0,
        audio_samples=one.shape.audio_samples if "audio" in one.parts else 0,
    )
    return read_media(storage, one.sample, shape, rate_hz)


def _encoded_media(
    keys: LatentKeys, there: Sequence[tuple[LackingSample, Media]], encoders: Encoders
) -> Iterator[_Made]:
    video = [(one, media.frames) for one, media in there if media.frames is not None]
    yield from _encoded(keys, "video", video, encoders.video)
    # Of one shape, and yet of other lengths by less than a latent.
    audio = sorted(
        ((one, media.waveform) for one, media in there if media.waveform is not None),
        key=lambda each: len(each[1]),
    )
    for _, alike in itertools.groupby(audio, key=lambda each: len(each[1])):
        yield from _encoded(keys, "audio", list(alike), encoders.audio)


def _encoded(
    keys: LatentKeys,
    part: Part,
    inputs: Sequence[tuple[LackingSample, Tensor]],
    encode: Callable[[Tensor], Tensor],
) -> Iterator[_Made]:
    if not inputs:
        return
    latents = encode(torch.stack([one for _, one in inputs]))
    for (one, _), latent in zip(inputs, latents, strict=True):
        key = keys.key(one.sample, one.shape, part)
        assert key is not None
        # Of its own: a view would be stored with the whole batch.
        yield _Made(key, part, one.sample.sample_id, one.sample.sample_id, latent.clone())


def _encoded_texts(task: EncodingTask, encoders: Encoders) -> Iterator[_Made]:
    captions = {
        one.sample.caption or "": one.sample.sample_id
        for one in task.samples
        if "text" in one.parts
    }
    if task.empty_text:
        captions.setdefault("", "")
    words = list(captions)
    for first in range(0, len(words), task.batch):
        beat()
        group = words[first : first + task.batch]
        for caption, text in zip(group, encoders.text(group), strict=True):
            key = task.keys.text_key(caption)
            assert key is not None
            yield _Made(key, "text", captions[caption], key, text.clone())


def _write_shard(storage: Storage, keys: LatentKeys, made: Sequence[_Made]) -> list[LatentRow]:
    """Write parts of one kind as a tar, which appears when it is whole."""
    from safetensors.torch import save  # noqa: PLC0415 - training without latents does without it

    part, ordered = made[0].part, sorted(made, key=lambda one: one.name)
    encoder = keys.encoders[part]
    name = fingerprint([one.key for one in ordered])
    path = f"{FOLDER}/{part}-{encoder}/{name}.tar"
    buffer = io.BytesIO()
    rows = []
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for one in ordered:
            data = save({part: one.tensor.contiguous()})
            member = tarfile.TarInfo(f"{one.name}.{part}.safetensors")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            start = archive.offset - -(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES
            digest = hashlib.sha256(data).hexdigest()
            rows.append(
                LatentRow(
                    one.key, part, encoder, one.sample_id, path, start, len(data), digest,
                    "ok", None,
                )
            )  # fmt: skip
    storage.write(path, buffer.getvalue())
    return rows
