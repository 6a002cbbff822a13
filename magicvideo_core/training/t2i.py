"""Trains the spatial layers and the text encoder as a text-to-image model on captioned stills.

Layout is learned at 64 pixels, detail at 128: the model paints in two passes, as `t2i.first_pass_scale` says.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel

from magicvideo_core.models.latents import encode
from magicvideo_core.models.text import added_conditions, embed_prompts
from magicvideo_core.models.tiny import build_scheduler, build_text_encoder, build_tokenizer, build_unet
from magicvideo_core.training.binding import BINDING_WEIGHT, binding_loss, watched_cross_attention
from magicvideo_core.training.data import Data, MovingShapes
from magicvideo_core.training.diffusion import (
    MAX_SNR_WEIGHT,
    add_noise,
    latent_weights,
    sample_early_timesteps,
    sample_timesteps,
    second_pass_source,
    weighted_error,
)
from magicvideo_core.training.text import MOTION_TOLD_WEIGHT, motion_told_loss

LAYOUT_PIXELS = 64
# The second pass: 128-pixel images are only trained from here down, most of them from an upsampled first pass. Learning layout
# at 128 pixels too takes many times longer (there, a big object is still visible at timestep 900).
REFINE_MAX_TIMESTEP = 700
REFINE_TEXTURE_WEIGHT = 4.0
# With many latent channels a shape can be made out below this timestep: position and outline are decided above it.
LAYOUT_MIN_TIMESTEP = 920
LAYOUT_SHARE = 0.65


class TextToImageRecipe:
    """Captioned stills at the sizes of `batch_sizes` (pixels to images a step), one size drawn each step."""

    learning_rate_scales: Mapping[str, float] = MappingProxyType({})

    def __init__(
        self,
        base: Path,
        *,
        batch_sizes: Mapping[int, int],
        shares: Mapping[int, float] | None = None,
        data: Data | None = None,
    ) -> None:
        """`base`: a folder in the hub layout that holds at least vae/; unet/ and text_encoder/ are continued if there."""
        self.data = data or MovingShapes()
        self.vae = AutoencoderDC.from_pretrained(base / "vae").requires_grad_(False).eval()
        fresh = not (base / "unet").exists()
        self.unet = build_unet() if fresh else UNet2DConditionModel.from_pretrained(base / "unet")
        self.text_encoder = (
            build_text_encoder(self.data.vocabulary) if fresh else CLIPTextModel.from_pretrained(base / "text_encoder")
        )
        self.tokenizer = (
            build_tokenizer(self.data.vocabulary) if fresh else AutoTokenizer.from_pretrained(base / "tokenizer")
        )
        self.scheduler = build_scheduler()
        self.batch_sizes = dict(batch_sizes)
        self.shares = dict(shares or dict.fromkeys(batch_sizes, 1.0))
        self.modules = nn.ModuleDict({"unet": self.unet.train(), "text_encoder": self.text_encoder.train()})

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = rng.choices(list(self.shares), list(self.shares.values()))[0]
        loss, metrics = self.image_loss(pixels, self.batch_sizes[pixels], rng, generator)
        return loss, {f"loss_{pixels}": float(loss.detach()), **metrics}

    def image_loss(
        self, pixels: int, count: int, rng: random.Random, generator: torch.Generator, unet: nn.Module | None = None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of one batch of `count` stills, and what else to log; `unet` may be another user of the same layers."""
        stills = self.data.stills(count, rng)
        shown = stills.show([0], pixels)
        latents = encode(self.vae, shown.frames_NCHW, chunk_size=count)
        refines = pixels > LAYOUT_PIXELS
        weights = latent_weights(shown, texture_weight=REFINE_TEXTURE_WEIGHT if refines else 1.0)
        timesteps = (
            sample_timesteps(count, generator, mean=0.3, high=REFINE_MAX_TIMESTEP)
            if refines
            else sample_early_timesteps(count, rng, generator, shares={LAYOUT_MIN_TIMESTEP: LAYOUT_SHARE}, mean=0.7)
        )
        noise = torch.randn(latents.shape, generator=generator)
        source, max_weight = latents, MAX_SNR_WEIGHT
        if refines:
            source, max_weight = second_pass_source(latents, self.vae, shown, 1, rng, generator)
        batch = add_noise(source, noise, timesteps, self.scheduler, max_weight=max_weight)
        prompt_embeds, pooled = embed_prompts(stills.captions, self.tokenizer, self.text_encoder)
        told = shown.told()
        with watched_cross_attention(self.unet, watch=told is not None) as maps:
            predicted = (unet or self.unet)(
                batch.noisy,
                timesteps,
                prompt_embeds,
                added_cond_kwargs=added_conditions(self.unet, pooled, pixels, pixels),
            ).sample
        error = weighted_error(predicted, latents, batch.loss_weights_N, weights)
        loss = error + MOTION_TOLD_WEIGHT * motion_told_loss(pooled, stills.captions)
        if told is None:
            return loss, {}
        bound = binding_loss(maps, told, timesteps)
        return loss + BINDING_WEIGHT * bound, {"binding": float(bound.detach())}

    def save(self, directory: Path) -> None:
        """Store in the hub layout of a text-to-image pipeline."""
        self.unet.save_pretrained(directory / "unet")
        self.text_encoder.save_pretrained(directory / "text_encoder")
        self.tokenizer.save_pretrained(directory / "tokenizer")
        self.scheduler.save_pretrained(directory / "scheduler")
        self.vae.save_pretrained(directory / "vae")
