"""Seconds per clip and stage, warm, in one process: what the models cost without any orchestration.

python tests/bench/clip.py [--clips 3] [--threads 2] [--set key=value ...]
"""

import argparse
import os
import time

import torch

from magicvideo_core.config import load_config
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages.base import StageItem
from magicvideo_core.stages.registry import create_stage, resolve_device

PROMPT = "a big red circle moving right on a navy background"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config("tiny", None, options.overrides)
    reference, frames, total_s = None, None, 0.0
    for name in config.stages:
        stage = create_stage(name, config)
        started = time.perf_counter()
        stage.load(resolve_device(config.device))
        load_s, clips_s = time.perf_counter() - started, []
        for seed in range(options.clips + 1):
            started = time.perf_counter()
            outcome = stage.process([StageItem(clip_of_prompt(PROMPT, seed), reference, frames)])[0]
            clips_s.append(time.perf_counter() - started)
        stage.close()
        assert outcome.frames_THWC_u8 is not None, outcome.error
        frames = None if name == "t2i" else outcome.frames_THWC_u8
        reference = outcome.frames_THWC_u8[0] if name == "t2i" else reference
        # The first clip warms up.
        per_clip_s = sorted(clips_s[1:])[options.clips // 2]
        total_s += per_clip_s
        print(f"{name}  load {load_s:5.2f} s  clip {per_clip_s:6.2f} s")
    print(f"all stages: {total_s:.2f} s a clip, {options.threads} threads")


if __name__ == "__main__":
    main()
