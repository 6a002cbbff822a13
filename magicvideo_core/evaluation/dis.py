"""The baseline to beat: OpenCV's DIS optical flow in both directions, brought to the time asked for, with occlusions.

Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016), at full resolution with variational refinement. Both
flows are carried forward to time t (softmax splatting by reliability, after Niklaus and Liu, CVPR 2020); each of the two
frames is warped back along what arrived, and blended by how well its flow holds there: checked forward and backward.

Shape suffixes: H, W pixels, C channels, 2 is x then y. Frames are uint8 RGB, HWC.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# How fast trust falls with the disagreement of the two flows (pixels) and of the colours (levels of 255).
FLOW_TOLERANCE_PX = 1.0
COLOUR_TOLERANCE = 24.0
# What splats onto a pixel competes as exp(-SHARPNESS * distrust).
SHARPNESS = 4.0


def dis_pair(first: np.ndarray, second: np.ndarray, times: tuple[float, ...]) -> np.ndarray:
    """The frames at `times` between two HWC uint8 frames, THWC uint8. Needs OpenCV (the `dev` extra)."""
    forward, backward = dis_flow(first, second), dis_flow(second, first)
    images = first.astype(np.float32), second.astype(np.float32)
    trust_first = _trust(images[0], images[1], forward, backward)
    trust_second = _trust(images[1], images[0], backward, forward)
    frames = []
    for time in times:
        sides = (
            (images[0], forward, trust_first, time),
            (images[1], backward, trust_second, 1 - time),
        )
        colours, weights = [], []
        for image, flow, trust, distance in sides:
            moved_HW3, coverage = _splat(np.dstack([flow, trust]), flow * distance, np.exp(SHARPNESS * (trust - 1)))
            moved_HW3 = _fill(moved_HW3, coverage)
            colours.append(_warp(image, -distance * moved_HW3[..., :2]))
            # A pixel that nothing arrived at is guessed from its surroundings: only where the other side has none either.
            weights.append((1 - distance) * np.maximum(moved_HW3[..., 2], 0.01) * np.minimum(coverage, 1) + 1e-4)
        share = (weights[0] / (weights[0] + weights[1]))[..., None]
        blended = colours[0] * share + colours[1] * (1 - share)
        frames.append(np.clip(blended.round(), 0, 255).astype(np.uint8))
    return np.stack(frames)


def dis_flow(first: np.ndarray, second: np.ndarray) -> Floats:
    """Displacement (x, y) in pixels of every pixel of the first frame, (H, W, 2)."""
    cv2 = _opencv()
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    engine.setFinestScale(0)
    engine.setPatchStride(2)
    engine.setGradientDescentIterations(30)
    engine.setVariationalRefinementIterations(8)
    grey = _one_channel(first, second)
    return np.asarray(engine.calc(grey[0], grey[1], None), dtype=np.float32)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("DIS optical flow needs OpenCV: pip install -e '.[dev]'") from error
    return cv2


def _one_channel(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both frames along the colour direction in which they vary most: luma alone does not see cyan on grey."""
    pixels = np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)]).astype(np.float32)
    centred = pixels - pixels.mean(0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    values = centred @ direction
    low, high = values.min(), values.max()
    levels = ((values - low) * (255 / max(float(high - low), 1.0))).round().astype(np.uint8)
    half = len(levels) // 2
    return levels[:half].reshape(first.shape[:2]), levels[half:].reshape(first.shape[:2])


def _warp(image: Floats, flow_HW2: Floats) -> Floats:
    """The image at p + flow(p): bicubic, clamped at the border."""
    cv2 = _opencv()
    height, width = flow_HW2.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow_HW2[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow_HW2[..., 1]
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32)


def _trust(image: Floats, other: Floats, flow: Floats, flow_back: Floats) -> Floats:
    """How well a pixel's flow holds, 0..1 (H, W): the way back leads to it, and the colour there is its own."""
    apart = np.square(flow + _warp(flow_back, flow)).sum(-1) / (FLOW_TOLERANCE_PX**2 + 0.01 * np.square(flow).sum(-1))
    colour = np.square((_warp(other, flow) - image) / COLOUR_TOLERANCE).mean(-1)
    height, width = flow.shape[:2]
    x = np.arange(width) + flow[..., 0]
    y = np.arange(height)[:, None] + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.asarray(np.exp(-apart - colour) * inside, dtype=np.float32)


def _splat(values_HWC: Floats, flow_HW2: Floats, weight_HW: Floats) -> tuple[Floats, Floats]:
    """Values carried along a flow, averaged by weight where they land; and how much landed there (about 1 where all is)."""
    height, width, channels = values_HWC.shape
    x = np.arange(width) + flow_HW2[..., 0]
    y = np.arange(height)[:, None] + flow_HW2[..., 1]
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    total = np.zeros((height * width, channels), dtype=np.float64)
    mass = np.zeros(height * width)
    coverage = np.zeros(height * width)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + dx, top + dy
        share = (1 - np.abs(x - column)) * (1 - np.abs(y - row))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = (row * width + column)[inside]
        own = (share * weight_HW)[inside]
        mass += np.bincount(index, own, minlength=height * width)
        coverage += np.bincount(index, share[inside], minlength=height * width)
        for channel in range(channels):
            total[:, channel] += np.bincount(index, own * values_HWC[..., channel][inside], minlength=height * width)
    mean = total / np.maximum(mass, 1e-9)[:, None]
    shape = (height, width)
    return mean.reshape(*shape, channels).astype(np.float32), coverage.reshape(shape).astype(np.float32)


def _fill(values_HWC: Floats, coverage: Floats) -> Floats:
    """Holes filled with what lies around them, from coarser and coarser averages."""
    cv2 = _opencv()
    known = np.minimum(coverage, 1.0)[..., None]
    total = values_HWC * known
    filled, missing = values_HWC.copy(), coverage < 0.3
    radius = 1
    while missing.any() and radius < 2 * max(coverage.shape):
        kernel = (2 * radius + 1, 2 * radius + 1)
        mean = cv2.blur(total, kernel, borderType=cv2.BORDER_CONSTANT)
        mass = cv2.blur(known, kernel, borderType=cv2.BORDER_CONSTANT)
        reached = missing & (mass > 0.02)
        filled[reached] = mean[reached] / mass[reached][:, None]
        missing &= ~reached
        radius *= 2
    return filled
