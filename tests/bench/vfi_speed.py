"""What interpolation costs: 31 pairs to 94 frames, and time per frame and peak memory by size, each in its own process.

python tests/bench/vfi_speed.py [--sizes 128 256 512 1048] [--threads 2] [--set key=value ...]
"""

import argparse
import json
import resource
import subprocess
import sys
import time

KEYFRAMES, FACTOR = 32, 3
CLIP_PX = 128
BAR_S, BAR_GIB = 4.0, 4.0


def measure(size_px: int, keyframes: int, threads: int, overrides: list[str]) -> dict[str, float]:
    """Interpolate rendered frames once to warm up and once for the clock; this process's peak memory."""
    import torch

    from magicvideo_core.config.loading import load_config
    from magicvideo_core.stages.vfi import VFIStage
    from magicvideo_core.training.textured_scenes import SceneSettings, draw_scenes

    torch.set_num_threads(threads)
    settings = SceneSettings(
        canvas_px=min(size_px, 256), families=("fractal_noise",), shift_px=(4.0, 4.0), full_speed=True, still_share=0
    )
    scene = draw_scenes(torch.Generator().manual_seed(0), 1, settings)
    frames_TCHW = torch.cat([scene.render(torch.full((1, 1), float(t)))[0] for t in range(keyframes)])
    tiles = -(-size_px // settings.canvas_px)
    frames = (frames_TCHW.repeat(1, 1, tiles, tiles)[:, :, :size_px, :size_px] * 255).to(torch.uint8)
    given = frames.permute(0, 2, 3, 1).contiguous().numpy()
    stage = VFIStage(load_config("tiny", overrides=overrides))
    stage.load("cpu")
    before = peak_gib()
    for _ in stage.interpolate(given[:2], FACTOR):
        pass
    started = time.perf_counter()
    count = sum(1 for _ in stage.interpolate(given, FACTOR))
    elapsed = time.perf_counter() - started
    made = count - keyframes
    return {"frames": count, "seconds": elapsed, "per_frame_s": elapsed / made, "gib": peak_gib(), "before_gib": before}


def peak_gib() -> float:
    """The most memory that this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_child(size_px: int, keyframes: int, options: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own, so that the peak is its own."""
    command = [sys.executable, __file__, "--child", str(size_px), str(keyframes), "--threads", str(options.threads)]
    command += [part for each in options.set for part in ("--set", each)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512, 1048])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the preset tiny")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child, options.threads, options.set)))
        return
    clip = in_child(CLIP_PX, KEYFRAMES, options)
    word = "met" if clip["seconds"] < BAR_S else "NOT met"
    print(
        f"{KEYFRAMES - 1} pairs to {clip['frames']} frames at {CLIP_PX}x{CLIP_PX} in {clip['seconds']:.2f} s "
        f"on {options.threads} threads: bar of {BAR_S:.0f} s {word}\n"
    )
    print("| size | s per new frame | peak memory, GiB | of it before the first pair |\n|---|---|---|---|")
    for size in options.sizes:
        one = in_child(size, 2, options)
        print(f"| {size}x{size} | {one['per_frame_s']:.3f} | {one['gib']:.2f} | {one['before_gib']:.2f} |", flush=True)
    word = "met" if one["gib"] < BAR_GIB else "NOT met"
    print(f"\none pair at {size}x{size} in {one['gib']:.2f} GiB: bar of {BAR_GIB:.0f} GiB {word}")


if __name__ == "__main__":
    main()
