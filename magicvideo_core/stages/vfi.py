"""The VFI stage, backend `edsc`: frames between the frames, from the arbitrary-time interpolator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from magicvideo_core.config import RunConfig
from magicvideo_core.config.weights import resolve_weights
from magicvideo_core.errors import ClipError, GateError, NonFiniteError, WeightsError
from magicvideo_core.models.components import empty_device_cache
from magicvideo_core.models.interpolator import load_interpolator
from magicvideo_core.stages.base import Frames, Outcome, StageItem
from magicvideo_core.stages.scene_cuts import cut_scores

Flags = npt.NDArray[np.bool_]


class PairModel(Protocol):
    """What the stage asks of an interpolator: a pass over the pairs, then a pass for each time. float32 BCHW in [0, 1]."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def encode(self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> Any:
        """What does not depend on time; any size."""
        ...

    def synthesize(self, features: Any, interp_time_B: torch.Tensor) -> torch.Tensor:
        """The frames at a time (0..1) of each pair, BCHW, not clamped."""
        ...


class VFIStage:
    """T frames to (T - 1) * interp_factor + 1, the given ones unchanged, at the configured rate."""

    def __init__(self, config: RunConfig) -> None:
        self.settings = config.vfi
        self._model: PairModel | None = None

    def load(self, device: str) -> None:
        """Load the interpolator onto `device`. Raises WeightsError."""
        reference = resolve_weights(self.settings.weights, "vfi", revision=self.settings.revision)
        if reference.path is None:
            raise WeightsError(
                f"vfi.weights = {self.settings.weights!r}: backend edsc reads a local folder or the embedded 'tiny'."
            )
        self._model = load_interpolator(reference.path, self.settings.combine).to(device)

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
        return interpolate_frames(
            self._model,
            frames_THWC_u8,
            interp_factor,
            dtype=getattr(torch, self.settings.dtype),
            cut_threshold=self.settings.cut_threshold,
            batch_pixels=self.settings.batch_pixels,
        )

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
    model: PairModel,
    frames_THWC_u8: Frames,
    interp_factor: int,
    *,
    dtype: torch.dtype = torch.float32,
    cut_threshold: float = 1.0,
    batch_pixels: int = 1,
) -> Iterator[Frames]:
    """Every frame and, after each but the last, `interp_factor` - 1 new ones at equal steps: HWC uint8, one by one.

    Given frames pass unchanged; between two identical ones their copies do, and across a cut (`scene_cuts.cut_scores` above
    the threshold) the nearer one is repeated. Pairs are computed together up to `batch_pixels`, one at least, so memory does
    not grow with the number of frames. Raises NonFiniteError.
    """
    times = [index / interp_factor for index in range(1, interp_factor)]
    count = len(frames_THWC_u8) - 1
    pairs_at_once = max(1, batch_pixels // (frames_THWC_u8.shape[1] * frames_THWC_u8.shape[2]))
    for start in range(0, count if times else 0, pairs_at_once):
        stop = min(start + pairs_at_once, count)
        first_NHWC, second_NHWC = frames_THWC_u8[start:stop], frames_THWC_u8[start + 1 : stop + 1]
        differ = (first_NHWC != second_NHWC).any(axis=(1, 2, 3))
        moving = differ & ~_cuts(first_NHWC, second_NHWC, differ, cut_threshold)
        between = iter(interpolate_pairs(model, first_NHWC[moving], second_NHWC[moving], times, dtype))
        for index in range(stop - start):
            yield first_NHWC[index]
            if moving[index]:
                yield from next(between)
            else:
                yield from ((first_NHWC if time <= 0.5 else second_NHWC)[index].copy() for time in times)
    yield from frames_THWC_u8[count if times else 0 :]


def _cuts(first_NHWC: Frames, second_NHWC: Frames, asked_N: Flags, threshold: float) -> Flags:
    """Which of the pairs asked for are cuts."""
    found = np.zeros(len(asked_N), dtype=bool)
    if threshold < 1 and asked_N.any():
        first, second = (
            torch.from_numpy(each[asked_N]).permute(0, 3, 1, 2).float() for each in (first_NHWC, second_NHWC)
        )
        found[asked_N] = (cut_scores(first, second) > threshold).numpy()
    return found


def interpolate_pairs(
    model: PairModel,
    first_NHWC: Frames,
    second_NHWC: Frames,
    times: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Frames:
    """The frames at `times` (0..1) between N pairs of uint8 frames, NTHWC; the trunk runs once. Raises NonFiniteError."""
    count, height, width, channels = first_NHWC.shape
    frames_NTHWC = np.empty((count, len(times), height, width, channels), dtype=np.uint8)
    if not count or not times:
        return frames_NTHWC
    device = next(model.parameters()).device
    first_BCHW, second_BCHW = (
        torch.from_numpy(np.ascontiguousarray(each)).to(device).permute(0, 3, 1, 2).float() / 255
        for each in (first_NHWC, second_NHWC)
    )
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        features = model.encode(first_BCHW, second_BCHW)
        for index, time in enumerate(times):
            frame_BCHW = model.synthesize(features, torch.full((count,), time, device=device)).float()
            if not math.isfinite(float(frame_BCHW.sum())):
                raise NonFiniteError(f"stage vfi: the frame at interp_time {time:.3f} is not finite")
            frame_BCHW = (frame_BCHW.clamp(0, 1) * 255).round()
            frames_NTHWC[:, index] = frame_BCHW.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return frames_NTHWC
