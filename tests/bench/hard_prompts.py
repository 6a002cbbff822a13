"""What the embedded family finds hardest, in one process: textures that spin, the smallest and the largest references.

python tests/bench/hard_prompts.py [--kind spinning-texture] [--count 12] [--set v2v.strength=0.6 ...] [--frames DIR]

Prints a table of every stage as `magicvideo evaluate --stage all` does. The prompts are of no other evaluation set.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from magicvideo_core.config import load_config
from magicvideo_core.evaluation.fidelity import upscaled
from magicvideo_core.evaluation.measures import note_lost_texture
from magicvideo_core.evaluation.prompt_sets import evaluation_prompts
from magicvideo_core.evaluation.runs import COLUMNS
from magicvideo_core.evaluation.scoring import EvaluationReport
from magicvideo_core.evaluation.tables import stages_table
from magicvideo_core.moving_shapes.world import ObjectSpec, parse_prompt
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.sample import sample_batch
from magicvideo_core.stages.base import Frames

KINDS: dict[str, Callable[[ObjectSpec], bool]] = {
    "spinning-texture": lambda each: each.motion == "spinning" and each.texture != "none",
    "smallest": lambda each: each.motion == "growing" and each.size == "small",
    "largest": lambda each: each.motion == "shrinking" and each.size == "big",
    "two-objects": lambda each: True,
}
STAGES = {"spinning-texture": "t2i,i2v,v2v", "smallest": "t2i", "largest": "t2i", "two-objects": "t2i,i2v,v2v"}
PROMPT_SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, default="spinning-texture")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1000, help="of the first clip; the next one has the next")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument(
        "--frames", type=Path, help="a folder for one picture a clip: reference, keyframes, refined frames"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config("tiny", None, [f"stages={STAGES[options.kind]}", *options.overrides])
    prompts = hard_prompts(options.kind, options.count)
    clips = [clip_of_prompt(prompt, options.seed + index) for index, prompt in enumerate(prompts)]
    reports: dict[str, EvaluationReport] = {}
    for prompt, frames in zip(prompts, sample_batch(clips, config), strict=True):
        judge_clip(prompt, frames, reports)
        if options.frames:
            options.frames.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(frames)).save(options.frames / f"{prompt.replace(' ', '-')}.png")
    print(
        stages_table(f"{options.kind}, {len(prompts)} clips", {COLUMNS[name]: each for name, each in reports.items()})
    )


def hard_prompts(kind: str, count: int) -> list[str]:
    """`count` canonical prompts of which every object is of that kind."""
    if kind == "two-objects":
        return evaluation_prompts(count, PROMPT_SEED, num_objects=2)
    scenes = [parse_prompt(prompt) for prompt in evaluation_prompts(900, PROMPT_SEED)]
    return [scene.prompt for scene in scenes if scene is not None and all(map(KINDS[kind], scene.objects))][:count]


def judge_clip(prompt: str, frames: dict[str, Frames], reports: dict[str, EvaluationReport]) -> None:
    shown = dict(frames)
    if "v2v" in frames:
        refined = shown.pop("v2v")
        shown |= {"bicubic": upscaled(frames["i2v"], refined.shape[1:3]), "v2v": refined}
    measures = {}
    for name, each in shown.items():
        report = reports.setdefault(name, EvaluationReport())
        result = report.add(prompt, each, reference_HWC_u8=frames["t2i"][0])
        assert result is not None, "the prompts are canonical"
        measures[name] = result.measures
    note_lost_texture(measures)


def picture(frames: dict[str, Frames]) -> Frames:
    """The reference image, and below it six keyframes above the same refined frames."""
    size = frames["t2i"].shape[1:3]
    rows = [frames["t2i"][:1]]
    rows += [upscaled(frames[name][::3], size) for name in ("i2v", "v2v") if name in frames]
    width = max(len(row) for row in rows)
    padded = [np.concatenate([row, np.zeros((width - len(row), *row.shape[1:]), np.uint8)]) for row in rows]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in padded])


if __name__ == "__main__":
    main()
