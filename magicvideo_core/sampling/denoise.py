"""The denoising loop and the latents that it starts from, over any of diffusers' schedulers.

Shapes: latents are NCHW for images and NCFHW for videos (N clips, C channels, F frames, H, W latent size), float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from diffusers import SchedulerMixin

from magicvideo_core.logs import event

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def guided(predict_conditional: Predict, predict_unconditional: Predict, guidance_scale: float) -> Predict:
    """Classifier-free guidance (Ho and Salimans, 2022): unconditional + scale * (conditional - unconditional).

    The halves run one after the other: at video sizes a doubled batch gains nothing and breaks the attention's grid limit.
    """
    if guidance_scale == 1.0:
        return predict_conditional

    def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        unconditional = predict_unconditional(latents, timestep)
        return unconditional + guidance_scale * (predict_conditional(latents, timestep) - unconditional)

    return predict


def set_timesteps(
    scheduler: SchedulerMixin, num_inference_steps: int, *, start_timestep: int | None = None, shift: float = 1.0
) -> torch.Tensor:
    """Prepare the scheduler for `num_inference_steps` and return the timesteps to visit, descending.

    Args:
        start_timestep: only timesteps at or below it are visited, at least one; in 0..num_train_timesteps - 1.
        shift: above 1 spends more of the steps near the noise, u -> shift * u / (1 + (shift - 1) * u) for u = t / T
            (Esser et al., 2024, equation 23): the more latents an image has, the earlier its layout is decided. 1 keeps the
            scheduler's own spacing; anything else needs a scheduler that takes timesteps (DPM-Solver++, Euler).
    """
    if shift == 1.0:
        scheduler.set_timesteps(num_inference_steps)
    else:
        last = scheduler.config.num_train_timesteps - 1
        shares = [1 - n / num_inference_steps for n in range(num_inference_steps)]
        scheduler.set_timesteps(timesteps=[round(last * shift * u / (1 + (shift - 1) * u)) for u in shares])
    timesteps = scheduler.timesteps
    begin = 0
    if start_timestep is not None:
        begin = min(int((timesteps > start_timestep).sum()), len(timesteps) - 1)
    # Schedulers that keep a step index need to be told; the others (DDIM) go by the timestep itself.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return timesteps[begin:]


def denoise(
    predict: Predict,
    latents: torch.Tensor,
    scheduler: SchedulerMixin,
    timesteps: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Run the scheduler from `latents` over `timesteps` (prepared by `set_timesteps`); returns clean, scaled latents.

    Schedulers that add noise on the way (SDE solvers, ancestral ones) draw it from `generator`, one or one per latent.
    """
    draws = generator is not None and "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if draws else {}
    for step, timestep in enumerate(timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(predict(model_input, timestep), timestep, latents, return_dict=False, **options)[0]
        if step == 0:
            event("first denoising step", num_steps=len(timesteps))
    return latents


def noised(
    latents: torch.Tensor, noise: torch.Tensor, scheduler: SchedulerMixin, timestep: torch.Tensor
) -> torch.Tensor:
    """Clean latents sent back to `timestep`, in the scheduler's own scaling (SDEdit, Meng et al., 2022)."""
    return scheduler.add_noise(latents, noise, timestep.reshape(1))


def prior_noise(
    reference_NCHW: torch.Tensor,
    noise_NCFHW: torch.Tensor,
    scheduler: SchedulerMixin,
    *,
    prior_timestep: int,
    decay: float = 1.0,
) -> torch.Tensor:
    """Noise whose mean is moved from zero toward the reference latent (MagicVideo-V2's latent noise prior), NCFHW.

    x^f = lambda_f * z_ref + sqrt(1 - lambda_f^2) * eps^f with lambda_f = sqrt(alpha_bar at `prior_timestep`) * decay^f.
    The paper gives no formula; this keeps unit variance per frame. 0 as `prior_timestep` turns the prior off.
    """
    if prior_timestep == 0:
        return noise_NCFHW
    frames = torch.arange(noise_NCFHW.shape[2], dtype=torch.float32, device=noise_NCFHW.device)
    lambda_F11 = (scheduler.alphas_cumprod[prior_timestep].sqrt().to(frames) * decay**frames).view(-1, 1, 1)
    return lambda_F11 * reference_NCHW[:, :, None] + (1 - lambda_F11**2).sqrt() * noise_NCFHW


def in_scheduler_scale(latents: torch.Tensor, scheduler: SchedulerMixin) -> torch.Tensor:
    """Variance-preserving starting latents as the scheduler takes them, after `set_timesteps`.

    Schedulers in sigma space (Euler) take them times sqrt(sigma^2 + 1), the others (DDIM, DPM-Solver) as they are.
    """
    if float(scheduler.init_noise_sigma) <= 1:
        return latents
    sigma = scheduler.sigmas[scheduler.begin_index or 0].to(latents)
    return latents * (sigma**2 + 1).sqrt()
