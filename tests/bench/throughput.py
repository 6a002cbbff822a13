"""The same load through this pipeline, Ray Data, Prefect with prefect-ray, and a plain loop; prints one table per load.

    python tests/bench/throughput.py                               # stages that do nothing, then stages that sleep
    python tests/bench/throughput.py --loads sleep --nodes 4       # the 8 logical GPUs on four nodes
    python tests/bench/throughput.py --systems magicvideo,loop --clips 500 --loads nothing --rounds 5
    python tests/bench/throughput.py --loads nothing --full-size   # frames as large and as many as the embedded family's

Every system has a process, a folder and a Ray cluster of its own. With rounds the systems alternate, so that what else
happens on the machine meets all of them; figures are medians over the rounds, and beside them stands how many times as
many clips per second this pipeline makes as each other system, round by round. prefect-ray comes with
`pip install -e '.[bench]'`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from cpu_time import CpuTime
from throughput_load import PROPORTIONS, Load, figures
from throughput_systems import SYSTEMS, WRITES

from magicvideo_core.ids import STAGES
from tasks.environment import set_environment

NUM_GPUS, LOAD_S = 8, 1.0
OURS = "magicvideo"
OBJECT_STORE_BYTES = 256 * 2**20
# Of a hundred clips prefect-ray's rate is known, and it takes a while.
MOST_CLIPS = {"prefect-ray": 100}
# By figure.
HEADINGS = {
    "clips_per_s": "clips/s",
    "mean_ms": "ms per (clip, stage)",
    "median_ms": "median, ms",
    "cpu_ms": "CPU, ms",
    "busy": "busy, %",
}


def make_load(kind: str, num_clips: int, ideal_s: float, full_size: bool, folder: Path) -> Load:
    """Return stages that do nothing, or stages that sleep so long that the ideal of the load is `ideal_s`."""
    if kind == "nothing":
        return Load(num_clips, dict.fromkeys(STAGES, 0.0), 0.0, 0, str(folder), full_size)
    scale = ideal_s * NUM_GPUS / num_clips / sum(PROPORTIONS.values())
    return Load(
        num_clips, {stage: PROPORTIONS[stage] * scale for stage in STAGES}, LOAD_S, NUM_GPUS, str(folder), full_size
    )


@contextmanager
def cluster(num_nodes: int) -> Iterator[str]:
    """Give the address of a Ray cluster: the logical GPUs spread over nodes beside a head without any, or all on one."""
    from ray.cluster_utils import Cluster

    quiet = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    head_gpus = NUM_GPUS if num_nodes == 1 else 0
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": head_gpus, **quiet})
    try:
        for _ in range(num_nodes if num_nodes > 1 else 0):
            made.add_node(num_cpus=4, num_gpus=NUM_GPUS // num_nodes, **quiet)
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


def measure(
    system: str, kind: str, num_clips: int, ideal_s: float, options: argparse.Namespace, folder: Path
) -> dict[str, float]:
    """Run one system in a process of its own, below `folder`; returns its figures."""
    # Who waits for the disk would write what the system before has left in memory.
    os.sync()
    with cluster(options.nodes) as address:
        load = make_load(kind, num_clips, ideal_s, options.full_size, Path(tempfile.mkdtemp(dir=folder)))
        command = [sys.executable, __file__, "--inside", system, json.dumps(asdict(load))]
        cpu_time = CpuTime()
        printed = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "RAY_ADDRESS": address}
        ).stdout
        cpu_time.close()
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    cpu_s = cpu_time.between(found["first_s"], found["last_s"])
    return {**found, "busy": 100 * found["busy"], "cpu_ms": 1000 * cpu_s / (num_clips * len(STAGES))}


def measure_all(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Run all systems, one after the other and round by round; returns the figures of each round by system.

    What they leave stays below `folder`: for some minutes an ext4 without a journal takes longer to make each new file the
    more of those beside it have been deleted.
    """
    found: dict[str, list[dict[str, float]]] = {system: [] for system in options.systems.split(",")}
    for number in range(options.rounds):
        for system, rounds in found.items():
            num_clips = min(options.clips, MOST_CLIPS.get(system, options.clips))
            # On one device the loop takes as many times longer.
            num_clips = max(num_clips // NUM_GPUS, 1) if kind == "sleep" and system.endswith("loop") else num_clips
            ideal_s = options.ideal_s * num_clips / options.clips
            rounds.append(measure(system, kind, num_clips, ideal_s, options, folder))
            told = ", ".join(f"{heading} {rounds[-1][name]:.2f}" for name, heading in HEADINGS.items())
            print(f"{kind}, round {number + 1}, {system}: {told}", file=sys.stderr, flush=True)
    return found


def print_table(kind: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians over the rounds, and what this pipeline makes of each other system's clips per second."""
    names = [name for name in HEADINGS if kind == "sleep" or name != "busy"]
    print(f"| system | {' | '.join(HEADINGS[name] for name in names)} | what it writes |\n|{'---|' * (len(names) + 2)}")
    for system, rounds in found.items():
        figures = (statistics.median(each[name] for each in rounds) for name in names)
        print(f"| {system} | {' | '.join(f'{figure:.2f}' for figure in figures)} | {WRITES[system]} |")
    ours = found.get(OURS)
    if ours is None or len(found) == 1:
        return
    print(f"\n| clips/s of {OURS} by those of | median | round by round |\n|---|---|---|")
    for system, rounds in found.items():
        if system != OURS:
            ratios = [a["clips_per_s"] / b["clips_per_s"] for a, b in zip(ours, rounds, strict=True)]
            told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"| {system} | {statistics.median(ratios):.2f} | {told} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--loads", default="nothing,sleep")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--ideal-s", type=float, default=30.0, help="what the sleeping load takes on always busy devices"
    )
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2, 4, 8))
    parser.add_argument("--full-size", action="store_true", help="frames as large and as many as the embedded family's")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        system, text = options.inside
        load = Load(**json.loads(text))
        print("\n" + json.dumps(figures(load, SYSTEMS[system](load))))
        return
    # Ray's workers import this folder's files and the project.
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # The clusters started here ask for no token, whatever an earlier Ray of this user has left.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    set_environment()
    for kind in options.loads.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = measure_all(kind, options, Path(folder))
        print(f"\n{kind}: {options.clips} clips, nodes: {options.nodes}, rounds: {options.rounds}\n")
        print_table(kind, found)


if __name__ == "__main__":
    main()
