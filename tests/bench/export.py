"""What an export costs: choosing among many clips, writing both layouts, going on where nothing is left to do.

    python tests/bench/export.py --clips 20000

Clips without media: every artifact is a kilobyte. Seconds of CPU and of the clock, and the peak memory of the process.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_core.clips import Shards
from magicvideo_core.config import load_config
from magicvideo_core.dataset.export import plan_export, write_export
from magicvideo_core.dataset.facts import THUMBNAIL_BYTES
from magicvideo_core.dataset.measurements import MEASUREMENT_SCHEMA, NUMBERS
from magicvideo_core.dataset.request import export_request
from magicvideo_core.manifest.layout import artifact_key, measurements_key
from magicvideo_core.manifest.parquet import to_parquet
from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import new_run_record, write_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage

SHARD_SIZE = 250


def write_run(storage: Storage, num_clips: int) -> None:
    """Write a finished run of `num_clips` clips of one stage, measured."""
    rng = np.random.default_rng(0)
    shards = Shards.cut([clip_of_prompt(f"prompt {number // 2}", number) for number in range(num_clips)], SHARD_SIZE)
    write_run_json(storage, new_run_record("bench", load_config("tiny"), {}, "prompts.txt", shards))
    write_plan(storage, shards)
    for shard_id, shard in enumerate(shards):
        rows, facts = [], []
        for clip in shard:
            stored = storage.write(artifact_key("vfi", clip.clip_id, f"{clip.seed:016x}", ".mp4"), rng.bytes(1024))
            known = {"clip_id": clip.clip_id, "shard_id": shard_id, "stage": "vfi", "sha256": stored.sha256}
            row = {"run_id": "bench", "attempt": 1, "status": "succeeded", "prompt": clip.prompt, "seed": clip.seed}
            shape = {"width": 128, "height": 128, "num_frames": 46, "fps": 24.0, "recipe_hash": "0" * 16}
            where = {"artifact_uri": stored.uri, "size_bytes": stored.size_bytes}
            rows.append(ManifestRow.from_dict({**known, **row, **shape, **where}))
            numbers = dict(zip(NUMBERS, rng.uniform(0, 100, len(NUMBERS)).tolist(), strict=True))
            nothing = dict.fromkeys(MEASUREMENT_SCHEMA.names)
            facts.append({**nothing, **known, **numbers, "facts_version": 1, "thumbnails": rng.bytes(THUMBNAIL_BYTES)})
        write_manifest(storage, "vfi", shard_id, 1, rows)
        storage.write(measurements_key("vfi", shard_id), to_parquet(facts, MEASUREMENT_SCHEMA))


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Call and print one line of the table."""
    cpu_s, wall_s = time.process_time(), time.monotonic()
    result = call()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {what} | {time.process_time() - cpu_s:.1f} | {time.monotonic() - wall_s:.1f} | {peak_mib:.0f} |", flush=True
    )
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What an export costs.")
    parser.add_argument("--clips", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Storage(Path(folder) / "run")
        write_run(run, options.clips)
        print(f"{options.clips} clips\n\n| what | s of CPU | s | peak MiB |\n|---|---|---|---|")
        request = export_request(
            runs=(run.uri,), format="webdataset", where=("sharpness > 5",), splits="train=0.9,test=0.1"
        )
        timed("choosing: a filter, exact duplicates, splits", lambda: plan_export(request, measure=False))
        near = request.model_copy(update={"dedupe": "near"})
        timed("the same, near-duplicates too", lambda: plan_export(near, measure=False))
        for layout in ("webdataset", "huggingface"):
            plan = plan_export(request.model_copy(update={"format": layout}), measure=False)
            to = str(Path(folder) / layout)
            timed(f"writing {layout}", lambda plan=plan, to=to: write_export(plan, to))
            timed(f"{layout} again, whole already", lambda plan=plan, to=to: write_export(plan, to))


if __name__ == "__main__":
    main()
