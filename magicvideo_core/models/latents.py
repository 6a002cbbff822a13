"""Between pixels and scaled latents, for any of diffusers' image autoencoders; the one place that converts ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def frames_to_unit(frames_THWC_u8: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """uint8 THWC to float32 TCHW in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames_THWC_u8)).to(device).permute(0, 3, 1, 2).float() / 255


def unit_to_frames(images_TCHW: torch.Tensor) -> np.ndarray:
    """float TCHW in [0, 1] (clamped) to uint8 THWC."""
    return (images_TCHW.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def resized(images_NCHW: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Images in [0, 1] at another size, bicubic, antialiased when they shrink; overshoot is cut off."""
    return F.interpolate(images_NCHW, size=size, mode="bicubic", antialias=True).clamp(0, 1)


@torch.no_grad()
def encode(vae: Any, images_NCHW: torch.Tensor, *, chunk_size: int = 16) -> torch.Tensor:
    """Scaled latents (float32) of images in [0, 1]; the mode of the posterior where the autoencoder has one."""
    parts = []
    for images in images_NCHW.split(chunk_size):
        output = vae.encode((images * 2 - 1).to(vae.dtype))
        latents = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latent
        parts.append(latents.float() * vae.config.scaling_factor)
    return torch.cat(parts)


@torch.no_grad()
def decode(vae: Any, latents_NCHW: torch.Tensor, *, chunk_size: int = 16) -> torch.Tensor:
    """Images (float32, about [0, 1], not clamped) of scaled latents, at most `chunk_size` at once."""
    scaled = (latents_NCHW / vae.config.scaling_factor).to(vae.dtype)
    return torch.cat([vae.decode(part).sample.float() for part in scaled.split(chunk_size)]) / 2 + 0.5
