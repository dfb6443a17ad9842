"""Codecs that are fitted to a run's samples: when that is done, and where the fit is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from manifests.errors import StorageError
from manifests.store.storage import open_storage
from training.codecs.codec import FittedAudioCodec, FittedVideoCodec
from training.data.encoders import Encoders
from training.data.geometry import Geometry, geometry_of
from training.data.media import read_media
from training.data.snapshot import Snapshot
from training.distributed import DistributedContext
from training.recipe import Recipe
from training.run import Start

FILE = "codecs.safetensors"
"""In the run's folder."""
CLIPS = 64
"""That codecs are fitted to, at most."""


def begin_fit(
    encoders: Encoders, recipe: Recipe, run: Path, start: Start, context: DistributedContext
) -> Encoders:
    """Fit a run's codecs before its first step; with a checkpoint, take over what was fitted then.

    One rank fits for all: that takes seconds, and another machine might round otherwise.

    Args:
        encoders: of the run, which are given back; their codecs are fitted in place.
        recipe: of the run.
        run: its folder, where the fit is kept.
        start: where it begins or goes on.
        context: of the ranks, which call this together.

    Raises:
        StorageError: `codecs_unreadable`, `run_not_writable` or what reading samples raises.
        MediaError: `sample_unreadable`.
    """
    if not (recipe.video.codec.is_fitted or recipe.audio.codec.is_fitted):
        return encoders
    if context.is_first:
        if start.checkpoint is not None:
            load_fit(encoders, run)
        else:
            _fit(encoders, start.snapshot, geometry_of(recipe))
            _write(run, encoders)
    state = context.broadcast(_state(encoders))
    assert isinstance(state, dict)
    _load(encoders, state)
    return encoders


def load_fit(encoders: Encoders, run: Path) -> Encoders:
    """Take over what the codecs of a run were fitted to be.

    Raises:
        StorageError: `codecs_unreadable`.
    """
    if not _fitted(encoders):
        return encoders
    path = run / FILE
    try:
        _load(encoders, safetensors.torch.load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StorageError(
            "codecs_unreadable",
            "What this run's codecs were fitted to is not there or cannot be read"
            f" ({str(error).splitlines()[0]}).",
            subject=str(path),
            remedy="Bring the file back: the checkpoints of this run go with no other.",
        ) from error
    return encoders


def _fitted(encoders: Encoders) -> dict[str, FittedVideoCodec | FittedAudioCodec]:
    """The codecs that are to be fitted, by modality."""
    both = {"video": encoders.video_codec, "audio": encoders.audio_codec}
    return {
        modality: codec
        for modality, codec in both.items()
        if isinstance(codec, FittedVideoCodec | FittedAudioCodec)
    }


def _fit(encoders: Encoders, snapshot: Snapshot, geometry: Geometry) -> None:
    """Fit to samples that are trained on; which, follows from their ids alone."""
    storage = open_storage(snapshot.out, create=False)
    # Their order is that of their ids, which are hashes: an even choice is a fair one.
    count = min(CLIPS, len(snapshot.train))
    chosen = [snapshot.train[index * len(snapshot.train) // count] for index in range(count)]
    media = [
        read_media(storage, one, geometry.shape_of(one), encoders.audio_rate_hz) for one in chosen
    ]
    clips = {
        "video": [one.frames for one in media if one.frames is not None],
        "audio": [one.waveform for one in media if one.waveform is not None],
    }
    for modality, codec in _fitted(encoders).items():
        if clips[modality]:
            codec.fit(clips[modality])


def _state(encoders: Encoders) -> dict[str, Tensor]:
    return {
        f"{modality}.{name}": tensor.cpu().contiguous()
        for modality, codec in _fitted(encoders).items()
        for name, tensor in codec.state_dict().items()
    }


def _load(encoders: Encoders, state: Mapping[str, Tensor]) -> None:
    for modality, codec in _fitted(encoders).items():
        prefix = f"{modality}."
        own = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
        codec.load_state_dict({name.removeprefix(prefix): own[name] for name in own})


def _write(run: Path, encoders: Encoders) -> None:
    """Whole or not at all."""
    path = run / FILE
    partial = path.with_name(f"{FILE}.partial")
    try:
        safetensors.torch.save_file(_state(encoders), partial)
        partial.rename(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            "run_not_writable",
            f"The run's folder cannot be written ({error}).",
            subject=str(path),
            remedy="Name a folder that may be written and has room.",
        ) from error
