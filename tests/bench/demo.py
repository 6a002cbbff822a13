"""What the demo costs: wall time and peak memory of the whole process tree, on the machine that runs it.

    python tests/bench/demo.py [--prompts examples/prompts.txt] [--preset tiny] [--set key=value ...]

Memory is the sum of the proportional set sizes (pages shared by several processes count once), sampled twice a second.
Linux only. Run it on an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", default="examples/prompts.txt")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as output:
        command = [str(Path(sys.executable).with_name("magicvideo")), "generate", options.prompts, "--output", output]
        command += ["--preset", options.preset, *(word for each in options.overrides for word in ("--set", each))]
        started, peak_bytes = time.monotonic(), 0
        process = subprocess.Popen(command)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, sum(_proportional_set_bytes(pid) for pid in _tree(process.pid)))
            time.sleep(0.5)
        wall_s = time.monotonic() - started
    print(f"cores {os.cpu_count()}  exit {process.returncode}  wall {wall_s:.1f} s  peak {peak_bytes / 2**30:.2f} GiB")


def _tree(root: int) -> set[int]:
    """The process and all below it. Ray's daemons leave the tree by their parent, so those of its session count too."""
    parents, sessions = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)], sessions[int(entry.name)] = int(fields[1]), int(fields[3])
    tree = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        if not more:
            return tree | {pid for pid, session in sessions.items() if session in tree}
        tree |= more


def _proportional_set_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
