"""Batches for one rank: read ahead, checked, decoded, encoded, kept in memory."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from manifests.store.storage import open_storage
from training.data.encoders import Encoders
from training.data.latents import PARTS, Latents, Part
from training.data.media import read_media
from training.data.order import GlobalBatch, Position, Shape
from training.data.samples import KeptSample
from training.text.encoder import pad_text

_BYTES_OF_MB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a model is given of a sample.

    Attributes:
        video: latent [C, F, H, W]; None if it has none.
        audio: latent [L, C]; None if it has none.
        text: its caption's tokens [tokens, dim]; None if the model encodes captions itself.
    """

    video: Tensor | None
    audio: Tensor | None
    text: Tensor | None = None

    def nbytes(self) -> int:
        """Memory of all."""
        parts = (self.video, self.audio, self.text)
        return sum(part.nbytes for part in parts if part is not None)


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """What a rank holds at once, on its device.

    Attributes:
        video: latents [B, C, F, H, W], or None.
        audio: latents [B, L, C], or None.
        prompts: captions as they are now.
        sample_ids: of the samples.
        weights: [B]; 0 for one that another rank also has.
        text: captions encoded, [B, length, dim]; None if the model encodes them itself.
        empty_text: the empty caption encoded, [length, dim].
    """

    video: Tensor | None
    audio: Tensor | None
    prompts: tuple[str, ...]
    sample_ids: tuple[str, ...]
    weights: Tensor
    text: Tensor | None = None
    empty_text: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class RankBatch:
    """A rank's share of a step, and where the run is in its data after it."""

    whole: GlobalBatch
    after: Position
    micro_batches: tuple[MicroBatch, ...]


class SampleReader:
    """Reads samples as latents, and keeps them as far as memory is allowed.

    Args:
        out: where the shards lie.
        encoders: of their media and captions.
        latents: what was encoded before, if anything; the rest is encoded here.
        text_length: tokens that captions are padded to.
        cache_mb: memory for encoded samples.
    """

    def __init__(
        self,
        out: str,
        encoders: Encoders,
        *,
        latents: Latents | None = None,
        text_length: int = 0,
        cache_mb: int,
    ) -> None:
        self._storage = open_storage(out, create=False)
        self._latents = latents
        self._encoders = encoders
        self._text_length = text_length
        self._room = cache_mb * _BYTES_OF_MB
        self._cache: dict[tuple[str, Shape], Encoded] = {}
        self._lock = threading.Lock()

    def read(self, sample: KeptSample, shape: Shape) -> Encoded:
        """A sample's latents; may be called from several threads.

        Raises:
            StorageError: `storage_missing` or `sample_corrupt`.
            MediaError: `sample_unreadable`.
        """
        name = (sample.sample_id, shape)
        with self._lock:
            if name in self._cache:
                return self._cache[name]
        encoded = self._encode(sample, shape)
        with self._lock:
            if name not in self._cache and encoded.nbytes() <= self._room:
                # Nothing is thrown out: an epoch asks for each sample once, so that another sample
                # is needed just as soon as this one.
                self._cache[name] = encoded
                self._room -= encoded.nbytes()
        return encoded

    @functools.cached_property
    def empty_text(self) -> Tensor | None:
        """The empty caption encoded, [length, dim]; None if the model encodes captions itself."""
        if not self._encoders.has_text:
            return None
        text = None if self._latents is None else self._latents.read_empty_text()
        if text is None:
            (text,) = self._encoders.text([""])
        return pad_text(text, self._text_length)

    def _encode(self, sample: KeptSample, shape: Shape) -> Encoded:
        video, audio, text = (self._made_before(sample, shape, part) for part in PARTS)
        wanted = Shape(
            0 if video is not None else shape.frames,
            shape.height,
            shape.width,
            0 if audio is not None else shape.audio_samples,
        )
        if wanted.frames or wanted.audio_samples:
            media = read_media(self._storage, sample, wanted, self._encoders.audio_rate_hz)
            if media.frames is not None:
                video = self._encoders.video(media.frames[None])[0]
            if media.waveform is not None:
                audio = self._encoders.audio(media.waveform[None])[0]
        if text is None and self._encoders.has_text:
            (text,) = self._encoders.text([sample.caption or ""])
        return Encoded(video, audio, text)

    def _made_before(self, sample: KeptSample, shape: Shape, part: Part) -> Tensor | None:
        return None if self._latents is None else self._latents.read(sample, shape, part)


class Loader:
    """A rank's batches in order, the next ones read while one is trained on.

    Args:
        reader: of the samples.
        rank: of this process.
        ranks: how many there are.
        micro_batch: samples at once.
        threads: that read.
        ahead: batches that are read before they are asked for.
        device: where micro-batches go.
    """

    def __init__(
        self,
        reader: SampleReader,
        *,
        rank: int,
        ranks: int,
        micro_batch: int,
        threads: int,
        ahead: int,
        device: torch.device,
    ) -> None:
        self._reader = reader
        self._rank, self._ranks = rank, ranks
        self._micro_batch = micro_batch
        self._ahead = ahead
        self._device = device
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="twinreel-loader")

    def batches(self, order: Iterator[tuple[GlobalBatch, Position]]) -> Iterator[RankBatch]:
        """This rank's share of each batch of `order`.

        Raises:
            StorageError: `storage_missing` or `sample_corrupt`.
            MediaError: `sample_unreadable`.
        """
        pending: deque[tuple[GlobalBatch, Position, list[Future[Encoded]]]] = deque()
        try:
            while True:
                while len(pending) <= self._ahead and (following := next(order, None)) is not None:
                    whole, after = following
                    pending.append((whole, after, self._submit(whole)))
                if not pending:
                    return
                yield self._collect(*pending.popleft())
        finally:
            for _, _, futures in pending:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End the reading threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, whole: GlobalBatch) -> list[Future[Encoded]]:
        return [
            self._executor.submit(self._reader.read, sample, whole.shape)
            for sample, _ in whole.share(self._rank, self._ranks)
        ]

    def _collect(
        self, whole: GlobalBatch, after: Position, futures: Sequence[Future[Encoded]]
    ) -> RankBatch:
        share = whole.share(self._rank, self._ranks)
        encoded = [future.result() for future in futures]
        size = self._micro_batch
        return RankBatch(
            whole,
            after,
            tuple(
                collate(
                    share[start : start + size],
                    encoded[start : start + size],
                    self._device,
                    self._reader.empty_text,
                )
                for start in range(0, len(share), size)
            ),
        )


def collate(
    share: Sequence[tuple[KeptSample, float]],
    encoded: Sequence[Encoded],
    device: torch.device,
    empty_text: Tensor | None,
) -> MicroBatch:
    """Samples of one shape as a micro-batch on a device.

    Args:
        share: the samples and their weights.
        encoded: what they are to the model.
        device: where the micro-batch goes.
        empty_text: the empty caption encoded, [length, dim], where captions are.
    """

    def stacked(part: Callable[[Encoded], Tensor | None]) -> Tensor | None:
        latents = [latent for one in encoded if (latent := part(one)) is not None]
        return torch.stack(latents).to(device, non_blocking=True) if latents else None

    text = None
    if empty_text is not None:
        length = len(empty_text)
        text = stacked(lambda one: None if one.text is None else pad_text(one.text, length))
    return MicroBatch(
        stacked(lambda one: one.video),
        stacked(lambda one: one.audio),
        tuple(sample.caption or "" for sample, _ in share),
        tuple(sample.sample_id for sample, _ in share),
        torch.tensor([weight for _, weight in share], device=device),
        text,
        None if empty_text is None else empty_text.to(device, non_blocking=True),
    )
