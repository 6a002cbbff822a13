"""How well frames keep their reference image: pixels and outline of the first frame, the objects' colours in all frames.

Shape suffixes: T frames, H rows, W columns, C channels; float frames are in 0..255.
"""

from __future__ import annotations

import math

import numpy as np

from magicvideo_core.models import latents as pixels
from magicvideo_core.moving_shapes.oracle import at_most_160_pixels
from magicvideo_core.moving_shapes.oracle_masks import object_masks, see_background, see_colours

_MAX_PSNR_DB = 60.0


def reference_fidelity(frames_THWC_u8: np.ndarray, reference_HWC_u8: np.ndarray, num_objects: int) -> dict[str, float]:
    """What the frames keep of the reference, which is first brought to their size (bicubic, as the stages do it).

    first_frame_psnr: dB between first frame and reference, at most 60. first_frame_iou: mean over the objects of the IoU
    of their outlines there. colour_drift: distance of an object's mean RGB from that in the reference, mean over objects
    and frames, 0..255 units. object_flicker: change of that mean colour between neighbouring frames, mean over channels.
    What needs an object is left out where the reference shows none.
    """
    reference = _resized(reference_HWC_u8, frames_THWC_u8.shape[1:3])
    found = {"first_frame_psnr": psnr_db(frames_THWC_u8[0], reference)}
    small = at_most_160_pixels(np.concatenate([reference[None], frames_THWC_u8])).astype(np.float32)
    # The reference decides what the objects are; the frames are asked where these are.
    background_rgb = see_background(small[:1]).rgb
    seen = see_colours(small[:1], background_rgb)[:num_objects]
    names = [each.name for each in seen if each.share >= 0.08]
    if not names:
        return found
    ious, drifts, changes = [], [], []
    for mask_THW in object_masks(small, background_rgb, names):
        ious.append(_iou(mask_THW[0], mask_THW[1]))
        # Where an object is gone, the background stands in its place.
        colours = [
            frame[mask].mean(axis=0) if mask.any() else background_rgb
            for frame, mask in zip(small, mask_THW, strict=True)
        ]
        first, rest = colours[0], np.stack(colours[1:])
        drifts.append(float(np.linalg.norm(rest - first, axis=1).mean()))
        if len(rest) > 1:
            changes.append(float(np.abs(np.diff(rest, axis=0)).mean()))
    found |= {"first_frame_iou": float(np.mean(ious)), "colour_drift": float(np.mean(drifts))}
    if changes:
        found["object_flicker"] = float(np.mean(changes))
    return found


def upscaled(frames_THWC_u8: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames at (height, width) by bicubic interpolation: what V2V is to be better than."""
    return pixels.unit_to_frames(pixels.resized(pixels.frames_to_unit(frames_THWC_u8), size))


def psnr_db(first_u8: np.ndarray, second_u8: np.ndarray) -> float:
    """PSNR of two uint8 arrays of one shape, at most 60 dB."""
    mse = float(((first_u8.astype(np.float32) - second_u8.astype(np.float32)) ** 2).mean())
    return min(_MAX_PSNR_DB, 10 * math.log10(255**2 / max(mse, 1e-12)))


def _resized(image_HWC_u8: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return image_HWC_u8 if image_HWC_u8.shape[:2] == size else upscaled(image_HWC_u8[None], size)[0]


def _iou(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    union = int((first_HW | second_HW).sum())
    return int((first_HW & second_HW).sum()) / union if union else 0.0
