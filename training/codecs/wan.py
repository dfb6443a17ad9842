"""Wan 2.2's video VAE. Planned with; its code and weights are not part of this version."""

from __future__ import annotations

from typing import Literal

from training.codecs.codec import VideoCodec, VideoCodecSettings, part_unavailable


class WanSettings(VideoCodecSettings):
    """Wan 2.2's video VAE: 48 channels, a latent for 4 frames of 16 x 16 pixels."""

    kind: Literal["wan-2.2"]

    @property
    def channels(self) -> int:
        """Of a latent."""
        return 48

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns a latent."""
        return 4, 16, 16

    def build(self) -> VideoCodec:
        """Not yet.

        Raises:
            UsageError: `part_unavailable`.
        """
        raise part_unavailable("video.codec", self.kind)
