"""deployments/ for real, on a Prefect server, a process worker, S3 and Ray: nights, a retry by automation, a cancel."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from deploy.deployed import Deployed, wait_until
from PIL import Image

from flows.cli import run_command
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.prompt_files import PromptFiles
from magicvideo_core.storage import Storage

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]
STAGES = ("t2i", "i2v", "v2v", "vfi")


@pytest.fixture
def place(s3: Any, tmp_path: Path) -> Storage:
    """The bucket's folder of this test."""
    return Storage(s3.uri(tmp_path.name))


@pytest.fixture
def hold_file(tmp_path: Path) -> Path:
    """While it exists, the stage i2v finishes nothing."""
    return tmp_path / "hold"


@pytest.fixture
def config_file(tmp_path: Path, fake_overrides: tuple[str, ...], hold_file: Path) -> Path:
    """The fake configuration as a TOML file, dotted keys and all."""
    lines = [override.partition("=") for override in (*fake_overrides, f"i2v.fake.hold_file={hold_file}")]
    text = "".join(f"{key} = {value if _is_number(value) else json.dumps(value)}\n" for key, _, value in lines)
    (tmp_path / "fake.toml").write_text(text)
    return tmp_path / "fake.toml"


@pytest.fixture
def deployed(place: Storage, config_file: Path, local_ray: None, tmp_path: Path) -> Iterator[Deployed]:
    """Everything that `deployments/` stands on, deployed."""
    import ray

    environment = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "MAGICVIDEO_INBOX": place.join("inbox"),
        "MAGICVIDEO_OUTPUT": place.join("runs"),
        "MAGICVIDEO_DATASETS": place.join("datasets"),
        "MAGICVIDEO_CONFIG": str(config_file),
    }
    with Deployed(tmp_path, environment) as deployed:
        yield deployed


def test_nights_a_failure_that_is_mended_a_cancelled_night_and_a_dataset(
    deployed: Deployed, place: Storage, config_file: Path, hold_file: Path, tmp_path: Path
) -> None:
    # 1. The first night makes what is there; as the command line makes it.
    place.write("inbox/one.txt", b"one\ntwo\nthree\n")
    assert deployed.run("nightly/nightly").state_name == "Completed"
    first = run_of(place, "inbox/one.txt")
    assert hashes(first) == hashes_of_command_line(place.join("inbox/one.txt"), config_file, tmp_path)

    # 2. The second one finds only the new content, of which one clip fails, for its image is missing.
    before = read_manifests(first)
    place.write("inbox/again.txt", place.read("inbox/one.txt"))
    rows = [{"prompt": "four"}, {"prompt": "five", "image": place.join("five.png")}]
    place.write("inbox/two.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    second_night = deployed.start("nightly/nightly")
    wait_until(lambda: deployed.client.read_flow_run(second_night).start_time is not None, 120)
    deployed.pause(paused=True)
    ended = deployed.wait(second_night)
    assert ended.state_name == "Failed"
    assert "1 finished before; 1 with clips that did not succeed" in str(ended.state and ended.state.message)
    second = run_of(place, "inbox/two.jsonl")
    assert run_ids(place) == {run.uri for run in (first, second)}
    assert statuses(second)["t2i"] == {"succeeded": 1, "failed": 1}
    assert read_manifests(first) == before

    # 3. The automation retries it, and with the image there it succeeds.
    place.write("five.png", png())
    deployed.pause(paused=False)
    wait_until(lambda: bool(deployed.runs_of("retry-failed/retry-failed")), 60)
    retried = deployed.wait(deployed.runs_of("retry-failed/retry-failed")[0].id)
    assert retried.state_name == "Completed"
    assert statuses(second) == {stage: {"succeeded": 2} for stage in STAGES}
    assert read_manifests(first) == before

    # 4. A night that is cancelled gives its actors and its run back; the one that waited behind it goes on.
    hold_file.touch()
    place.write("inbox/three.txt", b"six\nseven\n")
    cancelled, waiting = deployed.start("nightly/nightly"), deployed.start("nightly/nightly")
    third = run_of(place, "inbox/three.txt")
    wait_until(lambda: bool(third.list("manifests/t2i")), 120)
    assert busy_cpus() > 0
    assert deployed.client.read_flow_run(waiting).start_time is None
    assert deployed.cancel(cancelled).state_name == "Cancelled"
    assert [record.ended_at is not None for record in read_sessions(third)] == [True]
    hold_file.unlink()
    assert deployed.wait(waiting).state_name == "Completed"
    assert statuses(third) == {stage: {"succeeded": 2} for stage in STAGES}
    wait_until(lambda: busy_cpus() == 0, 30)

    # 5. The dataset has every clip once.
    built = deployed.run("dataset/dataset")
    assert built.state_name == "Completed", built.state
    assert "7 samples of 3 runs" in str(built.state and built.state.message)
    assert len([name for name in names_in_tars(place) if name.endswith(".mp4")]) == 7


def run_of(place: Storage, prompts: str) -> Storage:
    """Return the run of a prompt file, whether or not it is there."""
    return Storage(place.join("runs", f"nightly-{PromptFiles(place.join(prompts)).hash()}"))


def run_ids(place: Storage) -> set[str]:
    return {place.join("runs", key.split("/")[1]) for key in place.list("runs")}


def statuses(run: Storage) -> dict[str, dict[str, int]]:
    """Return how many clips have which status, by stage."""
    rows = read_manifests(run)
    return {stage: dict(Counter(row.status for row in rows if row.stage == stage)) for stage in STAGES}


def hashes(run: Storage) -> dict[tuple[str, str], str | None]:
    def is_done(row: ManifestRow) -> bool:
        return row.status == "succeeded"

    rows = read_manifests(run)
    assert all(map(is_done, rows))
    return {(row.stage, row.clip_id): row.sha256 for row in rows}


def hashes_of_command_line(prompts: str, config_file: Path, folder: Path) -> dict[tuple[str, str], str | None]:
    words = ["generate", prompts, "--config", str(config_file), "--output", str(folder), "--run-id", "by-hand"]
    assert run_command(words) == 0
    return hashes(Storage(folder / "by-hand"))


def names_in_tars(place: Storage) -> list[str]:
    names = []
    for key in place.list("datasets"):
        if key.endswith(".tar"):
            with tarfile.open(fileobj=BytesIO(place.read(key))) as tar:
                names += tar.getnames()
    return names


def busy_cpus() -> float:
    """Return what actors hold of the session's Ray."""
    import ray

    return float(ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0))


def png() -> bytes:
    picture = BytesIO()
    Image.new("RGB", (64, 64), "orange").save(picture, "PNG")
    return picture.getvalue()


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
