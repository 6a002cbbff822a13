"""Captions of the Moving Shapes world: training variations, and the words the embedded family knows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from magicvideo_core.moving_shapes.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    ObjectSpec,
    SceneSpec,
)

VOCABULARY: tuple[str, ...] = (
    "a",
    "and",
    "on",
    "background",
    *SIZES,
    *TEXTURES[1:],
    *COLOURS,
    *(each for each in BACKGROUNDS if each not in COLOURS),
    *SHAPES,
    *dict.fromkeys(word for motion in MOTIONS for word in motion.split()),
)


_KNOWN = frozenset(VOCABULARY)
_WORD = re.compile(r"[^\W\d_]+|\d+")


def unknown_words(prompt: str) -> list[str]:
    """The words of the prompt, in order and once each, that the embedded family has never seen."""
    return unknown_words_of([prompt])


def unknown_words_of(prompts: Iterable[str]) -> list[str]:
    """The words of prompts, in order and once each, that the embedded family has never seen."""
    words = dict.fromkeys(word for prompt in prompts for word in _WORD.findall(prompt.lower()))
    return [word for word in words if word not in _KNOWN]


def training_caption(
    scene: SceneSpec, rng: random.Random, *, drop_all: float = 0.1, drop_some: float = 0.15, motion: bool = True
) -> str:
    """A caption of the scene for training: empty, canonical, or with attributes dropped and the background named first.

    Args:
        drop_all: probability of the empty caption (classifier-free guidance).
        drop_some: probability that single attributes are dropped (each at 30 %).
        motion: False leaves the motion words out, as befits a frame from the middle of a clip.
    """
    if rng.random() < drop_all:
        return ""
    drop = 0.3 if rng.random() < drop_some else 0.0
    parts = [_object_words(each, rng, drop, motion) for each in scene.objects]
    if drop and rng.random() < 0.3:
        return " and ".join(parts)
    if drop and rng.random() < 0.3:
        return f"on a {scene.background} background {' and '.join(parts)}"
    return f"{' and '.join(parts)} on a {scene.background} background"


def _object_words(spec: ObjectSpec, rng: random.Random, drop: float, keep_motion: bool) -> str:
    # A spinning circle without its texture looks still: its caption always names the texture.
    needs_texture = spec.shape == "circle" and spec.motion == "spinning"
    texture = [] if spec.texture == "none" or (rng.random() < drop and not needs_texture) else [spec.texture]
    size = [] if rng.random() < drop else [spec.size]
    colour = [] if rng.random() < drop else [spec.colour]
    motion = [spec.motion] if keep_motion and rng.random() >= drop else []
    return " ".join(["a", *size, *texture, *colour, spec.shape, *motion])


def words_of_objects(caption: str) -> tuple[range, range] | None:
    """Which words of a training caption, by their place in it, speak of its first object and of its second; None if of one."""
    words = caption.split()
    if "and" not in words:
        return None
    between, start, end = words.index("and"), 0, len(words)
    if words[0] == "on":
        start = words.index("background") + 1
    elif "on" in words:
        end = words.index("on")
    return range(start, between), range(between + 1, end)
