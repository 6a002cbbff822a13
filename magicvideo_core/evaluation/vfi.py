"""Interpolation against the truth: PSNR in the moving region at t = 1/3 and 2/3, beside linear blending."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from magicvideo_core.models.interpolator import Interpolator
from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import MOTIONS, sample_scene
from magicvideo_core.stages.vfi import interpolate_pair

SIZE_PX = 128
KEYFRAMES = 16
TIMES = (1 / 3, 2 / 3)
# A pixel moves where neighbouring keyframes or the truth differ by more than this many of 255 levels.
MOVING_LEVELS = 4

# Two frames (HWC uint8) and times -> the frames there (THWC uint8).
InterpolatePair = Callable[[np.ndarray, np.ndarray, tuple[float, ...]], np.ndarray]


@dataclass(frozen=True, slots=True)
class MotionScore:
    """Mean PSNR in dB over the sequences of one kind, with the standard deviation over them."""

    kind: str
    num_frames: int
    psnr_db: float
    psnr_std_db: float
    blend_psnr_db: float


def pair_interpolator(model: Interpolator) -> InterpolatePair:
    """The model as a function of two frames and times."""
    return lambda first, second, times: np.stack(list(interpolate_pair(model, first, second, times)))


def blend_pair(first: np.ndarray, second: np.ndarray, times: tuple[float, ...]) -> np.ndarray:
    """Linear blending, the baseline."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    return np.stack([(a * (1 - t) + b * t).round().astype(np.uint8) for t in times])


def moving_psnr_db(predicted: np.ndarray, truth: np.ndarray, moving_HW: np.ndarray) -> float:
    """PSNR over the chosen pixels of one HWC uint8 frame, at most 60 dB."""
    error = predicted.astype(np.float32) - truth.astype(np.float32)
    mse = float((error[moving_HW] ** 2).mean())
    return min(60.0, 10 * math.log10(255**2 / max(mse, 1e-12)))


def evaluate_vfi(interpolate: InterpolatePair, *, sequences_per_kind: int = 8, seed: int = 1) -> list[MotionScore]:
    """Scores by motion (one-object scenes, trained triples), over two-object scenes, and over held-out triples.

    The same seed gives the same sequences.
    """
    rng = random.Random(f"vfi-evaluation/{seed}")
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    kinds = [*(motion for motion in MOTIONS if motion != "standing still"), "two objects", "held out"]
    for kind in kinds:
        while len(scores[kind]) < sequences_per_kind * len(TIMES):
            scene = sample_scene(rng, num_objects=2 if kind == "two objects" else 1, held_out=kind == "held out")
            if kind in MOTIONS and scene.objects[0].motion != kind:
                continue
            if all(each.motion == "standing still" for each in scene.objects):
                continue
            start = rng.randrange(KEYFRAMES - 1)
            first, second, *truths = render(scene, [(start + t) / (KEYFRAMES - 1) for t in (0, 1, *TIMES)], SIZE_PX)
            candidates = interpolate(first, second, TIMES), blend_pair(first, second, TIMES)
            for index, truth in enumerate(truths):
                spread = np.ptp(np.stack([first, second, truth]).astype(np.int16), axis=0).max(-1)
                moving = spread > MOVING_LEVELS
                model_db, blend_db = (moving_psnr_db(each[index], truth, moving) for each in candidates)
                scores[kind].append((model_db, blend_db))
    return [_summary(kind, pairs) for kind, pairs in scores.items()]


def _summary(kind: str, pairs: list[tuple[float, float]]) -> MotionScore:
    model, blend = np.array(pairs).T
    return MotionScore(kind, len(pairs), float(model.mean()), float(model.std()), float(blend.mean()))


def format_table(scores: list[MotionScore]) -> str:
    """The scores as a small Markdown table."""
    lines = ["| moving region, 128x128 | frames | EDSC dB (std) | blending dB |", "|---|---|---|---|"]
    lines += [
        f"| {each.kind} | {each.num_frames} | {each.psnr_db:.2f} ({each.psnr_std_db:.2f}) | {each.blend_psnr_db:.2f} |"
        for each in scores
    ]
    return "\n".join(lines)
