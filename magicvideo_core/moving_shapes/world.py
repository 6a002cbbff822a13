"""The Moving Shapes world: attribute values, scene description, motion over time and the held-out rule.

Canvas coordinates are 0..1 with y down; time `u` is 0 at the first frame and 1 at the last.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (245, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (40, 200, 220),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (16, 16, 16),
    "gray": (120, 120, 120),
    "navy": (20, 30, 90),
    "brown": (100, 65, 35),
}
SIZES = {"small": 0.15, "big": 0.25}
TEXTURES = ("none", "striped", "dotted")
MOVES = {
    "moving left": (-1.0, 0.0),
    "moving right": (1.0, 0.0),
    "moving up": (0.0, -1.0),
    "moving down": (0.0, 1.0),
}
MOTIONS = (*MOVES, "standing still", "growing", "shrinking", "spinning")

MOVE_DISTANCE = 0.45
GROWTH = (0.6, 1.5)
SPIN_RADIANS = math.pi
DARK_FACTOR = 0.55
STRIPE_PERIOD = 1 / 16
DOT_PITCH = 1 / 12
DOT_RADIUS = 1 / 40
STAR_INNER_RADIUS = 0.45
CROSS_HALF_WIDTH = 0.316


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether the triple is kept out of all training (47 of the 320 triples are)."""
    return zlib.crc32(f"{colour} {shape} {motion}".encode()) % 8 == 0


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """One object: its words, and its circumcentre (x, y) in the first frame, canvas coordinates."""

    shape: str
    colour: str
    size: str
    texture: str
    motion: str
    x: float = 0.5
    y: float = 0.5

    @property
    def held_out(self) -> bool:
        return is_held_out(self.colour, self.shape, self.motion)

    @property
    def words(self) -> str:
        texture = "" if self.texture == "none" else f"{self.texture} "
        return f"a {self.size} {texture}{self.colour} {self.shape} {self.motion}"

    def at(self, u: float) -> tuple[float, float, float, float]:
        """Circumcentre x, y, circumradius (canvas units) and clockwise angle (radians) at time u in 0..1."""
        dx, dy = MOVES.get(self.motion, (0.0, 0.0))
        radius = SIZES[self.size]
        if self.motion == "growing":
            radius *= GROWTH[0] + (GROWTH[1] - GROWTH[0]) * u
        elif self.motion == "shrinking":
            radius *= GROWTH[1] + (GROWTH[0] - GROWTH[1]) * u
        angle = SPIN_RADIANS * u if self.motion == "spinning" else 0.0
        return self.x + MOVE_DISTANCE * u * dx, self.y + MOVE_DISTANCE * u * dy, radius, angle


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """One clip of the world: one or two objects (the second is drawn over the first) on a background."""

    objects: tuple[ObjectSpec, ...]
    background: str

    @property
    def held_out(self) -> bool:
        return any(each.held_out for each in self.objects)

    @property
    def prompt(self) -> str:
        """The canonical prompt of the scene."""
        return f"{' and '.join(each.words for each in self.objects)} on a {self.background} background"


def parse_prompt(prompt: str) -> SceneSpec | None:
    """The scene that a canonical prompt (one or two objects) asks for, at default positions; None for any other text."""
    text = " ".join(prompt.lower().split())
    head, separator, tail = text.rpartition(" on a ")
    background = tail.removesuffix(" background")
    if not separator or background == tail or background not in BACKGROUNDS:
        return None
    objects = [_parse_object(part) for part in head.split(" and ")]
    if not 1 <= len(objects) <= 2 or any(each is None for each in objects):
        return None
    return SceneSpec(tuple(each for each in objects if each is not None), background)


def _parse_object(text: str) -> ObjectSpec | None:
    motion = next((each for each in MOTIONS if text.endswith(f" {each}")), None)
    if motion is None:
        return None
    words = text.removesuffix(motion).split()
    if len(words) == 4:
        words.insert(2, "none")
    if len(words) != 5 or words[0] != "a":
        return None
    _, size, texture, colour, shape = words
    if size not in SIZES or texture not in TEXTURES or colour not in COLOURS or shape not in SHAPES:
        return None
    return ObjectSpec(shape, colour, size, texture, motion)


# ---- sampling -----------------------------------------------------------------------------------------------------


def place(spec: ObjectSpec, rng: random.Random) -> ObjectSpec:
    """The object at a random position where it stays inside the canvas in every frame."""
    margin = max(spec.at(0.0)[2], spec.at(1.0)[2])
    dx, dy = (MOVE_DISTANCE * each for each in MOVES.get(spec.motion, (0.0, 0.0)))
    x = rng.uniform(margin - min(dx, 0.0), 1 - margin - max(dx, 0.0))
    y = rng.uniform(margin - min(dy, 0.0), 1 - margin - max(dy, 0.0))
    return ObjectSpec(spec.shape, spec.colour, spec.size, spec.texture, spec.motion, x, y)


def sample_object(rng: random.Random, *, held_out: bool | None = False) -> ObjectSpec:
    """One random object. `held_out` False: only trained triples, True: only held-out ones, None: any."""
    while True:
        shape, motion = rng.choice(SHAPES), rng.choice(MOTIONS)
        colour, size, texture = rng.choice(tuple(COLOURS)), rng.choice(tuple(SIZES)), rng.choice(TEXTURES)
        if shape == "circle" and motion == "spinning" and texture == "none":
            continue
        if held_out is None or is_held_out(colour, shape, motion) == held_out:
            return place(ObjectSpec(shape, colour, size, texture, motion), rng)


def _fits_two_objects(first: ObjectSpec, second: ObjectSpec) -> bool:
    if first.colour == second.colour or (first.size == second.size == "big"):
        return False
    if any(each.size == "big" and each.motion in ("growing", "shrinking") for each in (first, second)):
        return False
    for u in (0.0, 1.0):
        (ax, ay, ar, _), (bx, by, br, _) = first.at(u), second.at(u)
        if math.hypot(ax - bx, ay - by) <= ar + br:
            return False
    return True


def sample_scene(rng: random.Random, *, num_objects: int = 1, held_out: bool | None = False) -> SceneSpec:
    """One random scene. A two-object scene is held out if either of its triples is."""
    background = rng.choice(tuple(BACKGROUNDS))
    if num_objects == 1:
        return SceneSpec((sample_object(rng, held_out=held_out),), background)
    while True:
        first = sample_object(rng, held_out=False if held_out is False else None)
        second = sample_object(rng, held_out=False if held_out is False else None)
        for _ in range(8):
            if _fits_two_objects(first, second):
                scene = SceneSpec((first, second), background)
                if held_out is not True or scene.held_out:
                    return scene
                break
            first, second = place(first, rng), place(second, rng)


def in_reading_order(scene: SceneSpec, rng: random.Random, *, margin: float = 0.4, tries: int = 64) -> SceneSpec:
    """A scene of two with its objects placed again until the first lies nearer to the upper left than the second.

    Their x + y then differ by `margin` (canvas units), or by the most that was found in `tries`: an object that moves up begins
    low and one that moves right begins at the left, so that such a pair hardly fits in that order.
    """
    best, lead = scene, _lead(*scene.objects)
    for _ in range(tries):
        if lead >= margin:
            break
        first, second = (place(each, rng) for each in scene.objects)
        if _fits_two_objects(first, second) and _lead(first, second) > lead:
            best, lead = SceneSpec((first, second), scene.background), _lead(first, second)
    return best


def _lead(first: ObjectSpec, second: ObjectSpec) -> float:
    """How much nearer to the upper left the first object is, along x + y."""
    return second.x + second.y - first.x - first.y
