"""Runs on a real S3, prompts included: interrupted, continued, claimed by two drivers, and over a store that fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from faults.proxy import FaultRates
from PIL import Image

from flows.cli import run_command
from flows.launch import run_generate
from magicvideo_core.errors import RunError
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage
from tasks.progress import ProgressBoard
from tasks.resolve import RunRequest, resolve_run

pytestmark = pytest.mark.usefixtures("local_ray", "prefect_api")
PROMPTS = ("one", "two", "three", "four", "five")
# Two are enough: one that makes, and one that reads what was made.
STAGES = ("t2i", "i2v")


@pytest.fixture(scope="module")
def prompts(s3_session: Any) -> str:
    """A glob of two prompt files on S3."""
    storage = Storage(s3_session.uri("prompts"))
    storage.write("a.txt", "\n".join(PROMPTS[:2]).encode())
    storage.write("b.jsonl", "\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS[2:]).encode())
    return storage.join("*.*")


@pytest.fixture(scope="module")
def undisturbed(
    prompts: str,
    fake_overrides: tuple[str, ...],
    local_ray: None,
    prefect_api: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], str]:
    """The hash of every artifact of a run on local disk that nothing disturbs, by stage and clip."""
    request = RunRequest(
        prompts, str(tmp_path_factory.mktemp("runs")), overrides=fake_overrides, run_id="run", stages="t2i,i2v"
    )
    run = resolve_run(request)
    assert run_generate(run, request, lambda board: None)["succeeded"]
    return hashes(run.storage)


def hashes(storage: Storage) -> dict[tuple[str, str], str]:
    """Return the artifacts' hashes by stage and clip, having checked that rows are neither doubled nor unsuccessful."""
    rows = read_manifests(storage)
    assert {row.status for row in rows} == {"succeeded"}
    assert max(Counter((row.stage, row.clip_id) for row in rows).values()) == 1
    return {(row.stage, row.clip_id): str(row.sha256) for row in rows}


def wait_until(what: Callable[[], bool], patience_s: float = 90.0) -> None:
    """Wait for something that another process does."""
    give_up_s = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < give_up_s, "nothing came"
        time.sleep(0.1)


def test_two_drivers_ctrl_c_status_and_the_same_command_again(
    s3: Any,
    prompts: str,
    undisturbed: dict[tuple[str, str], str],
    fake_overrides: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray

    output = s3.uri(tmp_path.name)
    storage = Storage(f"{output}/run")
    words = [
        "generate",
        prompts,
        "--output",
        output,
        "--run-id",
        "run",
        "--shard-size",
        "2",
        "--stages",
        "t2i,i2v",
        "--json",
    ]
    # The first driver cannot end before it is interrupted, however slow the machine.
    hold_file = tmp_path / "hold"
    hold_file.touch()
    overrides = (*fake_overrides, f"i2v.fake.hold_file={hold_file}")
    words += [word for override in overrides for word in ("--set", override)]
    # 1. A driver works on the run, on the session's Ray and Prefect: starting others shows nothing.
    from prefect.settings import PREFECT_API_URL

    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
    }
    first = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        wait_until(lambda: bool(storage.list("journal/t2i") or storage.list("manifests")) or first.poll() is not None)
        # 2. A second one refuses while the first one lives, and leaves no trace.
        assert run_command(words) == 2
        refusal = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"Run {storage.uri} is being worked on by pid {first.pid} on " in refusal
        # 3. Ctrl-C; what it did is there, and says how to go on.
        first.send_signal(signal.SIGINT)
        stdout, stderr = first.communicate(timeout=120)
    finally:
        first.kill()
        hold_file.unlink()
    assert (first.returncode, stdout) == (3, ""), stderr
    assert "Interrupted; continue with: magicvideo generate " in stderr.splitlines()[-1]
    assert [record.ended_at is not None for record in read_sessions(storage)] == [True]
    assert run_command(["status", storage.uri, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert 0 < status["left"] < len(STAGES) * len(PROMPTS)
    # 4. The same command again does what is left.
    assert run_command(words) == 0
    assert json.loads(capsys.readouterr().out)["succeeded"]
    assert hashes(storage) == undisturbed
    done_before = len(STAGES) * len(PROMPTS) - status["left"]
    assert [record.found_done.clip_stages for record in read_sessions(storage)] == [0, done_before]
    # 5. Nothing that the processes knew of credentials is in what they wrote.
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    texts = [stderr, *(storage.read(key).decode() for key in storage.list() if key.endswith((".json", ".html")))]
    assert not [text for text in texts if secret in text]


def test_a_fifth_of_all_requests_failing_and_a_server_killed_change_nothing(
    s3: Any, prompts: str, undisturbed: dict[tuple[str, str], str], fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    request = RunRequest(
        prompts, s3.uri(tmp_path.name), overrides=fake_overrides, run_id="run", shard_size=3, stages="t2i,i2v"
    )
    before = s3.proxy.counts()
    s3.proxy.rates = FaultRates.evenly(0.2, slow_s=0.5)
    restarts: list[threading.Timer] = []

    def kill_the_server_once(board: ProgressBoard) -> None:
        if not restarts and board.snapshot()["t2i"].succeeded:
            s3.server.kill()
            restarts.append(threading.Timer(1.5, s3.server.start))
            restarts[0].start()

    run = resolve_run(request)
    summary = run_generate(run, request, kill_the_server_once)
    assert summary["succeeded"] and restarts
    injected = {kind: count - before[kind] for kind, count in s3.proxy.counts().items()}
    assert sum(injected.values()) - injected["requests"] > 10, injected
    s3.proxy.rates = FaultRates()
    assert hashes(run.storage) == undisturbed
    for row in read_manifests(run.storage):
        assert run.storage.size_bytes(str(row.artifact_uri).removeprefix(f"{run.uri}/")) == row.size_bytes


def test_a_mended_image_is_retried_and_damage_is_found(
    s3: Any, fake_overrides: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(s3.uri(tmp_path.name))
    storage.write("image.png", b"no picture")
    rows = [{"prompt": "one"}, {"prompt": "two", "image": storage.join("image.png")}]
    storage.write("prompts.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    words = [
        "generate",
        storage.join("prompts.jsonl"),
        "--output",
        storage.uri,
        "--run-id",
        "run",
        "--stages",
        "t2i,i2v",
    ]
    words += [word for override in fake_overrides for word in ("--set", override)]
    # 1. The clip whose image cannot be read is a row; the other one is made.
    assert run_command(words) == 1
    run = Storage(storage.join("run"))
    assert Counter(row.status for row in read_manifests(run)) == {"succeeded": 2, "failed": 1, "skipped": 1}
    # 2. With a readable image in its place, retry makes what is missing, and every object is accounted for.
    picture = BytesIO()
    Image.new("RGB", (64, 64), "orange").save(picture, "PNG")
    storage.write("image.png", picture.getvalue())
    assert run_command(["retry", run.uri]) == 0
    assert len(hashes(run)) == len(STAGES) * len(rows)
    assert run_command(["verify", run.uri]) == 0
    # 3. One damaged artifact is found, and said to be so.
    victim = str(read_manifests(run, stage="i2v")[0].artifact_uri).removeprefix(f"{run.uri}/")
    run.write(victim, run.read(victim)[:-1])
    capsys.readouterr()
    assert run_command(["verify", run.uri, "--json"]) == 1
    assert victim in json.dumps(json.loads(capsys.readouterr().out))


def test_drivers_that_start_at_the_same_instant(s3: Any, tmp_path: Path) -> None:
    """rclone has no conditional creation, so this is the fallback: at most one goes on."""
    from magicvideo_core.manifest.session import open_session

    storage = Storage(s3.uri(f"{tmp_path.name}/run"))
    both_ready = threading.Barrier(2)
    opened, refused = [], []

    def drive() -> None:
        both_ready.wait()
        try:
            opened.append(open_session(storage, on_lost=print))
        except RunError as error:
            refused.append(error)

    drivers = [threading.Thread(target=drive) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    for session in opened:
        session.close()
    assert (len(opened), len(refused)) == (1, 1), refused
