"""SyncNet v2: cepstra, features, distances."""

from __future__ import annotations

import numpy as np
import torch

from stages.models.mfcc import mfcc
from stages.models.syncnet import (
    Distances,
    SyncNet,
    distances,
    lip_features,
    voice_features,
    window_count,
)
from tests.golden.files import Checks, Golden, compare


def check(golden: Golden) -> Checks:
    """The model on its pictures and sound, and the statistics alone on given features."""
    if "in.frames_bgr" in golden.tensors:
        yield from _check_model(golden)
    if "features.in.lip" in golden.tensors:
        features = (golden.tensors[f"features.in.{name}"] for name in ("lip", "audio"))
        found = distances(*features, shifts=int(golden.metadata["features_vshift"]))
        yield from _check_distances(golden, "features.out", found)


def _check_model(golden: Golden) -> Checks:
    tensors = golden.tensors
    frames, samples = tensors["in.frames_bgr"].numpy(), tensors["in.audio"].numpy()
    cepstra = mfcc(samples)
    yield compare("mid.mfcc", torch.from_numpy(cepstra), tensors["mid.mfcc"])
    model = SyncNet()
    model.load_state_dict(golden.filled_state_dict(), strict=True)
    model.eval()
    windows = [window_count(len(frames), len(samples))]
    (lips,) = lip_features(model, [frames], windows)
    (voice,) = voice_features(model, [cepstra.astype(np.float32)], windows)
    yield compare("out.lip", lips, tensors["out.lip"])
    yield compare("out.audio", voice, tensors["out.audio"])
    found = distances(lips, voice, shifts=int(golden.metadata["vshift"]))
    yield from _check_distances(golden, "out", found)


def _check_distances(golden: Golden, prefix: str, found: Distances) -> Checks:
    names = [f"{prefix}.{name}" for name in ("mean_distance", "offset", "confidence")]
    mean, offset, confidence = (golden.tensors[name] for name in names)
    yield compare(names[0], torch.from_numpy(found.mean), mean)
    yield compare(names[1], torch.tensor(found.offset_frames).expand_as(offset), offset, exact=True)
    own = torch.tensor(found.confidence).expand_as(confidence)
    yield compare(names[2], own, confidence, absolute=1e-3)
