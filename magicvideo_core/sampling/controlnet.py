"""ControlNet over one reference image for all frames: its condition is embedded once and repeated, not once a frame."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel

Residuals = tuple[list[torch.Tensor], torch.Tensor]


def reference_residuals(
    controlnet: ControlNetModel,
    latents_NCFHW: torch.Tensor,
    timesteps: torch.Tensor,
    prompt_embeds_NLD: torch.Tensor,
    reference_NCHW: torch.Tensor,
    conditioning_scale: float | torch.Tensor = 1.0,
) -> Residuals:
    """Residuals for the down blocks and the mid block of a video UNet, frames folded into the batch (N * F).

    Equal to the stock call with the reference repeated for every frame: only the condition embedding, which depends on the
    reference alone, is computed once a clip.

    Args:
        timesteps: one per clip (N) or a scalar.
        reference_NCHW: RGB in [0, 1] at eight times the latent size.
        conditioning_scale: a number, or one per clip (N).
    """
    clips, _, frames = latents_NCFHW.shape[:3]
    folded = latents_NCFHW.transpose(1, 2).flatten(0, 1)
    handle = controlnet.controlnet_cond_embedding.register_forward_hook(
        lambda module, inputs, output: output.repeat_interleave(frames, dim=0)
    )
    try:
        down, mid = controlnet(
            folded,
            timesteps.expand(clips).repeat_interleave(frames),
            encoder_hidden_states=prompt_embeds_NLD.repeat_interleave(frames, dim=0),
            controlnet_cond=reference_NCHW,
            return_dict=False,
        )
    finally:
        handle.remove()
    if isinstance(conditioning_scale, torch.Tensor):
        conditioning_scale = conditioning_scale.repeat_interleave(frames).view(-1, 1, 1, 1)
    elif conditioning_scale == 1.0:
        return list(down), mid
    return [each * conditioning_scale for each in down], mid * conditioning_scale
