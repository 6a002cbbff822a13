"""What the denoiser recipes share: timesteps, the noising of a batch and its weighted loss.

Shape suffixes: N images (or frames), C channels, H, W latent size, L tokens, D width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DPMSolverMultistepScheduler

from magicvideo_core.models.latents import decode, encode, resized
from magicvideo_core.training.data import Shown

OBJECT_WEIGHT = 3.0
# A texture is where it changes a colour by more than this share of the range.
TEXTURE_LEVEL = 0.02
LOW_RESOLUTION_NOISE = 0.2
MAX_SNR_WEIGHT = 8.0
# Where the noised image is not the target but a degraded one, little noise does not make the target easy to see.
MAX_DEGRADED_WEIGHT = 1.5
CLEAN_SHARE = 0.2
FIRST_PASS_FACTOR = 2
BLURRED_FACTOR = 4
BLURRED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class NoisyLatents:
    """Latents on their way to noise: `noisy` = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, all NCHW float32."""

    noisy: torch.Tensor
    timesteps_N: torch.Tensor
    loss_weights_N: torch.Tensor


def latent_weights(shown: Shown, *, texture_weight: float = 1.0, factor: int = 8) -> torch.Tensor:
    """Loss weights N1HW at latent size: `OBJECT_WEIGHT` on cells that any object touches and around them, mean 1.

    Objects cover a few percent of the pixels: an unweighted loss learns the background and ignores them. A texture's
    cells count `texture_weight` times as much again: it is what is learnt last.
    """
    touched = F.max_pool2d((shown.masks_NHW > 0.05).float()[:, None], factor)
    touched = F.max_pool2d(touched, 3, stride=1, padding=1)
    weights = 1 + (OBJECT_WEIGHT - 1) * touched
    weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True)
    if texture_weight == 1:
        return weights
    return weights * (1 + (texture_weight - 1) * F.max_pool2d(textured(shown), factor))


def textured(shown: Shown) -> torch.Tensor:
    """1 on pixels that a texture changes visibly, else 0: N1HW."""
    change = (shown.frames_NCHW - shown.plain()).abs().amax(1, keepdim=True)
    return (change > TEXTURE_LEVEL).float()


def low_resolution_latents(
    vae: Any, frames_NCHW: torch.Tensor, factors_N: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Latents of frames (0..1) as a second pass gets them: made smaller by each frame's factor, imperfect, upsampled."""
    pixels = frames_NCHW.shape[-1]
    upsampled = torch.empty_like(frames_NCHW)
    for factor in factors_N.unique().tolist():
        chosen = factors_N == factor
        small = F.avg_pool2d(frames_NCHW[chosen], factor)
        if factor == FIRST_PASS_FACTOR:
            latents = encode(vae, small)
            small = decode(vae, latents + LOW_RESOLUTION_NOISE * torch.randn(latents.shape, generator=generator))
        upsampled[chosen] = resized(small, pixels)
    return encode(vae, upsampled)


def second_pass_source(
    latents_NCHW: torch.Tensor,
    vae: Any,
    shown: Shown,
    frames_per_clip: int,
    rng: random.Random,
    generator: torch.Generator,
) -> tuple[torch.Tensor, float]:
    """What a second pass noises in training, and the largest loss weight there: mostly degraded frames, some the targets.

    A first pass leaves out texture and rounds off corners: the textures are weakened by any amount, and some clips are
    smaller than any first pass, so that texture and outline have to come from the prompt and the reference.
    """
    if rng.random() < CLEAN_SHARE:
        return latents_NCHW, MAX_SNR_WEIGHT
    clips = len(latents_NCHW) // frames_per_clip
    kept = torch.tensor([rng.choice((0.0, rng.random(), 1.0)) for _ in range(clips)]).repeat_interleave(frames_per_clip)
    factors = [BLURRED_FACTOR if rng.random() < BLURRED_SHARE else FIRST_PASS_FACTOR for _ in range(clips)]
    factors_N = torch.tensor(factors).repeat_interleave(frames_per_clip)
    frames = torch.lerp(shown.plain(), shown.frames_NCHW, kept[:, None, None, None])
    return low_resolution_latents(vae, frames, factors_N, generator), MAX_DEGRADED_WEIGHT


def sample_timesteps(
    count: int, generator: torch.Generator, *, mean: float = 0.3, low: int = 0, high: int = 1000
) -> torch.Tensor:
    """Logit-normal timesteps in [low, high): most where layout and outline are decided."""
    share = torch.sigmoid(torch.randn(count, generator=generator) + mean)
    return (low + share * (high - low)).long().clamp(low, high - 1)


def sample_early_timesteps(
    count: int, rng: random.Random, generator: torch.Generator, *, shares: Mapping[int, float], mean: float
) -> torch.Tensor:
    """Timesteps of which `shares` lie evenly in [key, 1000), where something is decided; the others logit-normal over all."""
    timesteps = sample_timesteps(count, generator, mean=mean)
    drawn = rng.choices([0, *shares], [1 - sum(shares.values()), *shares.values()], k=count)
    for low in shares:
        early = torch.randint(low, 1000, (count,), generator=generator)
        timesteps = torch.where(torch.tensor([each == low for each in drawn]), early, timesteps)
    return timesteps


def add_noise(
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps_N: torch.Tensor,
    scheduler: DPMSolverMultistepScheduler,
    *,
    max_weight: float = MAX_SNR_WEIGHT,
) -> NoisyLatents:
    """Noise the latents (any trailing shape) to `timesteps_N`; the loss weight is that of v-prediction, truncated.

    A network that predicts x0 under the weight SNR + 1 minimises the v-prediction loss (Salimans and Ho, 2022).
    """
    alpha_bar = scheduler.alphas_cumprod[timesteps_N]
    shape = (-1, *([1] * (latents.ndim - 1)))
    signal, sigma = alpha_bar.sqrt().view(shape), (1 - alpha_bar).sqrt().view(shape)
    weights = (1 / (1 - alpha_bar)).clamp(max=max_weight)
    return NoisyLatents(signal * latents + sigma * noise, timesteps_N, weights)


def weighted_error(
    predicted: torch.Tensor, target: torch.Tensor, weights_N: torch.Tensor, position_weights: torch.Tensor
) -> torch.Tensor:
    """Mean squared error, weighted per sample and per position; any trailing shape, `position_weights` broadcasts."""
    squared = (predicted.float() - target).square() * position_weights
    return (squared.flatten(1).mean(1) * weights_N).mean()
