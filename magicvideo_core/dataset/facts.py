"""What is measured of a clip's frames, whatever they show: brightness, sharpness, motion, flicker, and the oracle's verdicts.

Frames are uint8 RGB THWC; levels are of luma (BT.601), 0..255. Facts say nothing about what is good enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from magicvideo_core.moving_shapes.oracle import ATTRIBUTES, judge
from magicvideo_core.moving_shapes.world import parse_prompt

# Raised where a fact's meaning changes: rows of an older version are measured again.
FACTS_VERSION = 1
# Of 3 frames, 4 x 4 places and RGB.
THUMBNAIL_BYTES = 3 * 4 * 4 * 3
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BLOCKS = 8
# Far below any threshold that a person would set, and above what another build of numpy changes.
_DECIMALS = 4


def measure_frames(frames_THWC_u8: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return the facts that need no prompt, by column; those of change are None for a single frame.

    brightness: mean level. contrast: standard deviation of the levels of a frame, mean over frames. sharpness: variance
    of the Laplacian of a frame, median over frames; more is sharper, and it grows with texture. motion: mean change of a
    pixel from a frame to the next. largest_change: the largest of these changes; a cut is one. flicker: how much the
    level of a place goes up and down again (second difference in time of the means of 8 x 8 blocks, median over blocks);
    what moves over a few blocks does not count. thumbnails: first, middle and last frame at 4 x 4 pixels, RGB, 144 bytes.
    """
    num_frames = len(frames_THWC_u8)
    deviations, laplacians, levels, changes = [], [], [], []
    block_means = np.empty((num_frames, _BLOCKS * _BLOCKS), np.float32)
    before_HW: npt.NDArray[np.float32] | None = None
    # One frame at a time: a long clip as floats would take gigabytes.
    for index, frame_HWC in enumerate(frames_THWC_u8):
        luma_HW: npt.NDArray[np.float32] = frame_HWC.astype(np.float32) @ _LUMA
        levels.append(float(luma_HW.mean()))
        deviations.append(float(luma_HW.std()))
        laplacians.append(_variance_of_laplacian(luma_HW))
        block_means[index] = _block_means(luma_HW[..., None], _BLOCKS).reshape(-1)
        if before_HW is not None:
            changes.append(float(np.abs(luma_HW - before_HW).mean()))
        before_HW = luma_HW
    bend = np.abs(np.diff(block_means, n=2, axis=0)).mean(axis=0) if num_frames > 2 else None
    facts = {
        "brightness": float(np.mean(levels)),
        "contrast": float(np.mean(deviations)),
        "sharpness": float(np.median(laplacians)),
        "motion": float(np.mean(changes)) if changes else None,
        "largest_change": max(changes, default=None),
        "flicker": None if bend is None else float(np.median(bend)),
    }
    rounded = {name: None if value is None else round(value, _DECIMALS) for name, value in facts.items()}
    return {**rounded, "thumbnails": _thumbnails(frames_THWC_u8)}


def judge_prompt(prompt: str, frames_THWC_u8: npt.NDArray[np.uint8]) -> dict[str, bool | None]:
    """Return what the oracle says of a clip of a Moving Shapes prompt, by column; {} where it cannot be asked.

    `oracle_NAME` is true where the attribute is right for every object, None where it is not judged (the motion of an image);
    `held_out` where no training has seen the prompt's triple.
    """
    scene = parse_prompt(prompt)
    if scene is None or frames_THWC_u8.shape[1] != frames_THWC_u8.shape[2]:
        return {}
    judgement = judge(frames_THWC_u8, prompt)
    verdicts = {f"oracle_{name}": judgement.holds(name) for name in ATTRIBUTES}
    return {**verdicts, "oracle_all": judgement.all_correct, "held_out": scene.held_out}


def _variance_of_laplacian(luma_HW: npt.NDArray[np.float32]) -> float:
    if min(luma_HW.shape) < 3:
        return 0.0
    centre = luma_HW[1:-1, 1:-1]
    around = luma_HW[:-2, 1:-1] + luma_HW[2:, 1:-1] + luma_HW[1:-1, :-2] + luma_HW[1:-1, 2:]
    return float((around - 4 * centre).var())


def _block_means(frame_HWC: npt.NDArray[Any], blocks: int) -> npt.NDArray[np.float32]:
    """Return the means of blocks x blocks parts of a frame, as near to equal as its size allows; of a tiny one, repeated."""
    for axis in (0, 1):
        length = frame_HWC.shape[axis]
        starts = np.arange(blocks) * length // blocks
        # Of a part without a pixel, reduceat gives the pixel there.
        counts = np.maximum(np.diff(np.append(starts, length)), 1)
        sums = np.add.reduceat(frame_HWC, starts, axis=axis, dtype=np.float32)
        frame_HWC = sums / counts.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1)).astype(np.float32)
    return frame_HWC


def _thumbnails(frames_THWC_u8: npt.NDArray[np.uint8]) -> bytes:
    last = len(frames_THWC_u8) - 1
    parts = [_block_means(frames_THWC_u8[index], 4) for index in (0, last // 2, last)]
    return np.stack(parts).round().astype(np.uint8).tobytes()
