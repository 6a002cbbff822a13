"""What a million prompts cost the control plane: planning, `status`, the resume scan, and Prefect's part; prints a table.

Each row is a process of its own, so that its peak memory is its own. `--clips` makes it smaller, `--folder` keeps what
was made for the next time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from magicvideo_core.clips import ClipTable
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.layout import manifest_key
from magicvideo_core.manifest.parquet import table_to_parquet
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA
from tasks.environment import set_environment

SHARD_SIZE = 250
# How far the stages are, and what share of the clips of a stage fails in it.
DONE = {"t2i": 0.75, "i2v": 0.55, "v2v": 0.4, "vfi": 0.3}
FAILING = 0.01
OPEN_SHARDS, OPEN_RECORDS = 8, 100


def write_prompts(path: Path, num_clips: int) -> None:
    """Write prompts of some length, each once."""
    with path.open("w") as file:
        for number in range(num_clips):
            scene = {
                "prompt": f"take {number} of a lighthouse in a storm seen from a small boat, dramatic light, 35 mm"
            }
            file.write(json.dumps({**scene, "id": f"row-{number}", "collection": f"set {number % 100}"}) + "\n")


def request(folder: Path) -> Any:
    """Return the request of the benchmark's run."""
    from tasks.resolve import RunRequest

    fake = tuple(f"{stage}.backend=fake" for stage in STAGES)
    return RunRequest(str(folder / "prompts.jsonl"), str(folder), overrides=fake, run_id="run", shard_size=SHARD_SIZE)


def build(folder: Path) -> dict[str, Any]:
    """Plan the run, and write what half of its work would have left."""
    from magicvideo_core.manifest.journal import write_record
    from magicvideo_core.manifest.schema import ManifestRow
    from tasks.plan import write_run
    from tasks.resolve import resolve_run

    run = resolve_run(request(folder))
    if not run.is_new:
        return {}
    write_run(run)
    rng = np.random.default_rng(0)
    for shard_id, clips in enumerate(run.shards):
        ok = np.full(len(clips), True)
        for stage in STAGES:
            if shard_id >= len(run.shards) * DONE[stage]:
                if shard_id < len(run.shards) * DONE[stage] + OPEN_SHARDS and ok.all():
                    for clip in clips[:OPEN_RECORDS]:
                        row = {"run_id": "run", "shard_id": shard_id, "stage": stage, "attempt": 1, "seed": clip.seed}
                        values = {**row, "clip_id": clip.clip_id, "prompt": clip.prompt, "duration_s": 1.0}
                        write_record(run.storage, ManifestRow(**values, status="succeeded", size_bytes=1000))
                break
            fails = ok & (rng.random(len(clips)) < FAILING)
            table = _rows(clips, stage, shard_id, np.where(fails, "failed", np.where(ok, "succeeded", "skipped")))
            run.storage.create(manifest_key(stage, shard_id, 1), table_to_parquet(table))
            ok &= ~fails
    return {}


def _rows(clips: ClipTable, stage: str, shard_id: int, status: np.ndarray) -> pa.Table:
    """Return the manifest of a shard whose clips ended as `status` says."""
    count = len(clips)
    done = status == "succeeded"
    uris = [
        f"/runs/run/artifacts/{stage}/{name}.{name}.mkv" if ok else None
        for name, ok in zip(clips.ids(), done, strict=True)
    ]
    start = datetime.now(UTC)
    values: dict[str, Any] = {
        "run_id": ["run"] * count,
        "shard_id": [shard_id] * count,
        "stage": [stage] * count,
        "attempt": [1] * count,
        "status": status.tolist(),
        "artifact_uri": uris,
        "sha256": ["0" * 64 if ok else None for ok in done],
        "size_bytes": [100_000 if ok else None for ok in done],
        "error_type": [None if ok else "GateError" for ok in done],
        "error_message": [None if ok else "the frames are black" for ok in done],
        "started_at": [start] * count,
        "duration_s": [1.5] * count,
        "gpu_s": [1.5] * count,
        "actor_id": ["a" * 32] * count,
    }
    known = {name: clips.columns[name].combine_chunks() for name in clips.columns.column_names}
    arrays = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else known.get(field.name, pa.nulls(count, field.type))
        for field in MANIFEST_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=MANIFEST_SCHEMA)


def plan(folder: Path) -> dict[str, Any]:
    """`magicvideo plan` for a new run."""
    from flows.cli import run_command

    return {"exit": run_command(["plan", request(folder).prompts, *_options(folder), "--output", str(folder / "new")])}


def status(folder: Path) -> dict[str, Any]:
    """`magicvideo status` of the half-finished run."""
    from flows.cli import run_command

    return {"exit": run_command(["status", str(folder / "run")])}


def resume(folder: Path) -> dict[str, Any]:
    """What `generate` does before the first clip: the prompts again, the plan, and what was found done."""
    from tasks.progress import found_done
    from tasks.resolve import resolve_run

    run = resolve_run(request(folder))
    return {"found": found_done(run.storage).clip_stages, "shards": len(run.shard_ids)}


def prefect(folder: Path) -> dict[str, Any]:
    """All shard-stages as Prefect tasks that do nothing, with the server that `generate` would start.

    Requests and events are those of this process, the server's only client.
    """
    set_environment()
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    from prefect import flow, task
    from prefect.events.clients import PrefectEventsClient

    import flows.waves
    from flows.launch import _start_prefect

    with (folder / "prompts.jsonl").open() as file:
        shards = -(-sum(1 for _ in file) // SHARD_SIZE)
    sent: Counter[str] = Counter()
    _count_calls(sent, "requests", httpx.Client, "send")
    _count_calls(sent, "requests", httpx.AsyncClient, "send")
    _count_calls(sent, "events", PrefectEventsClient, "emit")

    @task(task_run_name="{stage}-shard-{shard_id}", persist_result=False)
    def run_stage(run_uri: str, stage: str, shard_id: int) -> dict[str, int]:
        return {"succeeded": 1}

    @flow(task_runner=flows.waves.TASK_RUNNER, persist_result=False)
    def load() -> None:
        flows.waves.run_in_waves("run", range(shards), STAGES)

    flows.waves.run_stage = run_stage
    # As a run does: with what it does to Prefect's events at the end.
    with ExitStack() as stack:
        server = _start_prefect(stack)
        assert server is not None, "unset PREFECT_API_URL"
        server.wait_until_healthy()
        started_s = time.monotonic()
        load()
        took_s = time.monotonic() - started_s
    size = sum(path.stat().st_size for path in (folder / "prefect").rglob("*.db*"))
    return {"tasks": shards * len(STAGES), **sent, "flow_s": round(took_s, 1), "database_mb": round(size / 1e6)}


def _count_calls(counts: Counter[str], name: str, owner: type, method: str) -> None:
    """Count the calls of a method from here on."""
    called = getattr(owner, method)

    def counted(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        return called(*arguments, **named)

    setattr(owner, method, counted)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plan": plan,
    "build": build,
    "status": status,
    "resume": resume,
    "prefect": prefect,
}


def _options(folder: Path) -> list[str]:
    words = [word for override in request(folder).overrides for word in ("--set", override)]
    return [*words, "--shard-size", str(SHARD_SIZE)]


@contextmanager
def _place(folder: str | None) -> Iterator[Path]:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder).absolute()
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main() -> None:
    """Run the parts, one process each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--folder")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        found = PARTS[options.inside](Path(options.folder))
        used = resource.getrusage(resource.RUSAGE_SELF)
        figures = {"cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_mib": round(used.ru_maxrss / 1024)}
        print("\n" + json.dumps({**found, **figures}))
        return
    with _place(options.folder) as folder:
        if not (folder / "prompts.jsonl").exists():
            write_prompts(folder / "prompts.jsonl", options.clips)
        print(
            f"{options.clips} clips in shards of {SHARD_SIZE}\n\n| part | s | s of CPU | peak MiB | |\n|---|---|---|---|---|"
        )
        for part in options.parts.split(","):
            started_s = time.monotonic()
            command = [sys.executable, __file__, "--inside", part, "--folder", str(folder)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            took_s = time.monotonic() - started_s
            found = json.loads(printed.splitlines()[-1])
            figures = f"{took_s:.1f} | {found.pop('cpu_s')} | {found.pop('peak_mib')}"
            print(f"| {part} | {figures} | {', '.join(f'{k} {v}' for k, v in found.items())} |", flush=True)


if __name__ == "__main__":
    main()
