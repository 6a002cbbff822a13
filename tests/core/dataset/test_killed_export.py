"""A real SIGKILL in the middle of a real export, again and again: what goes on gives the bytes of one that was never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from core.dataset.small_runs import write_run

from magicvideo_core.dataset.export import export
from magicvideo_core.dataset.request import export_request
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage

NUM_CLIPS = 200


@pytest.mark.parametrize(("layout", "kills"), [("webdataset", 2), ("huggingface", 1)])
def test_killed_and_given_again_it_gives_the_same_bytes(tmp_path: Path, layout: str, kills: int) -> None:
    run = write_run(
        Storage(tmp_path / "run"),
        [clip_of_prompt(f"p{number}", number) for number in range(NUM_CLIPS)],
        clips_per_shard=100,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    request = export_request(runs=(run.uri,), format=layout, shard_clips=2, include=("t2i",), measurements=False)
    export(request, str(whole))
    shards_at_death = []
    for kill in range(1, kills + 1):
        process = started(run, layout, killed)
        # A few shards further than the last one came.
        while process.poll() is None and num_records(killed) < kill * 15:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was through before it could be killed"
        shards_at_death.append(num_records(killed))
    assert shards_at_death == sorted(shards_at_death) and shards_at_death[-1] < NUM_CLIPS // 2
    assert not (killed / "dataset.json").exists()
    assert started(run, layout, killed).wait(60) == 0
    assert contents(killed) == contents(whole)


def started(run: Storage, layout: str, place: Path) -> "subprocess.Popen[bytes]":
    """Start the command, two clips a shard."""
    words = ["-m", "flows.cli", "export", run.uri, "--format", layout, "--to", str(place), "--shard-clips", "2"]
    return subprocess.Popen(
        [sys.executable, *words, "--include", "t2i", "--no-measurements"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def num_records(place: Path) -> int:
    """Return how many shards are whole."""
    return sum(1 for path in place.glob("_export/train-*.json"))


def contents(place: Path) -> dict[str, bytes]:
    """Return every object, without the unfinished writes of a process that was killed."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}
