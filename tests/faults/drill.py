"""Fault drills: a run of the fake backend is disturbed on purpose, given again until it ends, and compared byte by byte.

Each drill runs the command line as a user would, in processes of its own, and counts what is missing, doubled,
different or computed twice against an undisturbed run of the same prompts.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.plan import list_shards, read_plan
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage

MAX_COMMANDS = 40
COMMAND_TIMEOUT_S = 600.0
_FAKE = (
    *(f"{stage}.backend=fake" for stage in STAGES),
    *(f"{stage}.{side}=16" for stage in STAGES[:3] for side in ("height", "width")),
    *(f"{stage}.num_frames=4" for stage in ("i2v", "v2v")),
    *(f"{stage}.pool.num_cpus=0.25" for stage in STAGES),
    "vfi.x264_preset=ultrafast",
)

Key = tuple[str, str]
# Disturbs the process of a driver once, after it was found at work; returns how many faults that was.
Disturb = Callable[["Driver"], int]


@dataclass(frozen=True)
class Load:
    """What every run of a drill does: prompts, and how long each fake stage takes for a clip."""

    folder: Path
    num_clips: int
    sleep_s: float = 0.1
    overrides: tuple[str, ...] = ()

    @property
    def prompts(self) -> Path:
        """The prompt file; written on first use."""
        path = self.folder / "prompts.txt"
        if not path.exists():
            path.write_text("".join(f"fake clip {number}\n" for number in range(self.num_clips)))
        return path

    def generate(self, output: str, run_id: str, prompts: str | None = None) -> list[str]:
        """Return the words of the command that starts, and later continues, a run."""
        settings = [*_FAKE, *(f"{stage}.fake.sleep_s={self.sleep_s}" for stage in STAGES), *self.overrides]
        settings += [f"{stage}.fake.trace_file={self.trace_file(run_id)}" for stage in STAGES]
        words = [sys.executable, "-m", "flows.cli", "generate", prompts or str(self.prompts), "--output", output]
        words += ["--run-id", run_id, "--shard-size", "5"]
        return words + [word for setting in settings for word in ("--set", setting)]

    def trace_file(self, run_id: str) -> Path:
        """Return where the fake stages of a run note each clip that they compute."""
        return self.folder / f"{run_id}.trace"


@dataclass
class Driver:
    """One process of the command line at work, as a disturbance finds it."""

    process: subprocess.Popen[bytes]
    run: Path
    random: random.Random

    def actors(self) -> list[psutil.Process]:
        """Return the stage actors of this driver alone."""
        return [each for each in self._descendants() if _title(each).startswith("ray::StageProcess")]

    def prefect_server(self) -> psutil.Process | None:
        """Return Prefect's ephemeral server of this driver."""
        return next((each for each in self._descendants() if "prefect_server.py" in _title(each)), None)

    def kill(self) -> None:
        """End the driver with SIGKILL, and with it, as when a machine dies, what it had started."""
        started = self._descendants()
        self.process.kill()
        self.process.wait()
        for each in started:
            kill_process(each)

    def num_written(self) -> int:
        """Return how many artifacts the run has so far."""
        return sum(1 for _ in self.run.glob("artifacts/*/*"))

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@dataclass
class Verdict:
    """What came of a drill. `twice` counts computations beyond the first of each (clip, stage)."""

    name: str
    faults: int = 0
    commands: int = 0
    clips: int = 0
    missing: int = 0
    doubled: int = 0
    different: int = 0
    twice: int = 0
    in_flight: int = 0
    exit_codes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is missing, doubled or different, and no more was done twice than was in flight."""
        return (
            self.exit_codes[-1:] == [0]
            and not (self.missing or self.doubled or self.different)
            and (self.twice <= self.in_flight)
        )


def drill(
    name: str,
    load: Load,
    truth: dict[Key, str],
    disturb: Disturb | None,
    *,
    output: Path | None = None,
    output_uri: str | None = None,
    prompts: str | None = None,
    times: int = 1,
    actors: int = 4,
    seed: int = 0,
    environment: dict[str, str] | None = None,
) -> Verdict:
    """Run `load`, disturbed `times` times in all, the same command again until it exits with 0; returns the verdict.

    `output` is the folder where the objects lie on this disk, also when `output_uri` names it otherwise (S3). `actors`
    is how many clips can be in flight at once: what a death of all of them may cost.
    """
    output = output or load.folder
    run = output / name
    verdict = Verdict(name, clips=load.num_clips)
    random_numbers = random.Random(seed)
    left = times if disturb is not None else 0
    while verdict.commands < MAX_COMMANDS:
        verdict.commands += 1
        command = load.generate(output_uri or str(output), name, prompts)
        with _started(command, environment) as process:
            driver = Driver(process, run, random_numbers)
            while left and disturb is not None and _wait_for_work(driver):
                injected = disturb(driver)
                verdict.faults += injected
                left -= 1 if injected else 0
            code = process.wait(COMMAND_TIMEOUT_S)
        verdict.exit_codes.append(code)
        # The work has ended where it says so twice: the same command does nothing more.
        if code == 0 or verdict.exit_codes[-2:] == [1, 1]:
            break
    verdict.in_flight = verdict.faults * actors
    compare(verdict, run, truth, load.trace_file(name))
    return verdict


def compare(verdict: Verdict, run: Path, truth: dict[Key, str], trace_file: Path) -> None:
    """Count what of `truth` a run lacks, has twice or has with other bytes, and what was computed twice."""
    found = hashes(run)
    verdict.missing = len(truth.keys() - found.keys())
    verdict.different = sum(1 for key, value in found.items() if truth.get(key) != value)
    rows = Counter(
        (row["stage"], row["clip_id"], row["attempt"])
        for path in run.glob("manifests/*/*.parquet")
        for row in pq.read_table(path).to_pylist()
    )
    objects: dict[Key, list[str]] = {}
    # Without the unfinished writes of a process or an S3 server that was killed: no listing shows them as objects.
    for path in run.glob("artifacts/*/[!.]*"):
        objects.setdefault((path.parent.name, path.name.split(".")[0]), []).append(path.name)
    doubled = [str(key) for key, count in rows.items() if count > 1]
    doubled += [" + ".join(names) for names in objects.values() if len(names) > 1]
    verdict.doubled = len(doubled)
    verdict.notes = [f"exits {verdict.exit_codes}", *(f"doubled {what}" for what in doubled)]
    lines = trace_file.read_text().splitlines() if trace_file.exists() else []
    verdict.twice = len(lines) - len(set(lines))


def hashes(run: Path) -> dict[Key, str]:
    """Return the sha256 of the bytes on disk of every clip that succeeded in every planned shard, by stage and clip."""
    storage = Storage(run)
    planned = {clip.clip_id for shard in list_shards(storage) for clip in read_plan(storage, shard)}
    found = {}
    for row in read_manifests(storage):
        if row.status == "succeeded" and row.artifact_uri and row.clip_id in planned:
            path = run / "artifacts" / row.stage / row.artifact_uri.rpartition("/")[2]
            if path.exists():
                found[row.stage, row.clip_id] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def undisturbed(load: Load) -> dict[Key, str]:
    """Run `load` once in peace and return its hashes."""
    with _started(load.generate(str(load.folder), "undisturbed"), None) as process:
        code = process.wait(COMMAND_TIMEOUT_S)
    found = hashes(load.folder / "undisturbed")
    if code != 0 or len(found) != load.num_clips * len(STAGES):
        raise RuntimeError(f"the undisturbed run ended with exit code {code} and {len(found)} artifacts")
    return found


def _wait_for_work(driver: Driver) -> bool:
    """Wait until the driver has made an artifact more than when it was last seen; False when it has ended."""
    before = driver.num_written()
    while driver.process.poll() is None:
        if driver.num_written() > before:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def _started(command: Sequence[str], environment: dict[str, str] | None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Shells start what runs in the background deaf to Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_process(process: psutil.Process) -> None:
    """SIGKILL a process, if it is still there."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
