"""The V2V stage, backend `diffusers`: keyframes to refined frames at full size, SDEdit-style."""

from __future__ import annotations

import torch

from magicvideo_core.config import RunConfig, V2VConfig
from magicvideo_core.errors import GateError
from magicvideo_core.models import latents as pixels
from magicvideo_core.models.video_model import VideoModel
from magicvideo_core.sampling.denoise import denoise, noised, set_timesteps
from magicvideo_core.stages.base import StageItem, keyframe_fps
from magicvideo_core.stages.i2v import VideoStage


class V2VStage(VideoStage):
    """Keyframes upsampled, encoded, sent back to `strength` of the schedule and denoised under the same reference."""

    name = "v2v"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.v2v, keyframe_fps(config))
        self.strength = config.v2v.strength

    def _latents(self, item: StageItem, model: VideoModel) -> torch.Tensor:
        assert isinstance(self.settings, V2VConfig)
        if item.frames_THWC_u8 is None or len(item.frames_THWC_u8) == 0:
            raise GateError(f"clip {item.clip.clip_id}, stage v2v: there are no keyframes")
        reference = self._reference(item, model)
        keyframes = self._resized(item.frames_THWC_u8, model)
        clean = pixels.encode(model.vae, keyframes, chunk_size=self.settings.decode_chunk_size)
        clean_NCFHW = clean.transpose(0, 1)[None]
        last_timestep = model.scheduler.config.num_train_timesteps - 1
        timesteps = set_timesteps(
            model.scheduler,
            self.settings.num_inference_steps,
            start_timestep=round(self.strength * last_timestep),
            shift=self.settings.timestep_shift,
        )
        noise = self._noise(item, model, len(keyframes))
        start = noised(clean_NCFHW, noise, model.scheduler, timesteps[0])
        predict = model.predictor(item.clip.prompt, item.clip.negative_prompt, reference)
        return denoise(predict, start, model.scheduler, timesteps)[0].transpose(0, 1)
