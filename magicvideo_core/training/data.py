"""What the recipes train on: batches of captioned stills and clips, behind one protocol; here the rendered world.

Shape suffixes: N frames, C channels, H, W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch

from magicvideo_core.moving_shapes.captions import VOCABULARY, training_caption
from magicvideo_core.moving_shapes.renderer import (
    frame_parameters,
    keyframe_times,
    object_masks,
    render_batch,
    without_texture,
)
from magicvideo_core.moving_shapes.world import MOVES, SceneSpec, sample_scene

NUM_KEYFRAMES = 16
# How often the caption is left out, so that a network also learns what guidance compares with.
CAPTION_DROPOUT = 0.1
TWO_OBJECT_SHARE = 0.3
FIRST_FRAME_SHARE = 0.9
# How many of the clips with an easy motion are drawn again: spinning takes longest to learn, then the four directions.
EASY_MOTIONS = {"standing still": 0.85, "growing": 0.8, "shrinking": 0.8, **dict.fromkeys(MOVES, 0.75)}


@dataclass(frozen=True, slots=True)
class Shown:
    """Frames of a batch at one size, clip after clip.

    frames_NCHW: RGB in [0, 1]. masks_NHW: 0..1, where the loss looks closest; zeros weigh everything the same.
    plain: gives the same frames as a low resolution knows them before it is applied: without texture, where that is known.
    """

    frames_NCHW: torch.Tensor
    masks_NHW: torch.Tensor
    plain: Callable[[], torch.Tensor]


class Batch(Protocol):
    """Captioned clips; a still is a clip of one keyframe."""

    @property
    def captions(self) -> Sequence[str]:
        """One a clip; empty where it was left out."""

    def show(self, keyframes: Sequence[int], pixels: int) -> Shown:
        """The keyframes of these indices (ascending, below `NUM_KEYFRAMES`) of every clip, `pixels` wide and high."""


class Data(Protocol):
    """Where batches come from; all that is drawn comes from `rng`, so that a step can be repeated.

    `vocabulary` holds every word of the captions, lower case.
    """

    vocabulary: Sequence[str]

    def pictures(self, count: int, rng: random.Random) -> Batch:
        """Stills without captions, for the autoencoder."""

    def stills(self, count: int, rng: random.Random) -> Batch:
        """Captioned stills."""

    def clips(self, count: int, rng: random.Random) -> Batch:
        """Captioned clips of `NUM_KEYFRAMES` keyframes, the first of which is the reference image."""


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """Scenes of the world with the times (0..1) of each one's keyframes."""

    captions: Sequence[str]
    scenes: Sequence[SceneSpec]
    times: Sequence[Sequence[float]]

    def show(self, keyframes: Sequence[int], pixels: int) -> Shown:
        chosen = zip(self.scenes, self.times, strict=True)
        parameters = frame_parameters([(scene, times[index]) for scene, times in chosen for index in keyframes])
        return Shown(
            render_batch(parameters, pixels) / 255,
            object_masks(parameters, pixels),
            # Once, whoever asks: what is degraded, and where a texture counts more.
            cache(lambda: render_batch(without_texture(parameters), pixels) / 255),
        )


class MovingShapes:
    """The rendered world; no held-out triple is ever drawn."""

    vocabulary: Sequence[str] = VOCABULARY

    def __init__(self, *, caption_dropout: float = CAPTION_DROPOUT) -> None:
        self.caption_dropout = caption_dropout

    def pictures(self, count: int, rng: random.Random) -> RenderedBatch:
        drawn = [(sample_scene(rng, num_objects=rng.choice((1, 2))), [rng.random()]) for _ in range(count)]
        return RenderedBatch([""] * count, [scene for scene, _ in drawn], [times for _, times in drawn])

    def stills(self, count: int, rng: random.Random) -> RenderedBatch:
        scenes, times, captions = [], [], []
        for _ in range(count):
            scene = sample_scene(rng, num_objects=2 if rng.random() < TWO_OBJECT_SHARE else 1)
            # Motion words go with the first frame, where the reference image of that clip would be.
            first_frame = rng.random() < FIRST_FRAME_SHARE
            scenes.append(scene)
            times.append([0.0 if first_frame else rng.random()])
            captions.append(training_caption(scene, rng, drop_all=self.caption_dropout, motion=first_frame))
        return RenderedBatch(captions, scenes, times)

    def clips(self, count: int, rng: random.Random) -> RenderedBatch:
        scenes = [_moving_scene(rng) for _ in range(count)]
        captions = [training_caption(scene, rng, drop_all=self.caption_dropout) for scene in scenes]
        return RenderedBatch(captions, scenes, [keyframe_times(NUM_KEYFRAMES)] * count)


def _moving_scene(rng: random.Random) -> SceneSpec:
    """A scene to animate: one object or two, the motions that are easy to learn less often."""
    while True:
        scene = sample_scene(rng, num_objects=2 if rng.random() < TWO_OBJECT_SHARE else 1)
        if rng.random() >= min(EASY_MOTIONS.get(each.motion, 0.0) for each in scene.objects):
            return scene
