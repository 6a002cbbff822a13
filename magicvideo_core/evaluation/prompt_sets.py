"""Deterministic prompt sets for evaluation: half trained and half held-out triples, a seed for every row."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

from magicvideo_core.moving_shapes.world import parse_prompt, sample_scene


def evaluation_prompts(count: int, seed: int = 0, num_objects: int = 1, held_out: bool | None = None) -> list[str]:
    """Different canonical prompts, the same for the same arguments.

    Args:
        held_out: True or False for only held-out or only trained triples; None takes them in turn, trained first.

    Raises:
        ValueError: the world has hardly that many different prompts (7,616 with one object, 1,120 of them held out).
    """
    rng = random.Random(f"evaluation/{seed}/{num_objects}/{held_out}")
    prompts: dict[str, None] = {}
    repeats = 0
    while len(prompts) < count:
        if repeats > 200 + 4 * count:
            raise ValueError(f"the world has no {count} different prompts of this kind; ask for fewer")
        wanted = len(prompts) % 2 == 1 if held_out is None else held_out
        prompt = sample_scene(rng, num_objects=num_objects, held_out=wanted).prompt
        repeats += prompt in prompts
        prompts[prompt] = None
    return list(prompts)


def evaluation_rows(count: int, seed: int = 0, num_objects: int = 1) -> list[dict[str, Any]]:
    """The same prompts as rows of a prompt file: id, prompt, seed in [0, 2**31), held_out."""
    rows = []
    for index, prompt in enumerate(evaluation_prompts(count, seed, num_objects)):
        scene = parse_prompt(prompt)
        digest = hashlib.sha256(f"evaluation/{seed}/{index}/{prompt}".encode()).digest()
        kind = "" if num_objects == 1 else "two-"
        row = {
            "id": f"evaluation-{kind}{seed}-{index:05d}",
            "prompt": prompt,
            "seed": int.from_bytes(digest[:4], "big") >> 1,
            "held_out": bool(scene and scene.held_out),
        }
        rows.append(row)
    return rows


def write_prompt_file(path: str | os.PathLike[str], count: int, seed: int = 0, num_objects: int = 1) -> Path:
    """Write an evaluation prompt set as `.jsonl` for `magicvideo generate`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = evaluation_rows(count, seed, num_objects)
    target.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return target
