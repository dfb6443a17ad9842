"""Codecs between media and latents, behind one interface."""

from training.codecs.codec import AudioCodec, VideoCodec
from training.codecs.log_mel import LogMel
from training.codecs.pixels import PixelPatches

__all__ = ["AudioCodec", "LogMel", "PixelPatches", "VideoCodec"]
