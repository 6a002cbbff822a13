"""The fault drills: what is lost, doubled, different or computed twice when things die, at full length.

    python tests/bench/fault_drills.py [--only actor-killed,driver-killed] [--scale 1] [--clips 40]

Every row is a run of the fake backend that is disturbed that often and given again until it ends with exit code 0, compared
with an undisturbed run byte by byte. Beside them a run with poison clips. Takes about an hour on two cores.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.drill import Load, undisturbed
from faults.poison import poison_run
from faults.scenarios import SCENARIOS, Setting

FAULTS = {
    "actor-killed": 40,
    "driver-killed": 15,
    "interrupted": 10,
    "prefect-killed": 1,
    "torn-writes": 8,
    "s3-failing": 1,
    "s3-restarted": 10,
    "key-taken-back": 2,
    "node-lost": 6,
}


def main() -> int:
    """Run the drills and print the table; exits with 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of drills, separated by commas; also poison")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of faults")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--poison-clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [*FAULTS, "poison"]
    held = True
    print(f"{os.cpu_count()} cores; {options.clips} clips, 4 stages")
    print(
        "| drill | faults | commands | missing | doubled | different | computed twice (in flight at most) | seconds | holds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder), options.clips, sleep_s=0.15)
        setting = Setting(load, undisturbed(load), options.seed) if set(names) - {"poison"} else None
        for name in names:
            if name == "poison" or setting is None:
                continue
            started_s = time.monotonic()
            verdict = SCENARIOS[name](setting, max(1, round(FAULTS[name] * options.scale)))
            held &= verdict.holds
            total += verdict.faults
            print(
                f"| {verdict.name} | {verdict.faults} | {verdict.commands} | {verdict.missing} | {verdict.doubled} | "
                f"{verdict.different} | {verdict.twice} ({verdict.in_flight}) | {time.monotonic() - started_s:.0f} | "
                f"{'yes' if verdict.holds else 'NO: ' + '; '.join(verdict.notes)} |",
                flush=True,
            )
    print(f"\n{total} faults injected")
    if "poison" in names:
        with tempfile.TemporaryDirectory() as folder:
            poison = poison_run(Path(folder), options.poison_clips)
        held &= poison.holds
        print(f"\n{poison.as_markdown()}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
