"""The VFI stage, backend `edsc`: frames between the frames, from the arbitrary-time interpolator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from magicvideo_core.config import RunConfig
from magicvideo_core.config.weights import resolve_weights
from magicvideo_core.errors import ClipError, GateError, NonFiniteError, WeightsError
from magicvideo_core.models.components import empty_device_cache
from magicvideo_core.models.interpolator import Interpolator, load_interpolator
from magicvideo_core.stages.base import Frames, Outcome, StageItem


class VFIStage:
    """T frames to (T - 1) * interp_factor + 1, the given ones unchanged, at the configured rate."""

    def __init__(self, config: RunConfig) -> None:
        self.settings = config.vfi
        self._model: Interpolator | None = None

    def load(self, device: str) -> None:
        """Load the interpolator onto `device`. Raises WeightsError."""
        reference = resolve_weights(self.settings.weights, "vfi", revision=self.settings.revision)
        if reference.path is None:
            raise WeightsError(
                f"vfi.weights = {self.settings.weights!r}: backend edsc reads a local folder or the embedded 'tiny'."
            )
        self._model = load_interpolator(reference.path).to(device)

    def process(self, batch: Sequence[StageItem]) -> list[Outcome]:
        """One outcome per item: the finished video's frames, or the clip's error."""
        return [self._process_one(item) for item in batch]

    def close(self) -> None:
        """Give the device's memory back."""
        self._model = None
        empty_device_cache()

    def interpolate(self, frames_THWC_u8: Frames, interp_factor: int) -> Iterator[Frames]:
        """The finished frames one by one, HWC uint8, for any factor. Raises NonFiniteError."""
        if self._model is None:
            raise RuntimeError("VFIStage.load must be called before frames can be interpolated")
        return interpolate_frames(self._model, frames_THWC_u8, interp_factor, getattr(torch, self.settings.dtype))

    def _process_one(self, item: StageItem) -> Outcome:
        clip_id, fps = item.clip.clip_id, self.settings.fps
        try:
            if item.frames_THWC_u8 is None or len(item.frames_THWC_u8) == 0:
                raise GateError(f"clip {clip_id}, stage vfi: there are no frames to interpolate")
            finished = self.interpolate(item.frames_THWC_u8, self.settings.interp_factor)
            return Outcome(clip_id, np.stack(list(finished)), fps)
        except ClipError as error:
            return Outcome(clip_id, None, fps, error)


def interpolate_frames(
    model: Interpolator, frames_THWC_u8: Frames, interp_factor: int, dtype: torch.dtype = torch.float32
) -> Iterator[Frames]:
    """Every frame and, after each but the last, `interp_factor` - 1 new ones at equal steps: HWC uint8, one by one.

    Given frames pass unchanged; between two identical ones their copies do. One pair is computed at a time, so memory
    does not grow with the number of frames. Raises NonFiniteError.
    """
    times = [index / interp_factor for index in range(1, interp_factor)]
    for first, second in pairwise(frames_THWC_u8):
        yield first
        if np.array_equal(first, second):
            yield from (first.copy() for _ in times)
        elif times:
            yield from interpolate_pair(model, first, second, times, dtype)
    yield frames_THWC_u8[-1]


def interpolate_pair(
    model: Interpolator, first: Frames, second: Frames, times: Sequence[float], dtype: torch.dtype = torch.float32
) -> Iterator[Frames]:
    """The frames at `times` (0..1) between two HWC uint8 frames; the trunk runs once. Raises NonFiniteError."""
    device = next(model.parameters()).device
    first_BCHW, second_BCHW = (
        torch.from_numpy(np.ascontiguousarray(each)).to(device).permute(2, 0, 1)[None].float() / 255
        for each in (first, second)
    )
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        features = model.encode(first_BCHW, second_BCHW)
        for time in times:
            frame_CHW = model.synthesize(features, torch.tensor([time], device=device))[0].float()
            if not math.isfinite(float(frame_CHW.sum())):
                raise NonFiniteError(f"stage vfi: the frame at interp_time {time:.3f} is not finite")
            yield (frame_CHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
