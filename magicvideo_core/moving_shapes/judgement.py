"""What the oracle says of one clip: per object what was seen and which words hold.

Coordinates are canvas units (0..1, y down), angles clockwise radians.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTRIBUTES = ("background", "colour", "shape", "size", "texture", "motion")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an object was measured to be; `motion` is "unclear" where no motion or several were seen.

    shape_iou: mean IoU with the template of `shape`; radius_start: at u = 0; displacement: x, y over the clip;
    growth: last radius over first; rotation: over the clip; texture_contrast: of the prompt's texture, 1 = as rendered
    (of the strongest pattern where the prompt names none).
    """

    colour: str
    shape: str
    size: str
    texture: str
    motion: str
    shape_iou: float
    radius_start: float
    displacement: tuple[float, float]
    growth: float
    rotation: float
    texture_contrast: float


@dataclass(frozen=True, slots=True)
class ObjectJudgement:
    """Which words of one object hold; `motion` is None for a still image. `seen` is None where there is no object."""

    colour: bool
    shape: bool
    size: bool
    texture: bool
    motion: bool | None
    seen: Seen | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one clip; each attribute holds when it holds for every object.

    flicker: mean change of background pixels between neighbouring frames, 0..255 units.
    num_blobs: largest number of separate blobs in a frame where no object covers another; specks do not count.
    """

    background: bool
    objects: tuple[ObjectJudgement, ...]
    background_seen: str
    flicker: float
    num_blobs: int

    def holds(self, attribute: str) -> bool | None:
        """Whether the attribute is right for all objects; None where it is not judged (motion of a still image)."""
        if attribute == "background":
            return self.background
        values = [getattr(each, attribute) for each in self.objects]
        return None if None in values else all(values)

    @property
    def all_correct(self) -> bool:
        """Everything that was judged is right."""
        return all(self.holds(attribute) is not False for attribute in ATTRIBUTES)
