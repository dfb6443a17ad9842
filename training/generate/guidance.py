"""Classifier-free guidance: each modality with a strength and a negative prompt of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.generate.solver import Latents, Velocity
from training.models.generator import Generator
from training.objective.tasks import Modality
from training.recipe import SamplingSettings
from training.text.encoder import TextEncoder


def guided(
    generator: Generator,
    text_encoder: TextEncoder,
    settings: SamplingSettings,
    prompt: str,
    modalities: tuple[Modality, ...],
    given: Mapping[str, Tensor | None],
) -> Velocity:
    """Velocities away from what the negative prompts describe and towards what the prompt does.

    For each modality: unwanted + strength * (wanted - unwanted), where `unwanted` is a pass with
    the negative prompts that leaves out `settings.skip_block`. Prompts are encoded once.

    Args:
        generator: the model.
        text_encoder: of the prompts: the generator's own, or a frozen one.
        settings: strengths, negative prompts and the block to leave out.
        prompt: what is wanted.
        modalities: of the latents, in order.
        given: further arguments of the model, for one sample.
    """
    text = text_encoder([prompt])
    against_video = text_encoder([settings.video_negative])
    against_audio = text_encoder([settings.audio_negative])
    skipped = () if settings.skip_block is None else (settings.skip_block,)
    strengths = {"video": settings.video_guidance, "audio": settings.audio_guidance}

    def velocities(
        latents: Latents, sigma: float, video_text: Tensor, audio_text: Tensor, **how: object
    ) -> Latents:
        """One pass, of as many samples as there are texts."""
        count = len(video_text)
        sides = {
            side: latent.expand(count, *latent.shape[1:])
            for side, latent in zip(modalities, latents, strict=True)
        }
        masks = {
            name: None if mask is None else mask.expand(count, -1) for name, mask in given.items()
        }
        level = torch.full((count,), sigma, device=latents[0].device)
        found = generator(
            sides.get("video"), sides.get("audio"), level, video_text, audio_prompts=audio_text,
            **masks, **how,
        )  # fmt: skip
        return tuple(velocity for velocity in found if velocity is not None)

    def velocity_of(latents: Latents, sigma: float) -> Latents:
        """Both passes, or the one that is needed."""
        if all(strengths[side] == 1.0 for side in modalities):
            return velocities(latents, sigma, text, text)
        if skipped:
            wanted = velocities(latents, sigma, text, text)
            unwanted = velocities(latents, sigma, against_video, against_audio, skip_blocks=skipped)
        else:
            # Every block runs for both: one batch costs a small model less than two passes.
            both = velocities(
                latents, sigma, torch.cat((text, against_video)), torch.cat((text, against_audio))
            )
            wanted, unwanted = (tuple(one[i : i + 1] for one in both) for i in range(2))
        return tuple(
            against + strengths[side] * (towards - against)
            for side, towards, against in zip(modalities, wanted, unwanted, strict=True)
        )

    return velocity_of
