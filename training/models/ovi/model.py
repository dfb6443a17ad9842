"""Ovi's joint generator (arXiv 2510.01284): two equal towers, fused block by block.

Module names and shapes are those of the released checkpoint, so that it loads as it is. Symbols in
shapes: B samples, C latent channels, F x H x W the video latent, L audio tokens, T text tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from training.models.family import JointModel
from training.models.ovi.block import Block, Stream
from training.models.ovi.configuration import TowerConfiguration
from training.models.ovi.tower import AudioTower, VideoTower


class OviModel(JointModel):
    """Both towers. Either may be left out of a pass: then the other is an ordinary generator."""

    def __init__(self, video: TowerConfiguration, audio: TowerConfiguration) -> None:
        super().__init__()
        if (video.dim, video.heads, video.layers) != (audio.dim, audio.heads, audio.layers):
            raise ValueError("both towers need equal dim, heads and layers to be fused")
        self.video_model = VideoTower(video)
        self.audio_model = AudioTower(audio)

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        timestep: Tensor,
        text: Tensor,
        *,
        video_given: Tensor | None = None,
        audio_given: Tensor | None = None,
        audio_timestep: Tensor | None = None,
        audio_text: Tensor | None = None,
        skip_blocks: Collection[int] = (),
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities of both towers, or of one where the other is left out: see `JointModel`.

        Raises:
            ValueError: a latent has another shape than expected.
        """
        audio_timestep = timestep if audio_timestep is None else audio_timestep
        audio_text = text if audio_text is None else audio_text
        v, a = None, None
        if video is not None:
            v, video_time = self.video_model.enter(video, timestep, text, video_given)
        if audio is not None:
            a, audio_time = self.audio_model.enter(audio, audio_timestep, audio_text, audio_given)
        for index in range(len(self.video_model.blocks)):
            if index not in skip_blocks:
                v, a = self._block(index, v, a)
        return (
            None
            if v is None or video is None
            else self.video_model.leave(v.tokens, video_time, video_given, video.shape),
            None if a is None else self.audio_model.leave(a.tokens, audio_time, audio_given),
        )

    def _block(
        self, index: int, v: Stream | None, a: Stream | None
    ) -> tuple[Stream | None, Stream | None]:
        """One fusion block: each tower attends within, then to the other's state from before."""
        blocks = (self.video_model.blocks[index], self.audio_model.blocks[index])
        modulations: list[Any] = [None, None]
        within: list[Stream | None] = [None, None]
        for side, (block, stream) in enumerate(zip(blocks, (v, a), strict=True)):
            assert isinstance(block, Block)
            if stream is not None:
                modulations[side] = stream.modulation(block)
                within[side] = stream.at(block.within(stream, modulations[side]))
        across: list[Stream | None] = [None, None]
        for side, (block, stream) in enumerate(zip(blocks, within, strict=True)):
            assert isinstance(block, Block)
            if stream is not None:
                other = within[1 - side]
                across[side] = stream.at(block.across(stream, modulations[side], other))
        return across[0], across[1]
