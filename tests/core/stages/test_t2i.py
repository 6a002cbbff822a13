"""T2I paints clips together, and none of them can tell."""

from collections.abc import Sequence

import numpy as np
import pytest

from magicvideo_core.clips import Clip
from magicvideo_core.config import load_config
from magicvideo_core.errors import ConfigError
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages.base import StageItem
from magicvideo_core.stages.t2i import T2IStage

CLIPS = [
    clip_of_prompt("a big red circle moving left on a navy background", 1),
    clip_of_prompt("a small striped blue star spinning on a gray background", 2),
    clip_of_prompt("a big dotted green square growing on a black background", 3, negative_prompt="a red circle"),
    clip_of_prompt("a small white cross standing still on a brown background", 4),
]


def paint(clips: Sequence[Clip], images_per_forward: int, *overrides: str) -> list[np.ndarray]:
    together = [f"t2i.images_per_forward={images_per_forward}", f"t2i.pool.batch_size={images_per_forward}"]
    steps = ["t2i.num_inference_steps=4", "t2i.refine_num_inference_steps=3"]
    stage = T2IStage(load_config(overrides=[*steps, *together, *overrides]))
    stage.load("cpu")
    outcomes = stage.process([StageItem(clip) for clip in clips])
    assert [outcome.clip_id for outcome in outcomes] == [clip.clip_id for clip in clips]
    return [outcome.frames_THWC_u8 for outcome in outcomes if outcome.frames_THWC_u8 is not None]


def test_images_do_not_depend_on_what_is_painted_beside_them() -> None:
    together = paint(CLIPS, 2)
    assert len({image.tobytes() for image in together}) == len(CLIPS)
    for clip, image in zip(CLIPS, together, strict=True):
        assert np.array_equal(paint([clip], 2)[0], image)
    for clip, image in zip(reversed(CLIPS), paint(CLIPS[::-1], 2), strict=True):
        assert np.array_equal(together[CLIPS.index(clip)], image)


def test_images_painted_together_are_those_painted_alone_but_for_rounding() -> None:
    for alone, together in zip(paint(CLIPS, 1), paint(CLIPS, 4), strict=True):
        assert np.abs(alone.astype(int) - together).max() <= 2


def test_the_second_pass_has_a_guidance_of_its_own() -> None:
    [same] = paint(CLIPS[:1], 1, "t2i.guidance_scale=2", "t2i.refine_guidance_scale=2")
    [weaker] = paint(CLIPS[:1], 1, "t2i.guidance_scale=2", "t2i.refine_guidance_scale=1")
    [stronger_first] = paint(CLIPS[:1], 1, "t2i.guidance_scale=4", "t2i.refine_guidance_scale=2")
    assert not np.array_equal(same, weaker)
    assert not np.array_equal(same, stronger_first)


def test_passes_larger_than_the_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of"):
        load_config(overrides=["t2i.images_per_forward=4", "t2i.pool.batch_size=2"])
