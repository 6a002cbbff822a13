"""Trains the factor-8 autoencoder of the embedded family on stills.

The architecture is diffusers' `AutoencoderDC` (deep-compression autoencoder, arXiv 2410.10733): space-to-channel shortcuts
keep a small factor-8 autoencoder sharp. It is trained like a VAE of fixed posterior variance: noise on the latents, and a
pull of their mean square towards one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from diffusers import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_dc import ResBlock
from torch import nn

from magicvideo_core.training.data import Data, MovingShapes

LATENT_CHANNELS = 32
LATENT_NOISE = 0.1


def build_vae() -> AutoencoderDC:
    """The untrained autoencoder: RGB in [-1, 1] to 32 channels at an eighth of the size, and back."""
    channels = (16, 32, 64, 128)
    vae = AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
    )
    for module in vae.modules():
        if isinstance(module, ResBlock):
            # Near-identity blocks at the start: the space-to-channel shortcuts carry the image from step one.
            nn.init.constant_(module.norm.weight, 0.1)
    return vae


class VaeRecipe:
    """Reconstruction of stills at 64 and 128 pixels; Charbonnier loss, object pixels weighted three to one."""

    learning_rate_scales: Mapping[str, float] = MappingProxyType({})

    def __init__(self, vae: AutoencoderDC | None = None, *, batch_size: int = 48, data: Data | None = None) -> None:
        self.vae = vae or build_vae()
        self.modules = nn.ModuleDict({"vae": self.vae})
        self.batch_size = batch_size
        self.data = data or MovingShapes()

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = rng.choice((64, 64, 64, 128))
        count = self.batch_size if pixels == 64 else self.batch_size // 4
        shown = self.data.pictures(count, rng).show([0], pixels)
        image_BCHW = shown.frames_NCHW * 2 - 1
        weight_B1HW = 1 + 2 * shown.masks_NHW[:, None]
        latents = self.vae.encode(image_BCHW).latent.float()
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        difference = self.vae.decode(noisy).sample.float() - image_BCHW
        charbonnier = ((difference.square() + 1e-4).sqrt() * weight_B1HW).mean()
        power = latents.square().mean()
        loss = charbonnier + 0.002 * (power - 1).relu()
        psnr = 10 * torch.log10(4 / difference.detach().square().mean())
        return loss, {"loss": float(loss.detach()), f"psnr_{pixels}": float(psnr), "power": float(power.detach())}

    @torch.no_grad()
    def save(self, directory: Path) -> None:
        """Store in diffusers' layout, with `scaling_factor` set so that latents have unit variance."""
        shown = self.data.pictures(128, random.Random("scaling factor")).show([0], 64)
        latents = self.vae.encode(shown.frames_NCHW * 2 - 1).latent
        self.vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
        self.vae.save_pretrained(directory / "vae")
