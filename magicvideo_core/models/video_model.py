"""The video model of I2V and V2V: a motion UNet with its three reference conditionings, loaded from hub layouts.

Appearance encoder (decoupled cross-attention), ControlNet on the reference RGB for all frames and, through the starting
latents, the noise prior: MagicVideo-V2 (arXiv 2401.04468), section 2.2. Shapes: NCHW images, NCFHW video latents, N = 1.
"""

from __future__ import annotations

import json

import torch
from diffusers import ControlNetModel, DDIMScheduler, MotionAdapter, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from magicvideo_core.config import I2VConfig
from magicvideo_core.config.weights import WeightsReference, resolve_weights
from magicvideo_core.models import ip_adapter
from magicvideo_core.models.components import load_autoencoder, load_model, load_scheduler, load_state, load_tokenizer
from magicvideo_core.models.latents import resized
from magicvideo_core.models.spatial import inflate
from magicvideo_core.models.text import added_conditions, embed_prompts
from magicvideo_core.sampling.controlnet import reference_residuals
from magicvideo_core.sampling.denoise import Predict, guided

# What CLIP's image processor does where a checkpoint brings no preprocessor_config.json.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VideoModel:
    """Components of one video stage on one device."""

    def __init__(self, stage: str, settings: I2VConfig, device: str) -> None:
        """Load everything that `settings` names for `stage` ("i2v" or "v2v"). Raises WeightsError."""
        dtype = getattr(torch, settings.dtype)
        # The embedded base is the text-to-image model: all stages share its spatial layers.
        base = resolve_weights(settings.weights, "t2i", revision=settings.revision)
        adapter = load_model(
            MotionAdapter, resolve_weights(settings.motion_adapter, stage, "motion_adapter"), "", dtype
        )
        unet = load_model(UNet2DConditionModel, base, "unet", dtype)
        self.unet = inflate(unet, adapter)
        # The embedded video stages share one set of reference conditionings, kept with i2v.
        appearance = resolve_weights(settings.ip_adapter, "i2v", "ip_adapter")
        ip_adapter.attach(self.unet, load_state(appearance, "ip-adapter-plus.safetensors"))
        ip_adapter.set_scale(self.unet, settings.ip_adapter_scale)
        self.unet = self.unet.to(device, dtype).eval().requires_grad_(False)
        controlnet = resolve_weights(settings.controlnet, "i2v", "controlnet")
        self.controlnet = load_model(ControlNetModel, controlnet, "", dtype).to(device)
        encoder = resolve_weights(settings.image_encoder, "i2v", "image_encoder")
        self.image_encoder = load_model(CLIPVisionModelWithProjection, encoder, "", dtype).to(device)
        self.image_mean, self.image_std = _image_statistics(encoder)
        self.vae = load_autoencoder(base, "vae", dtype).to(device)
        self.text_encoder = load_model(CLIPTextModel, base, "text_encoder", dtype).to(device)
        self.tokenizer = load_tokenizer(base, "tokenizer")
        self.scheduler = _video_scheduler(base)
        self.settings = settings
        self.device = device

    def predictor(self, prompt: str, negative_prompt: str, reference_NCHW: torch.Tensor) -> Predict:
        """The guided denoiser of one clip.

        Args:
            reference_NCHW: the reference image, float32 in [0, 1], at the stage's size (eight times the latents).

        Guidance is over text and appearance together; the ControlNet stays on in both halves, as in the stock pipelines.
        """
        image = resized(reference_NCHW, self.image_encoder.config.image_size)
        image = (image - self.image_mean.to(image)) / self.image_std.to(image)
        conditional = self._half(prompt, image, reference_NCHW)
        unconditional = self._half(negative_prompt, torch.zeros_like(image), reference_NCHW)
        return guided(conditional, unconditional, self.settings.guidance_scale)

    def _half(self, prompt: str, image_NCHW: torch.Tensor, reference_NCHW: torch.Tensor) -> Predict:
        dtype = self.unet.dtype
        height, width = reference_NCHW.shape[-2:]
        embeds, pooled = embed_prompts([prompt], self.tokenizer, self.text_encoder)
        hidden = self.image_encoder(image_NCHW.to(dtype), output_hidden_states=True).hidden_states[-2]
        conditions = {**added_conditions(self.unet, pooled, height, width), "image_embeds": [hidden[:, None]]}
        control_scale = self.settings.controlnet_conditioning_scale

        def predict(latents_NCFHW: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            latents = latents_NCFHW.to(dtype)
            down, mid = None, None
            if control_scale > 0:
                down, mid = reference_residuals(
                    self.controlnet, latents, timestep, embeds, reference_NCHW.to(dtype), control_scale
                )
            return self.unet(
                latents,
                timestep,
                # diffusers' video UNet wants the tokens once per frame, everything else once per clip.
                embeds.repeat_interleave(latents.shape[2], dim=0),
                added_cond_kwargs=conditions,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample.float()

        return predict


def _video_scheduler(base: WeightsReference) -> SchedulerMixin:
    """The checkpoint's own schedule, but for Stable Diffusion's: AnimateDiff adapters were trained on the linear one.

    Always without new noise on the way: it would bury the latent noise prior that the network was trained to start from.
    """
    scheduler = load_scheduler(base)
    algorithm = scheduler.config.get("algorithm_type", "")
    if algorithm.startswith("sde-"):
        scheduler = type(scheduler).from_config(scheduler.config, algorithm_type=algorithm.removeprefix("sde-"))
    if scheduler.config.beta_schedule != "scaled_linear":
        return scheduler
    return DDIMScheduler.from_config(
        scheduler.config, beta_schedule="linear", steps_offset=1, clip_sample=False, timestep_spacing="linspace"
    )


def _image_statistics(reference: WeightsReference) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (1CHW) that the image encoder's input is normalised by."""
    mean, std = _CLIP_MEAN, _CLIP_STD
    path = None if reference.path is None else reference.path / "preprocessor_config.json"
    if path is not None and path.exists():
        config = json.loads(path.read_text())
        mean, std = config["image_mean"], config["image_std"]
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
