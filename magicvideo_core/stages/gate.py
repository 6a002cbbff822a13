"""The gate behind every stage: a clip that does not pass is not worth the next stage's work."""

from typing import Any

import numpy as np
import numpy.typing as npt

from magicvideo_core.config.models import StageConfig, T2IConfig, VFIConfig
from magicvideo_core.errors import GateError, MediaError
from magicvideo_core.media import stored_shape

# Mean level (0..255) below which a whole clip counts as black: under every background of a lit picture.
BLACK_LEVEL = 4.0
# Largest mean change (0..255) between the first and any other frame up to which a clip counts as frozen.
FROZEN_CHANGE = 0.25


def check(frames: npt.NDArray[Any], stage_config: StageConfig, *, num_input_frames: int | None = None) -> None:
    """Raise GateError, naming the setting, unless THWC RGB `frames` satisfy the stage's gate; levels are 0..255.

    `num_input_frames` is what an interpolating stage was given; without it its frame count is not checked.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise GateError(f"the frames have the shape {frames.shape}, not (frames, height, width, 3)")
    gate = stage_config.gate
    if gate.finite and frames.dtype.kind not in "iu" and not np.isfinite(frames).all():
        raise GateError("the frames hold NaN or infinity (gate.finite)")
    num_frames, height, width = frames.shape[:3]
    expected = _expected_num_frames(stage_config, num_input_frames)
    if gate.num_frames and (num_frames == 0 or (expected is not None and num_frames != expected)):
        raise GateError(f"there are {num_frames} frames instead of {expected} (gate.num_frames)")
    if gate.size and not isinstance(stage_config, VFIConfig):
        wanted = (stage_config.height, stage_config.width)
        if (height, width) != wanted:
            raise GateError(f"the frames are {height}x{width} instead of {wanted[0]}x{wanted[1]} (gate.size)")
    if gate.not_black and frames.mean() < BLACK_LEVEL:
        raise GateError(f"the mean level is {frames.mean():.2f}, below {BLACK_LEVEL}: black (gate.not_black)")
    if gate.not_frozen and num_frames > 1 and _is_frozen(frames):
        raise GateError(f"no frame differs from the first by more than {FROZEN_CHANGE}: frozen (gate.not_frozen)")


def check_stored(data: bytes, shape_THWC: tuple[int, ...], stage_config: StageConfig) -> None:
    """Raise GateError unless the encoded `data` hold frames of this shape that decode; as cheap as one frame."""
    if not stage_config.gate.decodable:
        return
    try:
        found = stored_shape(data)
    except MediaError as error:
        raise GateError(f"{error} (gate.decodable)") from error
    if found != tuple(shape_THWC):
        raise GateError(f"the stored frames have the shape {found} instead of {shape_THWC} (gate.decodable)")


def _expected_num_frames(stage_config: StageConfig, num_input_frames: int | None) -> int | None:
    if isinstance(stage_config, T2IConfig):
        return 1
    if isinstance(stage_config, VFIConfig):
        return None if num_input_frames is None else (num_input_frames - 1) * stage_config.interp_factor + 1
    return stage_config.num_frames


def _is_frozen(frames: npt.NDArray[Any]) -> bool:
    first = frames[0].astype(np.float32)
    # The last one first: where anything moves, it is the likeliest to show it.
    return all(np.abs(frame.astype(np.float32) - first).mean() <= FROZEN_CHANGE for frame in frames[:0:-1])
