"""The T2I stage, backend `diffusers`: a prompt to one reference image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig, T2IConfig
from magicvideo_core.config.weights import WeightsReference, resolve_weights
from magicvideo_core.errors import NonFiniteError, WeightsError
from magicvideo_core.ids import stage_seed
from magicvideo_core.models import latents as pixels
from magicvideo_core.models.components import (
    empty_device_cache,
    has_file,
    load_autoencoder,
    load_model,
    load_scheduler,
    load_tokenizer,
)
from magicvideo_core.models.text import added_conditions, embed_prompts
from magicvideo_core.sampling.denoise import Predict, denoise, guided, noised, set_timesteps
from magicvideo_core.stages.base import Outcome, StageItem, keyframe_fps


class T2IStage:
    """Any diffusers text-to-image pipeline, or the embedded family's UNet under the project's own loop."""

    def __init__(self, config: RunConfig) -> None:
        self.settings = config.t2i
        self._fps = keyframe_fps(config)
        self._painter: _Pipeline | _EmbeddedModel | None = None

    def load(self, device: str) -> None:
        """Load the weights onto `device`. Raises WeightsError."""
        reference = resolve_weights(self.settings.weights, "t2i", revision=self.settings.revision)
        dtype = getattr(torch, self.settings.dtype)
        painter = _Pipeline if has_file(reference, "model_index.json") else _EmbeddedModel
        self._painter = painter(reference, dtype, device)

    def process(self, batch: Sequence[StageItem]) -> list[Outcome]:
        """One image (T = 1) per item, `images_per_forward` of them in each forward pass.

        Every clip has its own generator, and every forward pass the same shape, filled up with copies where clips are
        few: kernels are chosen by shape, so an image does not depend on what else is painted.
        """
        if self._painter is None:
            raise RuntimeError("T2IStage.load must be called before clips can be processed")
        size = self.settings.images_per_forward
        outcomes: dict[str, Outcome] = {}
        clips = [item.clip for item in batch]
        # Some pipelines tell no negative prompt from an empty one: a pass has clips of one kind.
        for kind in ([c for c in clips if not c.negative_prompt], [c for c in clips if c.negative_prompt]):
            for together in (kind[first : first + size] for first in range(0, len(kind), size)):
                filled = [*together, *together[:1] * (size - len(together))]
                images_NCHW = self._painter.paint(filled, self.settings)
                outcomes |= {
                    clip.clip_id: self._outcome(clip, image_CHW)
                    for clip, image_CHW in zip(together, images_NCHW, strict=False)
                }
        return [outcomes[clip.clip_id] for clip in clips]

    def _outcome(self, clip: Clip, image_CHW: torch.Tensor) -> Outcome:
        if not torch.isfinite(image_CHW).all():
            error = NonFiniteError(f"clip {clip.clip_id}, stage t2i: the image has values that are not finite")
            return Outcome(clip.clip_id, None, self._fps, error)
        return Outcome(clip.clip_id, pixels.unit_to_frames(image_CHW[None]), self._fps)

    def close(self) -> None:
        """Give the device's memory back."""
        self._painter = None
        empty_device_cache()


class _Pipeline:
    """A whole checkpoint that names its own diffusers pipeline (SDXL and others)."""

    def __init__(self, reference: WeightsReference, dtype: torch.dtype, device: str) -> None:
        # Here: importing it takes most of a second, and the embedded family does without.
        from diffusers import DiffusionPipeline

        name = str(reference.path) if reference.path is not None else reference.hub_id
        try:
            pipeline = DiffusionPipeline.from_pretrained(
                name, revision=reference.revision or None, torch_dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError, AttributeError) as error:
            raise WeightsError(f"The pipeline at {name} cannot be loaded: {error}") from error
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def paint(self, clips: Sequence[Clip], settings: T2IConfig) -> torch.Tensor:
        negative_prompts = [clip.negative_prompt for clip in clips]
        return self.pipeline(
            [clip.prompt for clip in clips],
            negative_prompt=negative_prompts if all(negative_prompts) else None,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=_generators(clips),
            output_type="pt",
        ).images


class _EmbeddedModel:
    """A folder of components with one text encoder, pooled prompt beside the tokens."""

    def __init__(self, reference: WeightsReference, dtype: torch.dtype, device: str) -> None:
        self.device = device
        self.unet = load_model(UNet2DConditionModel, reference, "unet", dtype).to(device)
        self.vae = load_autoencoder(reference, "vae", dtype).to(device)
        self.text_encoder = load_model(CLIPTextModel, reference, "text_encoder", dtype).to(device)
        self.tokenizer = load_tokenizer(reference, "tokenizer")
        self.scheduler = load_scheduler(reference)

    @torch.no_grad()
    def paint(self, clips: Sequence[Clip], settings: T2IConfig) -> torch.Tensor:
        generators = _generators(clips)
        scale = settings.first_pass_scale
        height, width = round(settings.height * scale), round(settings.width * scale)
        timesteps = set_timesteps(self.scheduler, settings.num_inference_steps, shift=settings.timestep_shift)
        noise = self._noise(height, width, generators) * self.scheduler.init_noise_sigma
        image = self._denoised(noise, timesteps, clips, settings.guidance_scale, height, width, generators)
        if scale == 1.0:
            return image
        size = (settings.height, settings.width)
        upsampled = pixels.resized(image.clamp(0, 1), size)
        last_timestep = self.scheduler.config.num_train_timesteps - 1
        timesteps = set_timesteps(
            self.scheduler,
            settings.refine_num_inference_steps or settings.num_inference_steps,
            start_timestep=round(settings.refine_strength * last_timestep),
            shift=settings.timestep_shift,
        )
        start = noised(pixels.encode(self.vae, upsampled), self._noise(*size, generators), self.scheduler, timesteps[0])
        guidance_scale = settings.refine_guidance_scale
        if guidance_scale is None:
            guidance_scale = settings.guidance_scale
        return self._denoised(start, timesteps, clips, guidance_scale, *size, generators)

    def _noise(self, height: int, width: int, generators: Sequence[torch.Generator]) -> torch.Tensor:
        shape = (1, self.unet.config.in_channels, height // 8, width // 8)
        return torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)

    def _denoised(
        self,
        start: torch.Tensor,
        timesteps: torch.Tensor,
        clips: Sequence[Clip],
        guidance_scale: float,
        height: int,
        width: int,
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        """One pass: from starting latents to images, NCHW."""

        def predictor(prompts: Sequence[str]) -> Predict:
            embeds, pooled = embed_prompts(prompts, self.tokenizer, self.text_encoder)
            conditions = added_conditions(self.unet, pooled, height, width)

            def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
                latents = latents.to(self.unet.dtype)
                return self.unet(latents, timestep, embeds, added_cond_kwargs=conditions).sample.float()

            return predict

        conditional = predictor([clip.prompt for clip in clips])
        unconditional = predictor([clip.negative_prompt for clip in clips])
        predict = guided(conditional, unconditional, guidance_scale)
        return pixels.decode(self.vae, denoise(predict, start, self.scheduler, timesteps, generators))


def _generators(clips: Sequence[Clip]) -> list[torch.Generator]:
    """One for each clip, on the CPU: the same noise on any device."""
    return [torch.Generator().manual_seed(stage_seed(clip.seed, "t2i")) for clip in clips]
