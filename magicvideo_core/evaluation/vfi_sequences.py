"""The sequences that interpolation is judged on: held-out Moving Shapes, held-out textures in known motion, and cuts.

No training draws from these seeds, nor from these kinds of texture (`textures.HELD_OUT_FAMILIES`). Frames are HWC uint8 RGB.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import MOTIONS, sample_scene
from magicvideo_core.training.textured_scenes import SceneSettings, TexturedScenes, draw_scenes
from magicvideo_core.training.textures import HELD_OUT_FAMILIES

TIMES = (1 / 3, 2 / 3)
KEYFRAMES = 16
SHAPES_PX, TEXTURED_PX = 128, 256
# A pixel of Moving Shapes moves where neighbouring keyframes or the truth differ by more than this many of 255 levels.
MOVING_LEVELS = 4
SPEEDS_PX = (2, 4, 8, 12, 18, 24)
# Textured scenes share their textures by so many.
_SCENES_AT_ONCE = 4

_RIGID = SceneSettings(
    canvas_px=TEXTURED_PX,
    families=tuple(HELD_OUT_FAMILIES),
    max_objects=0,
    full_speed=True,
    still_share=0,
    turn_share=0,
    growth_share=0,
)


@dataclass(frozen=True, slots=True)
class VfiSequence:
    """Two neighbouring frames, the true frames at `TIMES` between them (THWC), and the pixels that count (HW)."""

    kind: str
    first_HWC_u8: np.ndarray
    second_HWC_u8: np.ndarray
    truth_THWC_u8: np.ndarray
    region_HW: np.ndarray
    hidden_THW: np.ndarray | None = None
    """What is seen in a true frame, but hidden in one of the two given ones or outside it; None where that is not known."""


def _shapes(kind: str, count: int, seed: int) -> Iterator[VfiSequence]:
    """Neighbouring keyframes of the world at 128 px; the moving region counts."""
    rng = random.Random(f"vfi-evaluation/{seed}/{kind}")
    found = 0
    while found < count:
        scene = sample_scene(rng, num_objects=2 if kind == "two objects" else 1, held_out=kind == "held out")
        if kind in MOTIONS and scene.objects[0].motion != kind:
            continue
        if all(each.motion == "standing still" for each in scene.objects):
            continue
        found += 1
        start = rng.randrange(KEYFRAMES - 1)
        frames = render(scene, [(start + t) / (KEYFRAMES - 1) for t in (0, 1, *TIMES)], SHAPES_PX)
        moving = np.ptp(frames.astype(np.int16), axis=0).max(-1) > MOVING_LEVELS
        yield VfiSequence(kind, frames[0], frames[1], frames[2:], moving)


def _textured(settings: SceneSettings, kind: str, count: int, seed: int) -> Iterator[VfiSequence]:
    """Textured scenes at 256 px; the whole frame counts."""
    everywhere = np.ones((TEXTURED_PX, TEXTURED_PX), dtype=bool)
    for start in range(0, count, _SCENES_AT_ONCE):
        generator = torch.Generator().manual_seed(random.Random(f"{seed}/{kind}/{start}").getrandbits(62))
        scenes = draw_scenes(generator, _SCENES_AT_ONCE, settings)
        frames_BTCHW = scenes.render(torch.tensor([(0.0, 1.0, *TIMES)]).expand(_SCENES_AT_ONCE, -1))
        frames_BTHWC = (frames_BTCHW * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)
        hidden_BTHW = _hidden(scenes) if settings.max_objects else [None] * _SCENES_AT_ONCE
        for frames, hidden in zip(frames_BTHWC[: count - start].numpy(), hidden_BTHW, strict=False):
            yield VfiSequence(kind, frames[0], frames[1], frames[2:], everywhere, hidden)


def _hidden(scenes: TexturedScenes) -> np.ndarray:
    """Of every frame at `TIMES`, BTHW: seen there, but not in the first frame or not in the second."""
    hidden = []
    for time in TIMES:
        at_B = torch.full((len(scenes.picked_BL2),), time)
        _, in_first = scenes.flow(at_B, torch.zeros_like(at_B))
        _, in_second = scenes.flow(at_B, torch.ones_like(at_B))
        hidden.append((in_first * in_second)[:, 0] == 0)
    return torch.stack(hidden, dim=1).numpy()


def _cuts(kind: str, count: int, seed: int) -> Iterator[VfiSequence]:
    """Neighbours of different scenes: what is true between them is the nearer one."""
    before = _textured(_OBJECT, f"{kind}, before", count, seed)
    after = _textured(_OBJECT, f"{kind}, after", count, seed)
    for one, other in zip(before, after, strict=True):
        first, second = one.first_HWC_u8, other.second_HWC_u8
        yield VfiSequence(kind, first, second, np.stack([first, second]), one.region_HW)


_OBJECT = replace(_RIGID, min_objects=1, max_objects=1, shift_px=(12.0, 18.0), radius=(0.15, 0.35))
SHAPES_KINDS = (*(motion for motion in MOTIONS if motion != "standing still"), "two objects", "held out")
RIGID_KINDS = tuple(f"textured, {speed} px" for speed in SPEEDS_PX)
OBJECT_KIND, ZOOM_KIND, ROTATION_KIND, CUT_KIND = "object over background, 12-18 px", "zoom", "rotation", "cut"

_Maker = Callable[[str, int, int], Iterator[VfiSequence]]
KINDS: dict[str, _Maker] = {
    **dict.fromkeys(SHAPES_KINDS, _shapes),
    **{
        kind: partial(_textured, replace(_RIGID, shift_px=(float(speed), float(speed))))
        for kind, speed in zip(RIGID_KINDS, SPEEDS_PX, strict=True)
    },
    OBJECT_KIND: partial(_textured, _OBJECT),
    # At the edge of the picture up to 13 px a gap, 18 in the corners.
    ZOOM_KIND: partial(_textured, replace(_RIGID, shift_px=(0.0, 0.0), growth=0.1, growth_share=1.0)),
    ROTATION_KIND: partial(_textured, replace(_RIGID, shift_px=(0.0, 0.0), turn=math.radians(6), turn_share=1.0)),
    CUT_KIND: _cuts,
}


def held_out_sequences(count: int, seed: int = 1, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[VfiSequence]:
    """`count` sequences of each kind, the same ones for the same seed; the first few are the same for every count."""
    for kind in kinds:
        yield from KINDS[kind](kind, count, seed)
