"""From the command to the first denoising step of the demo: a timeline of what starts when. Ends the run there.

    python tests/bench/cold_start.py [--prompts examples/prompts.txt] [--repeats 1] [--set key=value ...]

Times are seconds since the command was given. Run it on an idle machine.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

LAST = "first denoising step"
TIMEOUT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", default="examples/prompts.txt")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as output:
            _measure(options.prompts, output, options.overrides)


def _measure(prompts: str, output: str, overrides: list[str]) -> None:
    command = [sys.executable, "-m", "flows.cli", "generate", prompts, "--output", output, "--run-id", "cold"]
    command += [word for each in overrides for word in ("--set", each)]
    started_s = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    logs = Path(output, "cold", "logs")
    try:
        while not any(record["message"] == LAST for record in _records(logs)):
            if process.poll() is not None or time.time() - started_s > TIMEOUT_S:
                raise SystemExit(f"no denoising step in {time.time() - started_s:.0f} s; exit code {process.poll()}")
            time.sleep(0.2)
        records = _records(logs)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    seen = set()
    for record in sorted(records, key=lambda record: record["time"]):
        key = record["message"], record.get("stage")
        if key in seen:
            continue
        seen.add(key)
        at_s = datetime.fromisoformat(record["time"]).timestamp() - started_s
        print(f"{at_s:7.2f} s  {record['message']:24} {record.get('stage', '')}")
        if record["message"] == LAST:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"cores {len(os.sched_getaffinity(0))}  load {os.getloadavg()[0]:.1f}  CPU of the driver alone {cpu_s:.1f} s")


def _records(logs: Path) -> list[dict[str, str]]:
    """Return what the run has logged; a line that is being written counts the next time."""
    found = []
    for path in logs.glob("*.jsonl") if logs.is_dir() else ():
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


if __name__ == "__main__":
    main()
