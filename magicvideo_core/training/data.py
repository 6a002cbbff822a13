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

from magicvideo_core.moving_shapes.captions import VOCABULARY, training_caption, words_of_objects
from magicvideo_core.moving_shapes.renderer import (
    frame_parameters,
    keyframe_times,
    object_masks,
    render_batch,
    without_texture,
)
from magicvideo_core.moving_shapes.world import MOVES, SceneSpec, in_reading_order, sample_scene

NUM_KEYFRAMES = 16
# How often the caption is left out, so that a network also learns what guidance compares with.
CAPTION_DROPOUT = 0.1
TWO_OBJECT_SHARE = 0.6
FIRST_FRAME_SHARE = 0.9
# How many of the clips with an easy motion are drawn again: spinning takes longest to learn, then the four directions.
EASY_MOTIONS = {"standing still": 0.85, "growing": 0.8, "shrinking": 0.8, **dict.fromkeys(MOVES, 0.75)}
# And of those in which nothing with a texture spins: a texture that turns is what V2V learns last.
NO_TEXTURE_SPINS = 0.5
# And of the stills in which nothing grows or shrinks: what grows begins smallest of all, what shrinks largest.
NOTHING_RESIZES = 0.5


@dataclass(frozen=True, slots=True)
class Told:
    """Of the frames whose captions tell of two objects: which words speak of which, and where each is.

    frames_M: indices of these frames. words_M: the two objects' words, by their place in the caption.
    masks_M2HW: the two objects, 0..1.
    """

    frames_M: Sequence[int]
    words_M: Sequence[tuple[range, range]]
    masks_M2HW: torch.Tensor


@dataclass(frozen=True, slots=True)
class Shown:
    """Frames of a batch at one size, clip after clip.

    frames_NCHW: RGB in [0, 1]. masks_NHW: 0..1, where the loss looks closest; zeros weigh everything the same.
    plain: gives the same frames as a low resolution knows them before it is applied: without texture, where that is known.
    told: gives what speaks of what in frames with two objects; None where there are none, or nobody knows.
    """

    frames_NCHW: torch.Tensor
    masks_NHW: torch.Tensor
    plain: Callable[[], torch.Tensor]
    told: Callable[[], Told | None] = lambda: None


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
            lambda: self._told(keyframes, pixels),
        )

    def _told(self, keyframes: Sequence[int], pixels: int) -> Told | None:
        words = [words_of_objects(caption) for caption in self.captions]
        frames = [(n, index) for n, each in enumerate(words) if each for index in range(len(keyframes))]
        if not frames:
            return None

        def masks(which: int) -> torch.Tensor:
            alone = [SceneSpec((self.scenes[n].objects[which],), self.scenes[n].background) for n, _ in frames]
            times = [self.times[n][keyframes[index]] for n, index in frames]
            return object_masks(frame_parameters(list(zip(alone, times, strict=True))), pixels)

        return Told(
            [n * len(keyframes) + index for n, index in frames],
            [each for each in words if each for _ in keyframes],
            torch.stack([masks(0), masks(1)], dim=1),
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
            scene = _still_scene(rng)
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


def _still_scene(rng: random.Random) -> SceneSpec:
    """A scene to paint: one object or two, the sizes that are hardest to paint more often."""
    while True:
        scene = _drawn_scene(rng)
        if any(each.motion in ("growing", "shrinking") for each in scene.objects) or rng.random() >= NOTHING_RESIZES:
            return scene


def _moving_scene(rng: random.Random) -> SceneSpec:
    """A scene to animate: one object or two, the motions that are easy to learn less often."""
    while True:
        scene = _drawn_scene(rng)
        if rng.random() < min(EASY_MOTIONS.get(each.motion, 0.0) for each in scene.objects):
            continue
        texture_spins = any(each.motion == "spinning" and each.texture != "none" for each in scene.objects)
        if texture_spins or rng.random() >= NO_TEXTURE_SPINS:
            return scene


def _drawn_scene(rng: random.Random) -> SceneSpec:
    """One object or two, of which the one that is named first lies nearer to the upper left.

    A prompt does not say where its objects are. Where either may be anywhere, the first thing that a network makes out of
    noise is a mean of both; an order tells it which words belong to which part of the picture.
    """
    if rng.random() < TWO_OBJECT_SHARE:
        return in_reading_order(sample_scene(rng, num_objects=2), rng)
    return sample_scene(rng)
