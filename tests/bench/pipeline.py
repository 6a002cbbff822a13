"""What the pipeline itself costs: a run on the fake backend, and how fast frames become bytes and back.

Run it on an idle machine: `make bench`, or `python tests/bench/pipeline.py --clips 64`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.media import decode_video, encode_lossless, encode_mp4
from magicvideo_core.storage import Storage

FRAME_SIZES_PX = (128, 1048)
NUM_FRAMES = {128: 46, 1048: 8}


def bench_pipeline(num_clips: int, shard_size: int) -> dict[str, float]:
    """Run `num_clips` through four fake stages that take no time; whatever it takes is the pipeline's own."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder, "prompts.txt")
        prompts.write_text("".join(f"fake clip {index}\n" for index in range(num_clips)))
        command = [str(Path(sys.executable).with_name("magicvideo")), "generate", str(prompts), "--output", folder]
        command += ["--run-id", "bench", "--shard-size", str(shard_size), "--json"]
        command += [argument for stage in STAGES for argument in ("--set", f"{stage}.backend=fake")]
        started_s = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_s = time.perf_counter() - started_s
        rows = [row for row in read_manifests(Storage(Path(folder, "bench"))) if row.status == "succeeded"]
    assert len(rows) == num_clips * len(STAGES), f"{len(rows)} finished stages of {num_clips} clips"
    figures = {"clips": num_clips, "wall_s": wall_s}
    for stage in STAGES:
        durations_s = [row.duration_s for row in rows if row.stage == stage and row.duration_s is not None]
        figures[f"{stage}_median_ms"] = 1000 * statistics.median(durations_s)
    started = [row.started_at for row in rows if row.started_at is not None]
    # From the first clip's start to the last one's: start-up of Prefect and Ray left out.
    busy_s = (max(started) - min(started)).total_seconds()
    return figures | {"start_up_s": wall_s - busy_s, "per_clip_and_stage_ms": 1000 * busy_s / len(rows)}


def bench_media(size_px: int) -> dict[str, float]:
    """Return frames per second of writing and reading smooth moving frames of one size."""
    num_frames = NUM_FRAMES[size_px]
    grid = np.linspace(0, 255, size_px, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(grid[:, None], grid[None, :], np.uint8(90)), axis=-1)
    frames = np.stack([np.roll(picture, 3 * index, axis=1) for index in range(num_frames)])
    lossless, mp4 = encode_lossless(frames, 8.0), encode_mp4(frames, 24.0)
    return {
        "ffv1_encode_fps": num_frames / _seconds(lambda: encode_lossless(frames, 8.0)),
        "ffv1_decode_fps": num_frames / _seconds(lambda: decode_video(lossless)),
        "h264_encode_fps": num_frames / _seconds(lambda: encode_mp4(frames, 24.0)),
        "h264_decode_fps": num_frames / _seconds(lambda: decode_video(mp4)),
    }


def _seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the fastest of a few calls: the others measure the machine's other work."""
    times = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - started_s)
    return min(times)


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=8)
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {f"media {size}x{size}": bench_media(size) for size in FRAME_SIZES_PX}
    figures["pipeline"] = bench_pipeline(arguments.clips, arguments.shard_size)
    print(json.dumps({part: {k: round(v, 2) for k, v in values.items()} for part, values in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
