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

from magicvideo_core.training.data import Data, MovingShapes, Shown
from magicvideo_core.training.diffusion import textured

LATENT_CHANNELS = 32
LATENT_NOISE = 0.1
# Of a decoder that is trained on: residual blocks a level, finest first; the strongest noise on its latents; how much more an
# error counts where there is a texture.
DECODER_LAYERS = (0, 3, 3, 1)
MAX_LATENT_NOISE = 0.25
TEXTURE_WEIGHT = 4.0


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


def with_deeper_decoder(vae: AutoencoderDC, layers: tuple[int, ...] = DECODER_LAYERS) -> AutoencoderDC:
    """A copy whose decoder has at least `layers` residual blocks a level (finest first); new ones change nothing yet."""
    layers = tuple(max(pair) for pair in zip(layers, vae.config.decoder_layers_per_block, strict=True))
    deeper = AutoencoderDC.from_config(vae.config, decoder_layers_per_block=layers)
    missing = deeper.load_state_dict(vae.state_dict(), strict=False).missing_keys
    for name, parameter in deeper.named_parameters():
        if name in missing and ".norm." in name:
            # What a block adds passes through its norm's weight and bias.
            nn.init.zeros_(parameter)
    return deeper


class VaeRecipe:
    """Reconstruction of stills at 64 and 128 pixels; Charbonnier loss, object pixels weighted three to one."""

    learning_rate_scales: Mapping[str, float] = MappingProxyType({})

    def __init__(self, *, batch_size: int = 48, data: Data | None = None) -> None:
        self.vae = build_vae()
        self.modules = nn.ModuleDict({"vae": self.vae})
        self.batch_size = batch_size
        self.data = data or MovingShapes()

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        shown = _stills(self.data, rng.choice((64, 64, 64, 128)), self.batch_size, rng)
        image_BCHW = shown.frames_NCHW * 2 - 1
        latents = self.vae.encode(image_BCHW).latent.float()
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        error_BCHW = self.vae.decode(noisy).sample.float() - image_BCHW
        power = latents.square().mean()
        loss = _charbonnier(error_BCHW, 1 + 2 * shown.masks_NHW[:, None]) + 0.002 * (power - 1).relu()
        return loss, {"loss": float(loss.detach()), **_psnr(error_BCHW), "power": float(power.detach())}

    @torch.no_grad()
    def save(self, directory: Path) -> None:
        """Store in diffusers' layout, with `scaling_factor` set so that latents have unit variance."""
        shown = self.data.pictures(128, random.Random("scaling factor")).show([0], 64)
        latents = self.vae.encode(shown.frames_NCHW * 2 - 1).latent
        self.vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
        self.vae.save_pretrained(directory / "vae")


class DecoderRecipe:
    """A family's decoder, deepened and trained on below its encoder: latents, and all that was trained on them, stay valid.

    The loss looks closest where there is texture, a few pixels that a decoder may blur at little cost. The latents get noise
    of any strength up to what a sampled latent is wrong by.
    """

    learning_rate_scales: Mapping[str, float] = MappingProxyType({})

    def __init__(self, base: Path, *, batch_size: int = 24, data: Data | None = None) -> None:
        """`base`: a folder that holds t2i/vae/ in diffusers' layout."""
        self.vae = with_deeper_decoder(AutoencoderDC.from_pretrained(base / "t2i" / "vae")).requires_grad_(False)
        self.vae.decoder.requires_grad_(True)
        self.modules = nn.ModuleDict({"decoder": self.vae.decoder})
        self.batch_size = batch_size
        self.data = data or MovingShapes()

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        shown = _stills(self.data, rng.choice((64, 128)), self.batch_size, rng)
        image_BCHW = shown.frames_NCHW * 2 - 1
        with torch.no_grad():
            latents = self.vae.encode(image_BCHW).latent.float()
        strength_B111 = MAX_LATENT_NOISE * torch.rand((len(latents), 1, 1, 1), generator=generator)
        noisy = latents + strength_B111 * torch.randn(latents.shape, generator=generator)
        error_BCHW = self.vae.decode(noisy).sample.float() - image_BCHW
        loss = _charbonnier(error_BCHW, 1 + 2 * shown.masks_NHW[:, None] + TEXTURE_WEIGHT * textured(shown))
        return loss, {"loss": float(loss.detach()), **_psnr(error_BCHW)}

    @torch.no_grad()
    def save(self, directory: Path) -> None:
        """Store the whole autoencoder in diffusers' layout; its `scaling_factor` stays."""
        self.vae.save_pretrained(directory / "vae")


def _stills(data: Data, pixels: int, batch_size: int, rng: random.Random) -> Shown:
    """A batch of stills; of `batch_size` at 64 pixels, and of as many pixels in all at 128."""
    return data.pictures(batch_size if pixels == 64 else batch_size // 4, rng).show([0], pixels)


def _charbonnier(error_BCHW: torch.Tensor, weight_B1HW: torch.Tensor) -> torch.Tensor:
    return ((error_BCHW.square() + 1e-4).sqrt() * weight_B1HW).mean()


def _psnr(error_BCHW: torch.Tensor) -> dict[str, float]:
    """PSNR in dB of images in [-1, 1], by the name of their size."""
    return {f"psnr_{error_BCHW.shape[-1]}": float(10 * torch.log10(4 / error_BCHW.detach().square().mean()))}
