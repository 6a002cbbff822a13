"""The video UNets of a training with all that conditions them, and the keyframes that I2V paints for V2V to repair.

Shape suffixes: N clips, F frames, C channels, H, W pixels or latent size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel
from transformers import CLIPVisionModelWithProjection

from magicvideo_core.models.latents import decode, encode
from magicvideo_core.models.spatial import temporal_positions
from magicvideo_core.models.text import added_conditions, embed_prompts
from magicvideo_core.models.tiny import image_encoder_input
from magicvideo_core.sampling.controlnet import reference_residuals
from magicvideo_core.sampling.denoise import prior_noise
from magicvideo_core.training.data import Batch
from magicvideo_core.training.diffusion import add_noise
from magicvideo_core.training.t2i import TextToImageRecipe

# The latent noise prior is trained in: most clips' noise has its mean moved toward the reference latent by this timestep's
# share of signal, at every noise level, which is what a deterministic sampler that starts from it passes through.
NOISE_PRIOR_TIMESTEP = 700
NOISE_PRIOR_DROPOUT = 0.15
# Keyframes are painted from the truth noised to a timestep in this range, in steps at these shares of it.
FIRST_TIMESTEPS = (800, 990)
STEPS = (1.0, 0.6, 0.25)


@dataclass(frozen=True, slots=True)
class Guide:
    """What N clips are painted from: text, reference (RGB in [0, 1]) and which of the keyframes their frames are."""

    prompt_embeds: torch.Tensor
    pooled: torch.Tensor
    reference_NCHW: torch.Tensor
    image_embeds: torch.Tensor
    # 1, or 0 for a clip without its ControlNet.
    controlled_N: torch.Tensor
    frames: Sequence[int]


class Painter:
    """Predicts clean clips with the video UNets ("i2v" and "v2v") of a recipe; its modules are the recipe's own."""

    def __init__(
        self,
        images: TextToImageRecipe,
        unets: Mapping[str, Any],
        controlnet: ControlNetModel,
        image_encoder: CLIPVisionModelWithProjection,
        reference_dropout: float,
    ) -> None:
        self._images, self._unets, self._controlnet, self._image_encoder = images, unets, controlnet, image_encoder
        self._reference_dropout = reference_dropout

    def guide(
        self, captions: Sequence[str], reference_NCHW: torch.Tensor, frames: Sequence[int], rng: random.Random
    ) -> Guide:
        """The conditions of clips, some without their image tokens, some without their ControlNet."""
        count = len(captions)
        prompt_embeds, pooled = embed_prompts(captions, self._images.tokenizer, self._images.text_encoder)
        kept = torch.tensor([rng.random() >= self._reference_dropout for _ in range(count)])
        controlled = torch.tensor([float(rng.random() >= self._reference_dropout) for _ in range(count)])
        image_input = image_encoder_input(reference_NCHW) * kept[:, None, None, None]
        image_embeds = self._image_encoder(image_input, output_hidden_states=True).hidden_states[-2][:, None]
        return Guide(prompt_embeds, pooled, reference_NCHW, image_embeds, controlled, frames)

    def predict(self, kind: str, noisy_NCFHW: torch.Tensor, timesteps_N: torch.Tensor, guide: Guide) -> torch.Tensor:
        """The clean latents, NCFHW, that a video UNet sees in noisy ones."""
        down, mid = reference_residuals(
            self._controlnet,
            noisy_NCFHW,
            timesteps_N,
            guide.prompt_embeds,
            guide.reference_NCHW,
            conditioning_scale=guide.controlled_N,
        )
        pixels = guide.reference_NCHW.shape[-1]
        with temporal_positions(self._unets[kind], guide.frames):
            predicted: torch.Tensor = self._unets[kind](
                noisy_NCFHW,
                timesteps_N,
                # diffusers' video UNet wants the tokens once per frame, everything else once per clip.
                guide.prompt_embeds.repeat_interleave(len(guide.frames), dim=0),
                added_cond_kwargs={
                    **added_conditions(self._images.unet, guide.pooled, pixels, pixels),
                    "image_embeds": [guide.image_embeds],
                },
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
        return predicted

    def with_prior(self, noise_NCFHW: torch.Tensor, reference_NCHW: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """NCFHW noise with the latent noise prior of inference, left out for some clips."""
        moved = prior_noise(
            encode(self._images.vae, reference_NCHW),
            noise_NCFHW,
            self._images.scheduler,
            prior_timestep=NOISE_PRIOR_TIMESTEP,
        )
        plain = torch.tensor([rng.random() < NOISE_PRIOR_DROPOUT for _ in range(len(noise_NCFHW))])
        return torch.where(plain[:, None, None, None, None], noise_NCFHW, moved)

    @torch.no_grad()
    def keyframes(
        self, clips: Batch, frames: Sequence[int], pixels: int, rng: random.Random, generator: torch.Generator
    ) -> torch.Tensor:
        """These keyframes (N * F, RGB in [0, 1], `pixels` wide and high) as I2V paints them with the weights that it has now.

        It begins from the noised truth, so that everything is about where it belongs, and takes few steps: what it smears
        or garbles in the pipeline, it does here too.
        """
        shown = clips.show(frames, pixels)
        count = len(clips.captions)
        clean = unfold(encode(self._images.vae, shown.frames_NCHW), count)
        guide = self.guide(clips.captions, shown.frames_NCHW[:: len(frames)], frames, rng)
        noise = self.with_prior(torch.randn(clean.shape, generator=generator), guide.reference_NCHW, rng)
        first = rng.randrange(*FIRST_TIMESTEPS)
        for share in STEPS:
            timesteps = torch.full((count,), int(first * share))
            noisy = add_noise(clean, noise, timesteps, self._images.scheduler).noisy
            clean = self.predict("i2v", noisy, timesteps, guide).float()
            signal = self._images.scheduler.alphas_cumprod[timesteps[0]]
            # A deterministic step (DDIM): what is not signal is the noise of the next one.
            noise = (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
        return decode(self._images.vae, clean.transpose(1, 2).flatten(0, 1)).clamp(0, 1)


def unfold(folded: torch.Tensor, clips: int) -> torch.Tensor:
    """(N * F, C, H, W) to NCFHW."""
    return folded.view(clips, -1, *folded.shape[1:]).transpose(1, 2)
