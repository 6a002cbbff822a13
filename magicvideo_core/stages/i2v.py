"""The I2V stage, backend `diffusers`: a reference image and its prompt to keyframes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from magicvideo_core.config import I2VConfig, RunConfig
from magicvideo_core.errors import ClipError, GateError, NonFiniteError
from magicvideo_core.ids import stage_seed
from magicvideo_core.models import latents as pixels
from magicvideo_core.models.components import empty_device_cache
from magicvideo_core.models.video_model import VideoModel
from magicvideo_core.sampling.denoise import denoise, in_scheduler_scale, prior_noise, set_timesteps
from magicvideo_core.stages.base import Frames, Outcome, StageItem, keyframe_fps


class VideoStage:
    """What I2V and V2V share: the loaded video model, and one clip at a time through `_latents`."""

    name: str

    def __init__(self, settings: I2VConfig, fps: float) -> None:
        self.settings = settings
        self._fps = fps
        self._model: VideoModel | None = None

    def load(self, device: str) -> None:
        """Load the weights onto `device`. Raises WeightsError."""
        self._model = VideoModel(self.name, self.settings, device)

    def process(self, batch: Sequence[StageItem]) -> list[Outcome]:
        """Keyframes (T = `num_frames`) per item; one clip at a time, which fills a GPU at video sizes."""
        return [self._process_one(item) for item in batch]

    def close(self) -> None:
        """Give the device's memory back."""
        self._model = None
        empty_device_cache()

    @torch.no_grad()
    def _process_one(self, item: StageItem) -> Outcome:
        if self._model is None:
            raise RuntimeError(f"{type(self).__name__}.load must be called before clips can be processed")
        try:
            latents_FCHW = self._latents(item, self._model)
            images = pixels.decode(self._model.vae, latents_FCHW, chunk_size=self.settings.decode_chunk_size)
            if not torch.isfinite(images).all():
                raise NonFiniteError(
                    f"clip {item.clip.clip_id}, stage {self.name}: frames have values that are not finite"
                )
            return Outcome(item.clip.clip_id, pixels.unit_to_frames(images), self._fps)
        except ClipError as error:
            return Outcome(item.clip.clip_id, None, self._fps, error)

    def _latents(self, item: StageItem, model: VideoModel) -> torch.Tensor:
        raise NotImplementedError

    def _reference(self, item: StageItem, model: VideoModel) -> torch.Tensor:
        """The reference image at the stage's size: 1CHW in [0, 1]."""
        if item.reference_image_HWC_u8 is None:
            raise GateError(f"clip {item.clip.clip_id}, stage {self.name}: there is no reference image")
        return self._resized(item.reference_image_HWC_u8[None], model)

    def _resized(self, frames_THWC_u8: Frames, model: VideoModel) -> torch.Tensor:
        """Frames at the stage's size: TCHW in [0, 1], bicubic, antialiased when they shrink."""
        size = (self.settings.height, self.settings.width)
        images = pixels.frames_to_unit(frames_THWC_u8, model.device)
        if tuple(images.shape[-2:]) == size:
            return images
        return pixels.resized(images, size)

    def _noise(self, item: StageItem, model: VideoModel, num_frames: int) -> torch.Tensor:
        """Standard normal NCFHW noise, drawn on the CPU from (clip seed, stage)."""
        generator = torch.Generator().manual_seed(stage_seed(item.clip.seed, self.name))
        shape = (1, model.unet.config.in_channels, num_frames, self.settings.height // 8, self.settings.width // 8)
        return torch.randn(shape, generator=generator).to(model.device)


class I2VStage(VideoStage):
    """Reference image to keyframes, from noise whose mean the reference latent moves."""

    name = "i2v"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.i2v, keyframe_fps(config))

    def _latents(self, item: StageItem, model: VideoModel) -> torch.Tensor:
        settings = self.settings
        reference = self._reference(item, model)
        timesteps = set_timesteps(
            model.scheduler,
            settings.num_inference_steps,
            start_timestep=settings.noise_prior_start_timestep,
            shift=settings.timestep_shift,
        )
        noise = prior_noise(
            pixels.encode(model.vae, reference),
            self._noise(item, model, settings.num_frames),
            model.scheduler,
            prior_timestep=settings.noise_prior_timestep,
            decay=settings.noise_prior_decay,
        )
        start = in_scheduler_scale(noise, model.scheduler)
        predict = model.predictor(item.clip.prompt, item.clip.negative_prompt, reference)
        return denoise(predict, start, model.scheduler, timesteps)[0].transpose(0, 1)
