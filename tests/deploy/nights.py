"""What a deployed pipeline goes through, step by step: nights, what fails, what is cancelled, datasets, a training.

Each step does one thing as a person or a schedule would, asserts what has to hold, and returns a sentence of what was seen.
"""

import json
import os
import signal
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from deploy.deployed import Deployed, wait_until
from PIL import Image
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from flows.cli import run_command
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.prompt_files import PromptFiles
from magicvideo_core.storage import Storage


@dataclass(frozen=True)
class Site:
    """A deployed pipeline of fake stages: where its inbox, runs and datasets lie, and a folder of this machine for the rest."""

    deployed: Deployed
    place: Storage
    folder: Path

    @property
    def hold_file(self) -> Path:
        """While it exists, the stage i2v finishes nothing."""
        return self.folder / "hold"

    def run_of(self, prompts: str) -> Storage:
        """Return the run of a prompt file, whether or not it is there."""
        return Storage(self.place.join("runs", f"nightly-{PromptFiles(self.place.join(prompts)).hash()}"))


def environment_of(place: Storage, config_file: Path, folder: Path, ray_address: str) -> dict[str, str]:
    """Return what server, worker and deploy.py go by."""
    return {
        "RAY_ADDRESS": ray_address,
        "MAGICVIDEO_INBOX": place.join("inbox"),
        "MAGICVIDEO_OUTPUT": place.join("runs"),
        "MAGICVIDEO_DATASETS": place.join("datasets"),
        "MAGICVIDEO_FAMILY": str(folder / "family"),
        "MAGICVIDEO_CONFIG": str(config_file),
    }


def write_config(folder: Path, overrides: Sequence[str]) -> Path:
    """Write the fake configuration as a TOML file, dotted keys and all."""
    lines = [override.partition("=") for override in (*overrides, f"i2v.fake.hold_file={folder / 'hold'}")]
    text = "".join(f"{key} = {value if _is_number(value) else json.dumps(value)}\n" for key, _, value in lines)
    (folder / "fake.toml").write_text(text)
    return folder / "fake.toml"


# 1. Nights and what fails


def first_night(site: Site) -> str:
    """The first night makes what is there, as the command line makes it."""
    site.place.write("inbox/one.txt", b"one\ntwo\nthree\n")
    assert site.deployed.run("nightly/nightly").state_name == "Completed"
    output = site.folder / "by-hand"
    _generate(site, "inbox/one.txt", str(output), "one")
    by_deployment, by_hand = hashes(site.run_of("inbox/one.txt")), hashes(Storage(output / "one"))
    assert by_deployment == by_hand
    return f"{len(by_deployment)} artifacts, the hashes of all equal to those of `magicvideo generate`"


def first_night_by_hand(site: Site) -> str:
    """What the first night would make is there already, from the command line: the shorter way to the second night."""
    site.place.write("inbox/one.txt", b"one\ntwo\nthree\n")
    run = site.run_of("inbox/one.txt")
    _generate(site, "inbox/one.txt", site.place.join("runs"), run.uri.rpartition("/")[2])
    return f"{len(hashes(run))} artifacts"


def second_night_with_a_failure(site: Site) -> str:
    """The second night finds only the new content, of which a clip fails, for its image is missing; no retry starts yet.

    A prompt of the first run stands there too, and has the same bytes again.
    """
    site.place.write("inbox/again.txt", site.place.read("inbox/one.txt"))
    rows = [{"prompt": "four"}, {"prompt": "five", "image": site.place.join("five.png")}, {"prompt": "one"}]
    site.place.write("inbox/two.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    first, before = site.run_of("inbox/one.txt"), rows_of(site.run_of("inbox/one.txt"))
    started = site.deployed.start("nightly/nightly")
    wait_until(lambda: site.deployed.client.read_flow_run(started).start_time is not None, 120)
    site.deployed.pause(paused=True)
    night = site.deployed.wait(started)
    assert night.state_name == "Failed"
    message = str(night.state and night.state.message)
    assert "1 finished before; 1 with clips that did not succeed" in message
    second = site.run_of("inbox/two.jsonl")
    assert _run_uris(site) == {run.uri for run in (first, second)}
    assert statuses(second)["t2i"] == {"succeeded": 2, "failed": 1}
    assert rows_of(first) == before
    made, again = ({(row[0], row[1]): row[4] for row in rows_of(run) if row[4]} for run in (first, second))
    shared = made.keys() & again.keys()
    assert len(shared) == len(STAGES) and all(made[key] == again[key] for key in shared)
    return f"Failed: {message.splitlines()[0]}"


def retry_by_automation(site: Site) -> str:
    """The automation retries what failed, and with the image there it succeeds."""
    before = rows_of(site.run_of("inbox/one.txt"))
    site.place.write("five.png", _png())
    site.deployed.pause(paused=False)
    assert _retry_number(site, 0).state_name == "Completed"
    assert statuses(site.run_of("inbox/two.jsonl")) == {stage: {"succeeded": 3} for stage in STAGES}
    assert rows_of(site.run_of("inbox/one.txt")) == before
    return "retry-failed ran by itself; 3 of 3 clips succeeded, the other run is as it was"


def schedules_and_automation(site: Site) -> str:
    """The server has the schedules and the automation that the deployment file promises, and they are on."""
    client = site.deployed.client
    crons = {}
    for name in ("nightly/nightly", "retry-failed/retry-failed", "dataset/dataset"):
        (schedule,) = client.read_deployment_by_name(name).schedules
        assert schedule.active and schedule.schedule.timezone == "Etc/UTC"
        crons[name.partition("/")[0]] = schedule.schedule.cron
    assert crons == {"nightly": "0 20 * * *", "retry-failed": "0 6 * * *", "dataset": "0 12 * * SUN"}
    (automation,) = client.request("POST", "/automations/filter", json={}).json()
    assert automation["enabled"] and automation["trigger"]["match_related"]["prefect.resource.name"] == "nightly"
    return f"cron {', '.join(f'{name} {cron}' for name, cron in crons.items())}; the automation is on"


# 2. What is ended from outside


def cancelled_night(site: Site) -> str:
    """A night that is cancelled gives its actors and its run back; the one that waited behind it goes on."""
    third, cancelled, waiting = _held_night(site, "inbox/three.txt", b"six\nseven\n")
    busy = busy_cpus()
    assert busy > 0
    assert site.deployed.client.read_flow_run(waiting).start_time is None
    site.deployed.pause(paused=True)
    ended = site.deployed.cancel(cancelled)
    assert ended.state_name == "Cancelled"
    assert [record.ended_at is not None for record in read_sessions(third)] == [True]
    wait_until(lambda: busy_cpus() == 0, 30)
    done = {row for row in rows_of(third) if row[0] == "t2i"}
    site.hold_file.unlink()
    site.deployed.pause(paused=False)
    after = site.deployed.wait(waiting)
    assert after.state_name == "Completed"
    assert after.start_time and ended.end_time and after.start_time >= ended.end_time, "two nights overlapped"
    assert statuses(third) == {stage: {"succeeded": 2} for stage in STAGES}
    assert done and done <= rows_of(third), "what was done was made again"
    return f"{busy:g} CPUs held by actors, 0 after; the night behind it began after its end and finished the run"


def killed_night(site: Site) -> str:
    """A night whose driver is killed is Crashed, and the automation's retry takes the run over."""
    retries = len(site.deployed.runs_of("retry-failed/retry-failed"))
    run, killed, _ = _held_night(site, "inbox/four.txt", b"eight\nnine\n", nights=1)
    os.kill(_driver_of(killed), signal.SIGKILL)
    night = site.deployed.wait(killed)
    assert night.state_name == "Crashed"
    site.hold_file.unlink()
    assert _retry_number(site, retries).state_name == "Completed"
    assert statuses(run) == {stage: {"succeeded": 2} for stage in STAGES}
    wait_until(lambda: busy_cpus() == 0, 30)
    return "Crashed; retry-failed ran by itself, took the run over and finished it"


# 3. What comes of runs, and what is started by hand


def dataset_of_all(site: Site, num_clips: int) -> str:
    """The dataset has every clip once."""
    built = site.deployed.run("dataset/dataset")
    assert built.state_name == "Completed", built.state
    message = str(built.state and built.state.message)
    num_runs = len(_run_uris(site))
    assert f"{num_clips} samples of {num_runs} runs" in message
    assert len([name for name in _names_in_tars(site.place) if name.endswith(".mp4")]) == num_clips
    return f"{num_clips} samples of {num_runs} runs, {num_clips} videos in the tar shards"


def dataset_again(site: Site) -> str:
    """The same deployment again writes nothing, for nothing is new."""
    before = {key: site.place.read(key) for key in site.place.list("datasets")}
    assert site.deployed.run("dataset/dataset").state_name == "Completed"
    assert {key: site.place.read(key) for key in site.place.list("datasets")} == before
    return f"{len(before)} objects, none written again"


def parameters_are_checked(site: Site) -> str:
    """Prefect's server refuses what the flow would not take, before a run exists."""
    wrong = [
        ("generate/generate", {"prompts": ""}),
        ("generate/generate", {"prompts": "x.txt", "run_id": "../x"}),
        ("generate/generate", {"prompts": "x.txt", "shard_size": 0}),
        ("nightly/nightly", {"preset": "large"}),
        ("dataset/dataset", {"splits": 3}),
        ("train/train", {"module": "gan"}),
    ]
    for deployment, parameters in wrong:
        before = len(site.deployed.runs_of(deployment))
        with pytest.raises(PrefectHTTPStatusError):
            site.deployed.start(deployment, **parameters)
        assert len(site.deployed.runs_of(deployment)) == before
    return f"{len(wrong)} of {len(wrong)} wrong requests refused"


def generate_by_hand(site: Site) -> str:
    """The deployments `generate` and `retry` do as their commands do."""
    site.place.write("tonight.jsonl", b'{"prompt": "ten", "seed": 3}\n{"prompt": "eleven"}\n')
    prompts = site.place.join("tonight.jsonl")
    made = site.deployed.run("generate/generate", prompts=prompts, run_id="tonight", stages="t2i,i2v")
    assert made.state_name == "Completed", made.state
    run = Storage(site.place.join("runs", "tonight"))
    assert statuses(run) == {"t2i": {"succeeded": 2}, "i2v": {"succeeded": 2}, "v2v": {}, "vfi": {}}
    again = site.deployed.run("retry/retry", run_uri=run.uri)
    assert again.state_name == "Completed", again.state
    return "a run of two stages by hand; a retry found nothing to do"


def training(site: Site) -> str:
    """The training deployment trains, and again leaves what is finished as it is."""
    options = {"steps": 2, "threads": 1}
    assert site.deployed.run("train/train", module="vae", options=options).state_name == "Completed"
    family = site.folder / "family"
    before = {path.name: path.stat().st_mtime_ns for path in family.rglob("*.safetensors")}
    assert before
    assert site.deployed.run("train/train", module="vae", options=options).state_name == "Completed"
    assert {path.name: path.stat().st_mtime_ns for path in family.rglob("*.safetensors")} == before
    return "2 steps of the autoencoder; the same again trained nothing"


# 4. What the steps look at, and what they do


def _generate(site: Site, prompts: str, output: str, run_id: str) -> None:
    words = ["generate", site.place.join(prompts), "--config", str(site.folder / "fake.toml")]
    assert run_command([*words, "--output", output, "--run-id", run_id]) == 0


def statuses(run: Storage) -> dict[str, dict[str, int]]:
    """Return how many clips have which status, by stage."""
    rows = read_manifests(run)
    return {stage: dict(Counter(row.status for row in rows if row.stage == stage)) for stage in STAGES}


def rows_of(run: Storage) -> set[tuple[str, str, int, str, str | None]]:
    """Return stage, clip, attempt, status and hash of every row."""
    return {(row.stage, row.clip_id, row.attempt, row.status, row.sha256) for row in read_manifests(run)}


def hashes(run: Storage) -> dict[tuple[str, str], str | None]:
    """Return the hash of every artifact of a run in which all succeeded."""
    rows = read_manifests(run)
    assert all(row.status == "succeeded" for row in rows)
    return {(row.stage, row.clip_id): row.sha256 for row in rows}


def busy_cpus() -> float:
    """Return what actors hold of this process's Ray."""
    import ray

    return float(ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0))


def _held_night(site: Site, prompts: str, text: bytes, nights: int = 2) -> tuple[Storage, UUID, UUID]:
    """Start nights over a new file and wait until the first one is in the middle of it."""
    site.hold_file.touch()
    site.place.write(prompts, text)
    ids = [site.deployed.start("nightly/nightly") for _ in range(nights)]
    run = site.run_of(prompts)
    wait_until(lambda: bool(run.list("manifests/t2i")), 120)
    return run, ids[0], ids[-1]


def _driver_of(flow_run: UUID) -> int:
    """Return the process in which a worker runs a flow."""
    name = "PREFECT__FLOW_RUN_ID"
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == str(flow_run) and "prefect.engine" in process.cmdline():
                return process.pid
        except psutil.Error:
            continue
    raise AssertionError(f"no process runs {flow_run}")


def _retry_number(site: Site, number: int) -> FlowRun:
    """Wait for the run of `retry-failed` with that number, counted from 0, and until it has ended."""
    deployment = "retry-failed/retry-failed"
    wait_until(lambda: len(site.deployed.runs_of(deployment)) > number, 60)
    return site.deployed.wait(site.deployed.runs_of(deployment)[number].id)


def _run_uris(site: Site) -> set[str]:
    return {site.place.join("runs", key.split("/")[1]) for key in site.place.list("runs")}


def _names_in_tars(place: Storage) -> list[str]:
    names = []
    for key in place.list("datasets"):
        if key.endswith(".tar"):
            with tarfile.open(fileobj=BytesIO(place.read(key))) as tar:
                names += tar.getnames()
    return names


def _png() -> bytes:
    picture = BytesIO()
    Image.new("RGB", (64, 64), "orange").save(picture, "PNG")
    return picture.getvalue()


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
