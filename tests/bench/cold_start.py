"""From the command to the first denoising step of the demo: a timeline of what starts when. Ends the run there.

    python tests/bench/cold_start.py [--prompts examples/prompts.txt] [--repeats 1] [--set key=value ...]
    python tests/bench/cold_start.py --warm     # in a Ray that goes on: a run that loads its actors, then one that finds them

Times are seconds since the command was given. Run it on an idle machine. `--warm` starts a Ray as `ray start --head` does,
gives the command with `--keep-warm` twice, each to its end, looks with `magicvideo pools` whether the second had the actors
of the first, and ends them and Ray.
"""

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

LAST = "first denoising step"
TIMEOUT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", default="examples/prompts.txt")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--warm", action="store_true")
    options = parser.parse_args()
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as output:
            if options.warm:
                _measure_warm(options.prompts, output, options.overrides)
            else:
                _measure(options.prompts, output, options.overrides)


def _measure_warm(prompts: str, output: str, overrides: list[str]) -> None:
    with _ray() as address:
        os.environ["RAY_ADDRESS"] = address
        _measure(prompts, output, overrides, run_id="first", keep_warm=True)
        kept = {actor["pid"] for actor in _pools()["actors"]}
        _measure(prompts, output, overrides, run_id="second", keep_warm=True)
        again = {actor["pid"] for actor in _pools()["actors"]}
        ended = _pools("--end")
        print(
            f"actors kept {len(kept)}, taken over {len(kept & again)}, ended {ended['ended']}, left {len(ended['actors'])}"
        )


@contextmanager
def _ray() -> Iterator[str]:
    """Start Ray in processes of their own, as from a terminal, for this machine alone; gives its address."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    command = [
        ray,
        "start",
        "--head",
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--block",
    ]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends_s = time.monotonic() + TIMEOUT_S
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if head.poll() is not None or time.monotonic() > ends_s:
                raise SystemExit(f"Ray did not start; exit code {head.poll()}")
            time.sleep(0.2)
        # What answers first is its store; its node follows.
        time.sleep(5)
        yield f"127.0.0.1:{port}"
    finally:
        # Ends every process of this Ray, and of no other.
        head.terminate()
        head.wait()


def _pools(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "flows.cli", "pools", "--json", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _measure(prompts: str, output: str, overrides: list[str], *, run_id: str = "cold", keep_warm: bool = False) -> None:
    command = [sys.executable, "-m", "flows.cli", "generate", prompts, "--output", output, "--run-id", run_id]
    command += [word for each in overrides for word in ("--set", each)]
    command += ["--keep-warm"] if keep_warm else []
    started_s = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    logs = Path(output, run_id, "logs")
    try:
        while not any(record["message"] == LAST for record in _records(logs)):
            if process.poll() is not None or time.time() - started_s > TIMEOUT_S:
                raise SystemExit(f"no denoising step in {time.time() - started_s:.0f} s; exit code {process.poll()}")
            time.sleep(0.2)
        records = _records(logs)
        if keep_warm and process.wait() != 0:
            raise SystemExit(f"the run ended with exit code {process.returncode}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
    print(f"run {run_id!r}")
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
