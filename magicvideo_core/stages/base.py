"""What a stage is: items in, outcomes out, and the protocol that every backend follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from magicvideo_core.clips import Clip
from magicvideo_core.config.models import RunConfig
from magicvideo_core.errors import ClipError

Frames = npt.NDArray[np.uint8]

# What an artifact of each stage is stored as: FFV1 keeps frames exact between stages, H.264 is for people.
ARTIFACT_SUFFIXES = {"t2i": ".png", "i2v": ".mkv", "v2v": ".mkv", "vfi": ".mp4"}


@dataclass(frozen=True)
class StageItem:
    """A clip and what the stages before it made; uint8 RGB in [0, 255].

    t2i needs neither array, i2v the reference image, v2v both, vfi the frames.
    """

    clip: Clip
    reference_image_HWC_u8: Frames | None = None
    frames_THWC_u8: Frames | None = None


@dataclass(frozen=True)
class Outcome:
    """What a stage made of one clip: either frames (uint8 RGB THWC; T = 1 for t2i) with their rate, or an error."""

    clip_id: str
    frames_THWC_u8: Frames | None
    fps: float
    error: ClipError | None = None


class Stage(Protocol):
    """One stage with resident weights; built cheaply, loaded once per actor."""

    def load(self, device: str) -> None:
        """Load the weights onto `device` ("cpu", "cuda" or "cuda:0"). Raises WeightsError."""
        ...

    def process(self, batch: Sequence[StageItem]) -> list[Outcome]:
        """Return one outcome per item in the same order; safe to call twice, independent of batch-mates."""
        ...

    def close(self) -> None:
        """Give the device's memory back; the stage may be loaded again."""
        ...


def keyframe_fps(config: RunConfig) -> float:
    """Return the rate of the frames before interpolation: 8 for 24 fps and a factor of 3."""
    return config.vfi.fps / config.vfi.interp_factor
